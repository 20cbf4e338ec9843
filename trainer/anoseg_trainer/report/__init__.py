"""Writes the HTML reports of `fit`, `evaluate` and `ablate`, and the overlay images of `evaluate`.

`pipeline.py` writes the report of a training (`fit_report`), and `commands/evaluate.py` that of a bundle (`evaluation_report`)
and the overlays. `commands/ablate.py` builds its own report from `html` and `charts`.
"""
