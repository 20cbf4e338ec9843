"""Encodes pictures of judged parts as JPEG on the thread "images", while somebody subscribes. The latest picture wins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import cv2

from anoseg_engines.images import Image
from anoseg_engines.placement import Region
from anosegd import wire
from anosegd.picture import Picture, encode_jpeg
from anosegd.worker import Worker

TOPIC = b"image"
QUALITY = 85


class Subscriptions:
    """Knows which cameras' pictures somebody subscribes to. Any thread may ask.

    Only a subscription to `image` or a longer topic counts. One to everything does not have pictures encoded.
    """

    def __init__(self) -> None:
        self._subscribers: Mapping[bytes, int] = {}

    def follow(self, subscribers: Mapping[bytes, int]) -> None:
        """Look topics up in this table from now on. Its owner changes it; it has no topic without subscribers."""
        self._subscribers = subscribers

    def want(self, camera: str) -> bool:
        """Return whether somebody subscribes to this camera's pictures."""
        topic, subscribers = topic_of(camera), self._subscribers
        return any(topic[:size] in subscribers for size in range(len(TOPIC), len(topic) + 1))


@dataclass(frozen=True, slots=True, eq=False)
class ImageJob:
    """A picture to encode. The encoder is one of its holders from here on."""

    verdict: wire.Verdict
    region: Region
    picture: Picture


class ImageEncoder(Worker):
    """Encodes pictures on one thread. Of each camera, one waits; a newer one takes its place.

    Args:
        deliver: Called on this thread with each picture.
    """

    def __init__(self, deliver: Callable[[wire.Image, bytes], None]) -> None:
        super().__init__("images")
        self._deliver = deliver
        self._changed = threading.Condition()
        self._waiting: dict[str, ImageJob] = {}
        self._stopping = False

    def offer(self, job: ImageJob) -> None:
        """Encode this picture unless a newer one of the camera comes first. The publisher's thread."""
        job.picture.share()
        with self._changed:
            replaced = self._waiting.pop(job.verdict.camera, None)
            self._waiting[job.verdict.camera] = job  # behind those of other cameras
            self._changed.notify()
        if replaced is not None:
            replaced.picture.done()

    def stop(self) -> None:
        """End. Pictures that wait are not encoded."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def work(self) -> None:
        """Encode until asked to stop."""
        self.give_way()
        while (job := self._next()) is not None:
            try:
                with job.picture.use() as image:
                    if image is not None:
                        part = cut(image, job.region)
                        header, jpeg = _header(job, part), encode_jpeg(part, QUALITY)
                        del part
                        self._deliver(header, jpeg)
                    del image
            except (RuntimeError, MemoryError, cv2.error):
                pass  # a picture that is too large for a JPEG; the next one may be smaller
            finally:
                job.picture.done()
        for job in self._waiting.values():
            job.picture.done()

    def _next(self) -> ImageJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting)
            return None if self._stopping else self._waiting.pop(next(iter(self._waiting)))


def topic_of(camera: str) -> bytes:
    """Return the topic of a camera's pictures."""
    return TOPIC + b"." + camera.encode()


def region_in(shape: Iterable[int], region: Region | None) -> Region:
    """Return the part's place in an image of this shape (height, width, …): the whole image without a region that fits."""
    height, width, *_ = shape
    if region is None or region.x + region.width > width or region.y + region.height > height:
        return Region(0, 0, width, height)
    return region


def cut(image: Image, region: Region) -> Image:
    """Return the region of an image: a view."""
    return image[region.y : region.y + region.height, region.x : region.x + region.width]


def _header(job: ImageJob, part: Image) -> wire.Image:
    verdict = job.verdict
    return wire.Image(
        station=verdict.station,
        journal_id=verdict.journal_id,
        seq=verdict.seq,
        camera=verdict.camera,
        part_id=verdict.part_id,
        region=job.region,
        width=part.shape[1],
        height=part.shape[0],
        scale_x=1.0,
        scale_y=1.0,
    )
