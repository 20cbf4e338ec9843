"""Reads and writes the file of one part: an uncompressed ZIP archive with the pictures and the verdict. Pure functions.

A ZIP archive, because every system opens one, so that a part can be carried to another network. It is uncompressed, because
pictures are compressed already. Its directory comes last and has a checksum for each entry, so that a file which a power
failure has cut is recognised.

| entry | content |
|---|---|
| verdict.json | the verdict as it was published |
| picture.png or picture.jpg | the whole picture as the camera gave it, after its rotation |
| map.png | the anomaly map as in the topic `mask.<camera>`; missing if the part was not inspected |
| evidence.json | the part's region in the picture, and the header of the map |
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from anoseg_engines.errors import DataError
from anoseg_engines.kept_part import ABOUT, PICTURES, not_whole, read_entries
from anoseg_engines.placement import Region
from anosegd import wire

VERDICT, MAP = "verdict.json", "map.png"
EARLIEST_YEAR = 1980
"""ZIP archives know no earlier time."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """Describes the pictures of a kept part; the entry `evidence.json`.

    Attributes:
        region: The part's place in the picture.
        mask: The header of the map, as published; None without a map.
    """

    schema: Literal["anoseg.evidence/1"] = "anoseg.evidence/1"
    region: Region
    mask: wire.Mask | None = None


@dataclass(frozen=True, slots=True)
class KeptPart:
    """What the file of a part holds.

    Attributes:
        verdict: The verdict's header as published.
        region: The part's place in the picture.
        picture: PNG or JPEG, see `picture_type`.
        picture_type: `png` or `jpeg`.
        map_png: The anomaly map of the region; None if the part was not inspected.
        mask: The header of the map, as in the topic `mask.<camera>`; None without a map.
    """

    verdict: dict[str, Any]
    region: Region
    picture: bytes
    picture_type: Literal["png", "jpeg"]
    map_png: bytes | None
    mask: wire.Mask | None


def packed(*, verdict: bytes, about: About, picture: bytes, picture_type: str, map_png: bytes | None) -> bytes:
    """Return the content of a part's file.

    Args:
        verdict: The verdict's header as published, JSON.
        about: Describes the pictures.
        picture: The camera's picture.
        picture_type: `png` or `jpeg`.
        map_png: The anomaly map, or None if the part was not inspected.
    """
    entries = [
        (VERDICT, verdict),
        (ABOUT, wire.encode(about)),
        (PICTURES[picture_type == "jpeg"], picture),
    ]
    if map_png is not None:
        entries.append((MAP, map_png))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name, _time_of(verdict)), data)
    return file.getvalue()


def read_verdict(path: Path) -> dict[str, Any]:
    """Return the verdict in a part's file. Reads no picture.

    Raises:
        DataError: The file cannot be read, or is not a whole file of a part.
    """
    return _verdict(read_entries(path, (VERDICT,)), path)


def read_part(path: Path) -> KeptPart:
    """Return what a part's file holds.

    Raises:
        DataError: The file cannot be read, or is not a whole file of a part.
    """
    entries = read_entries(path, (VERDICT, ABOUT, MAP, *PICTURES))
    picture = next((name for name in PICTURES if name in entries), None)
    if picture is None or ABOUT not in entries:
        raise DataError(not_whole(path))
    try:
        about = msgspec.json.decode(entries[ABOUT], type=About)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(not_whole(path)) from error
    return KeptPart(
        verdict=_verdict(entries, path),
        region=about.region,
        picture=entries[picture],
        picture_type="png" if picture == PICTURES[0] else "jpeg",
        map_png=entries.get(MAP),
        mask=about.mask,
    )


def _verdict(entries: dict[str, bytes], path: Path) -> dict[str, Any]:
    try:
        verdict = json.loads(entries[VERDICT])
        if isinstance(verdict, dict) and isinstance(verdict["part_id"], str) and isinstance(verdict["committed_at"], str):
            return verdict
    except (KeyError, ValueError, RecursionError):
        pass
    raise DataError(not_whole(path))


def _time_of(verdict: bytes) -> tuple[int, int, int, int, int, int]:
    at = msgspec.json.decode(verdict, type=_Committed).committed_at
    year, month, day = (int(text) for text in at[:10].split("-"))
    hour, minute, second = (int(text) for text in at[11:19].split(":"))
    return (year, month, day, hour, minute, second) if year >= EARLIEST_YEAR else (EARLIEST_YEAR, 1, 1, 0, 0, 0)


class _Committed(msgspec.Struct):
    committed_at: str
