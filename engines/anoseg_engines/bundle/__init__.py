"""Describes the engine bundle (`manifest`), and finds and verifies bundles (`read`). `bundle_writer.py` writes them."""

from anoseg_engines.bundle.manifest import (
    NAME,
    Calibration,
    GoldenImage,
    GoldenTolerance,
    Manifest,
    RuleCalibration,
    Sha256,
    canonical_bytes,
    manifest_schema,
    sealed,
)
from anoseg_engines.bundle.read import MANIFEST, MODEL, PLANS, Bundle, GoldenSample, find_bundle, load_bundle, versions

__all__ = [
    "MANIFEST",
    "MODEL",
    "NAME",
    "PLANS",
    "Bundle",
    "Calibration",
    "GoldenImage",
    "GoldenSample",
    "GoldenTolerance",
    "Manifest",
    "RuleCalibration",
    "Sha256",
    "canonical_bytes",
    "find_bundle",
    "load_bundle",
    "manifest_schema",
    "sealed",
    "versions",
]
