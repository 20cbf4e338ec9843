"""Finds the images that are to be inspected again: those of a folder, or those that a list names. Main thread."""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import IMAGE_SUFFIXES, TEXT_SUFFIXES
from anoseg_engines.permissions import ENTER_AS, looking
from anoseg_engines.words import agreeing, counted

MAX_LINE_BYTES = 1 << 20
LISTS = "a list is a text file with one path a line, or what `anosegd evidence list --json` prints"


class ListedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image, and what its list says about it.

    Attributes:
        path: Absolute, as the system names it: bytes that are not UTF-8 are surrogates.
        part_id, camera, captured_at, journal_id, seq: Of the part's verdict; None if the list does not say it.
        earlier_outcome, earlier_reason: What the station published.
    """

    path: str
    part_id: str | None = None
    camera: str | None = None
    captured_at: str | None = None
    journal_id: str | None = None
    seq: int | None = None
    earlier_outcome: str | None = None
    earlier_reason: str | None = None


@dataclass(frozen=True, slots=True)
class ImageList:
    """The images, in the order in which they are inspected.

    Attributes:
        source: The folder or the list.
        notes: What was left out, for the user.
    """

    source: Path
    images: tuple[ListedImage, ...]
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 of all that is known about the images."""
        found = hashlib.sha256()
        for image in self.images:
            found.update(repr(msgspec.structs.astuple(image)).encode("utf-8", "surrogateescape"))
        return found.hexdigest()


class _Verdict(msgspec.Struct, frozen=True):
    """What is read of a verdict."""

    part_id: str | None = None
    camera: str | None = None
    captured_at: str | None = None
    journal_id: str | None = None
    seq: int | None = None
    outcome: str | None = None
    reason: str | None = None


class _Line(msgspec.Struct):
    """A JSON line of a list."""

    file: str
    verdict: _Verdict = _Verdict()


@looking(DataError, hint=ENTER_AS)
def find_images(source: Path) -> ImageList:
    """Find the images of a folder and the folders below it, or read a list.

    Raises:
        DataError: The folder or list cannot be read, a line of the list is damaged, or there are no images.
    """
    return _of_folder(source) if source.is_dir() else _of_list(source)


def _of_folder(folder: Path) -> ImageList:
    def refuse(error: OSError) -> None:
        where = shown_name(error.filename or folder)
        raise DataError(f"{where}: cannot be listed ({error.strerror})", hint="give the right to read it") from error

    paths: list[Path] = []
    others: list[Path] = []
    links: list[Path] = []
    for where, folders, files in os.walk(_absolute(str(folder)), onerror=refuse):
        folders.sort()
        links += [path for name in folders if (path := Path(where, name)).is_symlink()]
        for path in (Path(where, name) for name in sorted(files)):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                paths.append(path)
            elif not path.name.startswith(".") and path.suffix.lower() not in TEXT_SUFFIXES:
                others.append(path)
    notes = []
    if others:
        are = agreeing(len(others), "is not named like an image and is", "are not named like images and are")
        notes.append(f"{counted(len(others), 'file')} {are} left out, for example {shown_name(others[0])}")
    if links:
        are = agreeing(len(links), "is", "are")
        notes.append(f"{counted(len(links), 'linked folder')} {are} left out, for example {shown_name(links[0])}")
    if not paths:
        parts = any(path.suffix == ".zip" for path in others)
        hint = "for the parts that a station kept, give a list: anosegd evidence list CONFIG --json > parts.jsonl"
        raise DataError(f"{shown_name(folder)}: no images in this folder or below it", hint=hint if parts else "")
    return ImageList(folder, tuple(ListedImage(path=str(path)) for path in paths), tuple(notes))


def _of_list(path: Path) -> ImageList:
    found: dict[str, ListedImage] = {}
    again = 0
    for number, line in _lines(path):
        image = _listed(line, f"{shown_name(path)}:{number}")
        again += image.path in found
        found.setdefault(image.path, image)
    if not found:
        raise DataError(f"{shown_name(path)}: the list names no images", hint=LISTS)
    repeats = f"{counted(again, 'line')} {agreeing(again, 'names', 'name')} an image that an earlier line names"
    return ImageList(path, tuple(found.values()), (f"{repeats}: left out",) if again else ())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty, with their numbers."""
    if path.exists() and not path.is_file():
        raise DataError(f"{shown_name(path)}: is neither a folder nor a list", hint=LISTS)
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if b"\0" in line or len(line) == MAX_LINE_BYTES:
                    what = "is an image, not a list" if path.suffix.lower() in IMAGE_SUFFIXES else "is not a text file"
                    raise DataError(f"{shown_name(path)}: {what}", hint=f"give a folder of images, or a list; {LISTS}")
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)  # programs of Windows begin a text file with it
                if text := line.strip():
                    yield number, text
    except OSError as error:
        what = "no such folder or list" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(f"{shown_name(path)}: {what}", hint="give a folder of images, or a list of them") from error


def _listed(line: bytes, place: str) -> ListedImage:
    """Return the image that a line names. Its path is relative to the current folder."""
    if not line.startswith(b"{"):
        return ListedImage(path=_absolute(os.fsdecode(line)))
    try:
        found = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{place}: {error}", hint=LISTS) from error
    verdict = found.verdict
    return ListedImage(
        path=_absolute(found.file),
        part_id=verdict.part_id,
        camera=verdict.camera,
        captured_at=verdict.captured_at,
        journal_id=verdict.journal_id,
        seq=verdict.seq,
        earlier_outcome=verdict.outcome,
        earlier_reason=verdict.reason,
    )


def _absolute(path: str) -> str:
    """Return a path from the root, without following links: rows name the file as the user did."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links
