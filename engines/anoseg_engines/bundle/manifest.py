"""The bundle's manifest: what a reader needs to know, and the SHA-256 of every other file. Pure data."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from anoseg_engines.placement import InputSpec

SCHEMA_VERSION: Literal[1] = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How `score_threshold` was found, and what it promises.

    n_images: held-out good images. false_reject_target: the share of good parts that may be rejected, as asked for.
    guarantee: the promise in words, with its assumption.
    """

    method: str
    n_images: Annotated[int, Meta(ge=0)]
    false_reject_target: Probability
    guarantee: str


class RuleCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one camera's region rules cost, with this bundle's network and pixel threshold.

    digest: the rules, as `rules.rules_digest` tells them apart. width, height: of the frames, turned; with others the rules lie
    elsewhere. rejected: of n_images good images. guaranteed: the largest
    share of good parts that is rejected, with 95 % confidence. false_reject_target: the share that was asked for. held_out:
    false where the images are the training's own, which say little of other parts. guarantee: the promise in words.
    """

    digest: Sha256
    width: Annotated[int, Meta(ge=1)]
    height: Annotated[int, Meta(ge=1)]
    n_images: Annotated[int, Meta(ge=1)]
    rejected: Annotated[int, Meta(ge=0)]
    guaranteed: Probability
    false_reject_target: Probability
    held_out: bool
    guarantee: str


class GoldenImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One golden sample: the part's image, the map (16-bit PNG, value / 65535) and score of the trainer's FP32 network."""

    image: str
    anomaly_map: str
    score: float
    verdict: Literal["PASS", "FAIL"]


class GoldenTolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far maps and scores may be from the recorded FP32 ones (absolute; maps and scores lie in 0…1)."""

    map_mean: float = 0.01
    map_p999: float = 0.05
    score: float = 0.01
    margin: float = 0.05


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Contents of manifest.json.

    score: how the part's score is defined. score_threshold: part score ≥ it means FAIL. pixel_threshold: map value from
    which a pixel belongs to a defect. rules: what region rules cost, for each set of rules that was calibrated; left out where
    there is none, so that the seal of a manifest that never had any stays what it was. training: configuration, seed, data
    fingerprint, source commit, versions. files: path inside the bundle → SHA-256, every file but manifest.json. seal: SHA-256
    of this manifest with an empty seal, in the form `canonical_bytes` gives; so a changed threshold is noticed like a changed
    file.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    product: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[int, Meta(ge=1)]
    created: str
    input: InputSpec
    score: str
    score_threshold: Probability
    pixel_threshold: Probability
    calibration: Calibration
    rules: list[RuleCalibration] | UnsetType = UNSET
    golden: Annotated[list[GoldenImage], Meta(min_length=1)]
    golden_tolerance: GoldenTolerance = GoldenTolerance()
    metrics: dict[str, Any] = {}
    training: dict[str, Any] = {}
    files: dict[str, Sha256]
    seal: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""


def canonical_bytes(manifest: Manifest) -> bytes:
    """The one way a manifest is written: indented JSON, fields in order, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def sealed(manifest: Manifest) -> Manifest:
    """`manifest` with the seal that belongs to its contents."""
    bare = msgspec.structs.replace(manifest, seal="")
    return msgspec.structs.replace(bare, seal=hashlib.sha256(canonical_bytes(bare)).hexdigest())


def manifest_schema() -> dict[str, Any]:
    """JSON Schema of manifest.json, generated from `Manifest`."""
    return msgspec.json.schema(Manifest)
