"""Defines the bundle's manifest: what a reader needs, and the SHA-256 of every other file. Pure data."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from anoseg_engines.placement import InputSpec

SCHEMA_VERSION = 4
"""The newest schema version that this program reads."""
MANIFEST = "manifest.json"
NOT_PROMISED = "nothing is promised about false rejects"
"""How every guarantee begins that promises nothing."""
INT8 = "int8"
"""The precision of the second network that a bundle may have."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How `score_threshold` was found, and what it guarantees.

    Attributes:
        n_images: Number of held-out good images.
        false_reject_target: The share of good parts that may be rejected, as requested.
        guarantee: The guarantee in words, with its assumption.
    """

    method: str
    n_images: Annotated[int, Meta(ge=0)]
    false_reject_target: Probability
    guarantee: str

    @property
    def promises(self) -> bool:
        """Whether anything is promised about the share of good parts that are rejected."""
        return not self.guarantee.startswith(NOT_PROMISED)


class RuleCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many good parts one camera's region rules reject, with this bundle's network and pixel threshold.

    A bundle has at most one for the same rules and the same size of the frames.

    Attributes:
        digest: Identifies the rules, see `rules.rules_digest`.
        width, height: Size of the rotated frames. In frames of another size the rules cover other places.
        n_images: Number of good images.
        rejected: How many of these good images were rejected.
        guaranteed: The upper bound, with 95 % confidence, of the share of good parts that is rejected.
        false_reject_target: The share of good parts that may be rejected, as requested.
        held_out: False if the network was trained on the images. Such images show little about other parts.
        guarantee: The guarantee in words.
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

    @property
    def measured_for(self) -> tuple[str, int, int]:
        """What it holds for: the rules' digest, and the frames' width and height."""
        return self.digest, self.width, self.height


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says what wrote a bundle. A bundle with an origin is a candidate until it is released (`releases.py`).

    Attributes:
        command: The command that wrote it; `calibrate-rules` is `calibrate --config`.
        parent_version, parent_digest: The version that this one was made from; None after a training.
    """

    command: Literal["fit", "calibrate", "calibrate-rules", "learn-good"]
    parent_version: Annotated[int, Meta(ge=1)] | None = None
    parent_digest: Sha256 | None = None


class GoldenImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A golden image: the part's image, and the map (16-bit PNG, value / 65535) and score of the trainer's FP32 network."""

    image: str
    anomaly_map: str
    score: float
    verdict: Literal["PASS", "FAIL"]


class GoldenTolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The largest absolute differences from the recorded FP32 maps and scores, which are 0…1.

    Attributes:
        margin: The least distance of a golden image's score from the score threshold.
    """

    map_mean: float = 0.01
    map_p999: float = 0.05
    score: float = 0.01
    margin: float = 0.05


class Int8Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Map (as of a golden image) and score of the INT8 network, from the CPU runtime on which the trainer measured it.

    PyTorch's results would not do: where two runtimes round one integer differently, all that follows differs a little.
    """

    anomaly_map: str
    score: float


INT8_TOLERANCE = GoldenTolerance(map_p999=0.1, score=0.03)
"""The largest differences of an INT8 network from its golden maps and scores, which its self-test allows."""


class Int8Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A second network of the bundle, whose convolutions compute in INT8. Its verdicts on the golden images are the same.

    Attributes:
        golden: For each golden image of the bundle, in order.
        golden_tolerance: The largest differences from `golden`.
        image_auroc: Image AUROC on held-out images and synthetic defects.
        image_auroc_of_first: The same of the bundle's first network.
    """

    golden: Annotated[list[Int8Golden], Meta(min_length=1)]
    golden_tolerance: GoldenTolerance = INT8_TOLERANCE
    image_auroc: float
    image_auroc_of_first: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Contents of manifest.json.

    Attributes:
        schema_version: 4 if there is an INT8 network, else 3 if the input says how it shrinks, else 2 if there is an origin,
            else 1. So an older program reads what it can understand, and says of the rest that it is too old.
        origin: What wrote the bundle. Omitted in bundles from before there were candidates.
        score: How the part's score is defined.
        score_threshold: A part with this score or more is FAIL.
        pixel_threshold: A pixel with this map value or more belongs to a defect.
        rules: A calibration for each set of region rules. The field is omitted if there are no calibrations. So the seals
            of older manifests, which do not have this field, stay valid.
        int8: The INT8 network; omitted if there is none.
        training: Configuration, seed, data fingerprint, source commit and versions.
        files: SHA-256 by path inside the bundle, of every file except manifest.json.
        seal: SHA-256 of `canonical_bytes` of this manifest with an empty seal. The seal reveals a changed threshold, as the
            other hashes reveal a changed file.
    """

    schema_version: Literal[1, 2, 3, 4] = 1
    product: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
    version: Annotated[int, Meta(ge=1)]
    created: str
    origin: Origin | UnsetType = UNSET
    input: InputSpec
    score: str
    score_threshold: Probability
    pixel_threshold: Probability
    calibration: Calibration
    rules: list[RuleCalibration] | UnsetType = UNSET
    golden: Annotated[list[GoldenImage], Meta(min_length=1)]
    golden_tolerance: GoldenTolerance = GoldenTolerance()
    int8: Int8Network | UnsetType = UNSET
    metrics: dict[str, Any] = {}
    training: dict[str, Any] = {}
    files: dict[str, Sha256]
    seal: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""

    def __post_init__(self) -> None:
        if self.int8 and len(self.int8.golden) != len(self.golden):
            raise ValueError("int8.golden: must have an entry for each golden image")


def canonical_bytes(manifest: Manifest) -> bytes:
    """Encode a manifest as it is written: indented JSON, fields in order, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def sealed(manifest: Manifest) -> Manifest:
    """Return `manifest` with the seal of its contents."""
    bare = msgspec.structs.replace(manifest, seal="")
    return msgspec.structs.replace(bare, seal=hashlib.sha256(canonical_bytes(bare)).hexdigest())


def manifest_schema() -> dict[str, Any]:
    """JSON Schema of manifest.json, generated from `Manifest`."""
    return msgspec.json.schema(Manifest)
