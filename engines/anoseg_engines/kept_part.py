"""Reads the file of a part that a station kept as evidence, as far as an inspection needs it. Pure functions.

The file is an uncompressed ZIP archive with the picture, the part's region and the verdict. The daemon writes it
(`anosegd.evidence`). Its directory comes last and has a checksum for each entry, so that a file which a power failure has cut
is recognised.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import other_than_file
from anoseg_engines.placement import Region

ABOUT = "evidence.json"
PICTURES = ("picture.png", "picture.jpg")
SUFFIX = ".zip"
MAX_ENTRY_BYTES = 1 << 30


class _About(msgspec.Struct):
    """What is read of the entry `evidence.json`."""

    region: Region


def read_picture(path: Path) -> tuple[bytes, Region]:
    """Return a part's picture as PNG or JPEG, and the part's region in it.

    Raises:
        DataError: The file cannot be read, or is not a whole file of a part.
    """
    entries = read_entries(path, (ABOUT, *PICTURES))
    picture = next((entries[name] for name in PICTURES if name in entries), None)
    if picture is None or ABOUT not in entries:
        raise DataError(not_whole(path))
    try:
        return picture, msgspec.json.decode(entries[ABOUT], type=_About).region
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(not_whole(path)) from error


def read_entries(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the entries of these names that the file has. Reading them compares their checksums.

    Raises:
        DataError: As `read_picture`.
    """
    if (kind := other_than_file(path)) is not None:  # to read a pipe could take for ever
        raise DataError(f"{shown_name(path)}: is {kind}, not the file of a part")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename in names]
            if any(info.file_size > MAX_ENTRY_BYTES or info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise DataError(not_whole(path))
            return {info.filename: archive.read(info) for info in infos}
    except OSError as error:
        raise DataError(f"{shown_name(path)}: cannot be read ({error.strerror})") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        # RuntimeError: encrypted. NotImplementedError: a feature of ZIP that Python does not read, so not a file of ours.
        raise DataError(not_whole(path)) from error


def not_whole(path: Path) -> str:
    """Say that a file is not what it should be."""
    return f"{shown_name(path)}: is not a whole file of a part"
