"""Copies kept parts into one archive, or their pictures into a data folder, for `anosegd evidence export`."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.files import shown_name
from anoseg_engines.placement import Region
from anoseg_engines.words import counted
from anosegd.evidence import EvidenceReader, KeptPart, PartName
from anosegd.picture import encode_png

GOOD = "train/good"
FOLDERS = {("PASS", None): GOOD, ("FAIL", None): "test/rejected", ("UNKNOWN", "review"): "test/review"}
"""Where a picture goes in a data folder, by outcome and reason. Parts that were not inspected are in neither."""


def export_archive(reader: EvidenceReader, names: Iterator[PartName], path: Path) -> int:
    """Copy the files of these parts into a new uncompressed ZIP archive, and return their number. Without parts, none is made.

    Unpacked, the archive is an evidence folder.

    Raises:
        ConfigError: The file exists already.
        AnosegError: It cannot be written.
    """
    if os.path.lexists(path):
        raise ConfigError(f"--archive {shown_name(path)}: exists already", hint="give a new file")
    temporary = path.with_name(f".{path.name}.tmp")
    n = 0
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # the daemon has just deleted it
                    archive.write(reader.path(name), f"{name.day}/{name.file_name}")
                    n += 1
        if n:
            temporary.replace(path)
    except OSError as error:
        raise AnosegError(f"--archive {shown_name(path)}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return n


def export_data(reader: EvidenceReader, names: Iterator[PartName], folder: Path) -> str:
    """Write the pictures of these parts, cut to their region, into a new data folder. Return what to print.

    Raises:
        ConfigError: The folder is not empty, or the parts come from several cameras.
        AnosegError: It cannot be written.
    """
    chosen = list(names)
    cameras = sorted({name.camera for name in chosen})
    if len(cameras) > 1:
        what = f"the parts come from several cameras: {', '.join(cameras)}"
        raise ConfigError(what, hint="a bundle learns one camera's picture: choose one with --camera")
    written: Counter[str] = Counter()
    left_out = 0
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"--data {shown_name(folder)}: is not empty", hint="give a new folder")
        for name in chosen:
            below = FOLDERS.get((name.outcome, name.reason))
            part = None if below is None else _read(reader, name)
            if below is None or part is None:
                left_out += 1
                continue
            data, suffix = cut_to_region(part)
            path = folder / below / f"{name.camera}-{name.at}-{name.seq:012d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            if below != GOOD:
                mask = folder / below.replace("test", "ground_truth", 1) / f"{path.stem}_mask.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                mask.write_bytes(empty_mask(data) or b"")
            written[below] += 1
    except OSError as error:
        raise AnosegError(f"--data {shown_name(folder)}: cannot be written ({error.strerror})") from error
    lines = [f"{folder / below}: {counted(n, 'picture')}" for below, n in sorted(written.items())]
    if left_out:
        lines.append(f"left out: {counted(left_out, 'part')} not inspected, or deleted meanwhile")
    if set(written) - {GOOD}:
        lines.append("the station may have judged parts wrongly: look at these pictures before you measure with them")
    return "\n".join(lines or ["no kept parts: nothing was written"]) + "\n"


def empty_mask(picture: bytes) -> bytes | None:
    """Return the mask of a picture in which nobody has marked a defect. The trainer wants one for each."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if image is None else encode_png(np.zeros((*image.shape[:2], 1), np.uint8))


def _read(reader: EvidenceReader, name: PartName) -> KeptPart | None:
    try:
        return reader.read(name)
    except DataError:
        return None


def cut_to_region(part: KeptPart) -> tuple[bytes, str]:
    """Return the picture of the part's region as a file's content, and the file's suffix. A whole picture stays as it is."""
    image = cv2.imdecode(np.frombuffer(part.picture, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or part.region == Region(0, 0, image.shape[1], image.shape[0]):
        return part.picture, ".png" if part.picture_type == "png" else ".jpg"
    r = part.region
    return encode_png(np.ascontiguousarray(image[r.y : r.y + r.height, r.x : r.x + r.width])), ".png"
