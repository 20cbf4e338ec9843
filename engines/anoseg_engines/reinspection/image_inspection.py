"""Inspects listed images one after the other with an engine. Main thread; threads of its own read images ahead.

The same lines judge an image as in the daemon and in the trainer's evaluation: `Engine` and `judge`.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from anoseg_engines.engine import Engine, Inference
from anoseg_engines.errors import AnosegError, DataError, EngineError, RuntimeFailedError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image, decode_image, read_bytes
from anoseg_engines.judgement import Defect, judge
from anoseg_engines.kept_part import SUFFIX, read_picture
from anoseg_engines.placement import Placement, Region
from anoseg_engines.reinspection.image_list import ListedImage

READERS = 2
AHEAD = 8
"""Images that are read before the engine needs them."""
PLACEMENTS = 8
"""Sizes of images whose coordinates are kept."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one image. docs/reinspect.md describes the columns; `result_rows.SCHEMA` has their types.

    Attributes:
        outcome: UNKNOWN if the image was not inspected, never PASS.
        reason: Why it is UNKNOWN: `unreadable`, `region` or `engine`.
    """

    path: str
    part_id: str | None
    camera: str | None
    captured_at: str | None
    journal_id: str | None
    seq: int | None
    earlier_outcome: str | None
    earlier_reason: str | None
    outcome: Literal["PASS", "FAIL", "UNKNOWN"]
    reason: Literal["unreadable", "region", "engine"] | None = None
    error: str | None = None
    score: float | None = None
    threshold: float
    pixel_threshold: float
    defects: tuple[Defect, ...] = ()
    bundle: str
    engine_digest: str
    runtime: str


@dataclass(frozen=True, slots=True)
class _Running:
    """An image whose result is not there yet; `inference` is None if `error` is its result."""

    image: ListedImage
    inference: Inference | None = None
    error: AnosegError | None = None


class ImageInspector:
    """Inspects images with one engine. Use it as a context; the caller closes the engine afterwards."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._readers = ThreadPoolExecutor(READERS, "image-reader")
        self._placements = OrderedDict[Region, Placement]()
        self._running = deque[_Running]()

    def __enter__(self) -> ImageInspector:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown(cancel_futures=True)
        while self._running:  # the engine cannot be closed before they have ended
            if (inference := self._running.popleft().inference) is not None:
                with contextlib.suppress(AnosegError):
                    self._engine.finish(inference)

    def rows(self, images: Iterable[ListedImage]) -> Iterator[Row]:
        """Yield a row for each image, in their order.

        Raises:
            RuntimeFailedError: The runtime failed, so the other images could not be inspected either.
        """
        for image, read in self._read(images):
            while len(self._running) >= max(1, self._engine.parallel):
                yield self._finish()
            try:
                pixels, region = read.result()
                if region not in self._placements:  # the runtime must be at rest while it is made ready for another size
                    while self._running:
                        yield self._finish()
                self._running.append(_Running(image, self._start(pixels, region)))
            except RuntimeFailedError:
                raise
            except AnosegError as error:
                self._running.append(_Running(image, error=error))
        while self._running:
            yield self._finish()

    def _read(self, images: Iterable[ListedImage]) -> Iterator[tuple[ListedImage, Future[tuple[Image, Region]]]]:
        ahead = deque[tuple[ListedImage, Future[tuple[Image, Region]]]]()
        for image in images:
            ahead.append((image, self._readers.submit(_pixels, Path(image.path))))
            if len(ahead) > AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _start(self, pixels: Image, region: Region) -> Inference:
        placement = self._placements.get(region)
        if placement is None:
            placement = self._placements[region] = self._engine.place(region)
            if len(self._placements) > PLACEMENTS:
                self._placements.popitem(last=False)
        self._placements.move_to_end(region)
        return (self._engine.start if self._engine.parallel else self._engine.prepare)(pixels, placement)

    def _finish(self) -> Row:
        running = self._running.popleft()
        error = running.error
        if running.inference is not None:
            try:
                inspection = self._engine.finish(running.inference)
                found = judge(inspection, self._engine.thresholds, running.inference.placement)
                outcome: Literal["PASS", "FAIL"] = "PASS" if found.outcome == "PASS" else "FAIL"
                return self._row(running.image, outcome, score=found.score, defects=found.defects)
            except RuntimeFailedError:
                raise
            except AnosegError as failure:
                error = failure
        assert error is not None, "an image has a result or an error"
        reason: Literal["unreadable", "region", "engine"] = (
            "engine" if isinstance(error, EngineError) else "unreadable" if isinstance(error, DataError) else "region"
        )
        return self._row(running.image, "UNKNOWN", reason=reason, error=shown_name(error.what))

    def _row(
        self,
        image: ListedImage,
        outcome: Literal["PASS", "FAIL", "UNKNOWN"],
        *,
        reason: Literal["unreadable", "region", "engine"] | None = None,
        error: str | None = None,
        score: float | None = None,
        defects: tuple[Defect, ...] = (),
    ) -> Row:
        engine = self._engine
        return Row(
            **msgspec.structs.asdict(msgspec.structs.replace(image, path=shown_name(image.path))),
            outcome=outcome,
            reason=reason,
            error=error,
            score=score,
            threshold=engine.thresholds.score,
            pixel_threshold=engine.thresholds.pixel,
            defects=defects,
            bundle=engine.bundle.label,
            engine_digest=engine.bundle.digest,
            runtime=engine.runtime_description,
        )


def _pixels(path: Path) -> tuple[Image, Region]:
    """Read an image file, or the picture of a kept part. A kept part has a region; of an image file, the whole is the part.

    Raises:
        DataError: It cannot be read.
    """
    if path.suffix.lower() == SUFFIX:
        data, region = read_picture(path)
        return decode_image(data, path).image, region
    decoded = decode_image(read_bytes(path), path)
    if decoded.more_pages:  # as on the line: only the first page would be judged
        raise DataError(f"{path}: the file has several pages, and only one can be inspected", hint="save each page as a file")
    return decoded.image, Region(0, 0, decoded.image.shape[1], decoded.image.shape[0])
