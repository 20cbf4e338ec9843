"""Sphinx configuration of the documentation: `make docs` builds it into docs/_build, and a warning is an error."""

project = "AnoSeg Edge"
author = "The AnoSeg Edge authors"
copyright = "the AnoSeg Edge authors, Apache-2.0"  # Sphinx prints the sign

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_heading_anchors = 4  # links to headings: operating.md#exit-codes
myst_links_external_new_tab = False

html_theme = "furo"
html_title = "AnoSeg Edge"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
