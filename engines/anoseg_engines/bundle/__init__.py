"""Describes the engine bundle (`manifest`), finds and verifies bundles (`read`), and releases them (`releases`).

`bundle_writer.py` writes them.
"""

from anoseg_engines.bundle.manifest import (
    MANIFEST,
    NAME,
    NOT_PROMISED,
    Calibration,
    GoldenImage,
    GoldenTolerance,
    Manifest,
    Origin,
    RuleCalibration,
    Sha256,
    canonical_bytes,
    manifest_schema,
    sealed,
)
from anoseg_engines.bundle.read import (
    MODEL,
    PLANS,
    Bundle,
    GoldenSample,
    find_bundle,
    how_to_release,
    load_bundle,
    note_on_candidates,
    store_of,
)
from anoseg_engines.bundle.releases import (
    RELEASES,
    Release,
    next_version,
    read_releases,
    release_version,
    released_versions,
    versions,
)

__all__ = [
    "MANIFEST",
    "MODEL",
    "NAME",
    "NOT_PROMISED",
    "PLANS",
    "RELEASES",
    "Bundle",
    "Calibration",
    "GoldenImage",
    "GoldenSample",
    "GoldenTolerance",
    "Manifest",
    "Origin",
    "Release",
    "RuleCalibration",
    "Sha256",
    "canonical_bytes",
    "find_bundle",
    "how_to_release",
    "load_bundle",
    "manifest_schema",
    "next_version",
    "note_on_candidates",
    "read_releases",
    "release_version",
    "released_versions",
    "sealed",
    "store_of",
    "versions",
]
