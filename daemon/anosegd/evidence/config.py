"""Defines the settings of the evidence: which parts are kept, where and for how long. Pure data."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class EvidenceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where the evidence is kept and how much of it.

    Attributes:
        folder: One file for each kept part goes below it.
        format: How the camera's picture is stored: without loss, or smaller.
        jpeg_quality: Quality of `jpeg`.
        good_share: Share of the parts that pass which is kept, chosen at random.
        keep_days: Parts older than this are deleted.
        max_gb: The oldest parts are deleted when the files would exceed this size, in GiB.
        min_free: Share of the file system that the evidence leaves free.
    """

    folder: Annotated[str, Meta(min_length=1)]
    format: Literal["png", "jpeg"] = "png"
    jpeg_quality: Annotated[int, Meta(ge=1, le=100)] = 95
    good_share: Annotated[float, Meta(ge=0, le=1)] = 0.01
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    max_gb: Annotated[float, Meta(gt=0, le=1 << 20)] = 20.0
    min_free: Annotated[float, Meta(ge=0, lt=1)] = 0.1
