"""Finds settings of a camera that are valid but cannot do what they are for. Used by `anosegd check`. Opens no camera."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import cv2

from anoseg_engines.engine import Engine
from anoseg_engines.errors import CameraError, DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import orientation, read_image
from anoseg_engines.placement import Region
from anosegd.capture.config import BACKENDS, DeviceSource, FileSource, FolderSource, UrlSource
from anosegd.capture.sources.folder import images_of
from anosegd.capture.sources.refusal import SCHEMES, check_address, host_and_port, native_output
from anosegd.config import CameraConfig

MOST_IMAGES = 20
"""Images of a folder whose size is checked; a folder may have thousands."""
Size = tuple[int, int]
"""Width and height in camera pixels, after the camera's rotation."""


def warnings_of(camera: CameraConfig, engine: Engine) -> list[str]:
    """Return what is wrong with a camera's settings, one line each."""
    return [*_address(camera), *_sizes(camera), *_orientations(camera), *_review(camera, engine)]


def shared_devices(cameras: Mapping[str, CameraConfig]) -> list[str]:
    """Name the cameras that open the same device: only one of them can have it."""
    users: dict[str, list[str]] = {}
    for name, camera in cameras.items():
        if isinstance(camera.source, DeviceSource):
            device = camera.source.device
            users.setdefault(os.path.realpath(f"/dev/video{device}" if isinstance(device, int) else device), []).append(name)
    return [
        f"cameras {', '.join(names[:-1])} and {names[-1]} use the same device, {path}; only one of them can open it"
        for path, names in users.items()
        if len(names) > 1
    ]


def _address(camera: CameraConfig) -> Iterator[str]:
    """Check the address of a stream that FFmpeg reads."""
    source = camera.source
    if not isinstance(source, UrlSource) or source.backend != "ffmpeg":
        return
    scheme, separator, _ = source.url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        yield "source.url is not an address; write rtsp://… or http://…"
        return
    try:
        check_address(source.url)
    except CameraError as error:
        yield f"source.url: {error.what}"
        return
    if any(letter.isspace() for letter in source.url):
        yield "source.url contains a space, which no address may contain; write it as %20"
    host, port = host_and_port(source.url)
    if not host and scheme.lower() in ("rtsp", "rtsps", "http", "https"):
        yield "source.url names no host"
    if port and not port.isdecimal():  # not shown: it may be a part of the password
        yield "source.url has a port that is not a number; write # as %23 and : as %3A in the user name and the password"


def _sizes(camera: CameraConfig) -> Iterator[str]:
    """Compare the region and the image of the empty place with the size of the source's images, where that is known."""
    known = _known_sizes(camera)
    if isinstance(camera.source, FileSource) and not known:
        yield f"{shown_name(Path(camera.source.path).name)} cannot be opened as a video: the camera will be lost"
    if camera.region is not None:
        beyond = [(name, size) for name, size in known if not _contains(size, camera.region)]
        if beyond:
            name, (width, height) = beyond[0]
            others = f", and beyond {len(beyond) - 1} of the other images that were looked at" if len(beyond) > 1 else ""
            yield f"the region reaches beyond {name} ({width}×{height}){others}: such parts are UNKNOWN: region"
    if camera.presence is not None:
        empty = _image_size(Path(camera.presence.empty), 0)  # it is an image as `anosegd cameras` saves it, rotated already
        other = next(((name, size) for name, size in known if size != empty), None)
        if empty is not None and other is not None:
            name, size = other
            yield (
                f"presence.empty is {empty[0]}×{empty[1]}, but {name} is {size[0]}×{size[1]}: "
                "an image of another size always counts as a part"
            )


def _orientations(camera: CameraConfig) -> Iterator[str]:
    """Find images that programs for people show turned, and that are inspected as they are stored."""
    source = camera.source
    images = images_of(Path(source.path), recursive=source.recursive)[:MOST_IMAGES] if isinstance(source, FolderSource) else []
    empty = [Path(camera.presence.empty)] if camera.presence is not None else []
    turned = [path for path in (*images, *empty) if orientation(path) != 1]
    if turned:
        others = f" and {len(turned) - 1} of the other images that were looked at" if len(turned) > 1 else ""
        yield (
            f"the EXIF orientation of {shown_name(turned[0].name)}{others} is ignored, as in the training: images are "
            "inspected as they are stored, not as programs for people show them"
        )


def _review(camera: CameraConfig, engine: Engine) -> Iterator[str]:
    """Check that a part can reach `review_from` without failing."""
    if camera.review_from is None:
        return
    thresholds = [camera.score_threshold or engine.thresholds.score]
    if camera.rules:
        pixel = engine.thresholds.pixel
        thresholds = [rule.threshold or pixel for rule in camera.rules if not rule.ignore]
        if all(rule.region is not None for rule in camera.rules):
            thresholds.append(pixel)  # where no rule is
    if camera.review_from >= max(thresholds, default=1.0):
        yield (
            f"review_from {camera.review_from:g} is not below the threshold {max(thresholds):g}, from which a part fails: "
            "no part will be UNKNOWN: review"
        )


def _known_sizes(camera: CameraConfig) -> list[tuple[str, Size]]:
    """Return the names and sizes of the images that the source gives, as far as they are known without a camera."""
    source = camera.source
    found: list[tuple[str, Size | None]] = []
    if isinstance(source, FolderSource):
        images = images_of(Path(source.path), recursive=source.recursive)[:MOST_IMAGES]
        found = [(shown_name(path.name), _image_size(path, camera.rotate)) for path in images]
    elif isinstance(source, FileSource):
        found = [(shown_name(Path(source.path).name), _video_size(source, camera.rotate))]
    elif isinstance(source, DeviceSource) and source.width is not None and source.height is not None:
        found = [("the camera's image", _turned((source.width, source.height), camera.rotate))]
    return [(name, size) for name, size in found if size is not None]


def _image_size(path: Path, rotate: int) -> Size | None:
    """Return the size; None if the image cannot be read, which the inspection reports for each part."""
    with suppress(DataError, cv2.error, MemoryError):
        height, width = read_image(path).shape[:2]
        return _turned((width, height), rotate)
    return None


def _video_size(source: FileSource, rotate: int) -> Size | None:
    with native_output(shown=False):
        video = cv2.VideoCapture(source.path, BACKENDS[source.backend])
        try:
            width, height = (int(video.get(what)) for what in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        finally:
            video.release()
    return _turned((width, height), rotate) if min(width, height) > 0 else None  # -1 if it is no video


def _turned(size: Size, rotate: int) -> Size:
    return (size[1], size[0]) if rotate in (90, 270) else size


def _contains(size: Size, region: Region) -> bool:
    return region.x + region.width <= size[0] and region.y + region.height <= size[1]
