"""Keeps the evidence of parts on the thread "evidence": encodes the pictures and stores them with the verdicts.

The publisher's thread offers parts and never waits. If the disk or this thread is too slow, the pictures that wait are given up
and counted. Whatever happens here, the inspection goes on.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.placement import Region
from anosegd import logs, wire
from anosegd.evidence.config import EvidenceConfig
from anosegd.evidence.folder import EvidenceFolder
from anosegd.evidence.names import name_of
from anosegd.evidence.part_file import About, packed
from anosegd.picture import Picture, encode_jpeg, encode_map, encode_png
from anosegd.worker import Worker

TIDY_S = 60.0
"""How often old parts are deleted while no new ones come."""
REPORT_S = 10.0
"""How often the log repeats that parts are not kept."""
TOO_FAST = "parts to keep come faster than they are stored"
ENDED = "the thread that stores them has ended"


@dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """A part whose verdict was sent.

    Attributes:
        verdict: The verdict as published.
        region: The part's place in the picture.
        mask, anomaly_map: The map, float32 [h, w], and its header; None if the part was not inspected.
        picture: The camera's picture. The keeper becomes one of its holders if it takes the part.
    """

    verdict: wire.Verdict
    region: Region
    mask: wire.Mask | None
    anomaly_map: NDArray[np.float32] | None
    picture: Picture


class EvidenceKeeper(Worker):
    """Keeps rejected, UNKNOWN and review parts that have a picture, and a sample of the good ones."""

    def __init__(self, config: EvidenceConfig) -> None:
        super().__init__("evidence")
        self._config = config
        self._folder = EvidenceFolder(config)
        self._offered: queue.SimpleQueue[Offered | None] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._seed = os.urandom(16)
        self._kept = 0
        self._dropped = 0
        self._count_lock = threading.Lock()
        self._working = True
        self._tidy_failed = False  # whether tidying was the reason that it does not work
        self._last_error: str | None = None
        self._failures = logs.Throttle("evidence.dropped", period_s=REPORT_S)

    # ---- any thread

    @property
    def health(self) -> wire.EvidenceHealth:
        """What the heartbeat says about the evidence."""
        return wire.EvidenceHealth(
            working=self._working and self.failure is None,
            kept=self._kept,
            dropped=self._dropped,
            size_mb=round(self._folder.size / 1e6, 3),
            last_error=self._last_error if self.failure is None else "an internal error, see the log",
        )

    def stop(self, *, abandon: bool = False) -> None:
        """End after the parts that wait, or (`abandon`) after the present one."""
        if abandon:
            self._abandoned.set()
        self._offered.put(None)

    def samples(self, camera: str, sequence: int) -> bool:
        """Return whether this part is kept although it passes. The same part always gets the same answer."""
        digest = hashlib.blake2b(f"{camera} {sequence}".encode(), digest_size=8, key=self._seed).digest()
        return int.from_bytes(digest, "big") < self._config.good_share * 2**64

    # ---- the publisher's thread

    def offer(self, part: Offered) -> None:
        """Keep this part if it is to be kept. Never waits."""
        if part.verdict.outcome == "PASS" and not self.samples(part.verdict.camera, part.verdict.sequence):
            return
        if not self.alive:
            self._drop(ENDED)
            return
        if not part.picture.there:
            self._drop(TOO_FAST)
            return
        part.picture.share()
        self._offered.put(part)

    # ---- the keeper's thread

    def work(self) -> None:
        """Store parts until asked to stop."""
        self.give_way()
        self._tidy()
        while True:
            try:
                part = self._offered.get(timeout=TIDY_S)
            except queue.Empty:
                self._tidy()
                continue
            if part is None:
                break
            if self._abandoned.is_set():
                part.picture.done()
                self._drop("the daemon ended before they were stored")
            else:
                self._keep(part)

    def _keep(self, part: Offered) -> None:
        try:
            try:
                with part.picture.use() as image:
                    if image is None:
                        self._drop(TOO_FAST)
                        return
                    png = self._config.format == "png"
                    picture = encode_png(image) if png else encode_jpeg(image, self._config.jpeg_quality)
                    del image
            finally:
                part.picture.done()  # the slot must not wait for the disk
            data = packed(
                verdict=wire.encode(part.verdict),
                about=About(region=part.region, mask=part.mask),
                picture=picture,
                picture_type=self._config.format,
                map_png=None if part.anomaly_map is None else encode_map(part.anomaly_map),
            )
            self._folder.store(name_of(part.verdict), data)
        except (OSError, MemoryError, RuntimeError, cv2.error) as error:
            self._failed(error)
            self._tidy_failed = False  # only a part that is stored shows that it works again
            self._drop(self._last_error or "")
            return
        self._kept += 1
        self._works()

    def _tidy(self) -> None:
        try:
            self._folder.tidy()
        except OSError as error:
            self._failed(error)
            self._tidy_failed = True
            logs.warning("evidence.failing", folder=self._config.folder, error=self._last_error)
            return
        if self._tidy_failed:  # while no parts come, nothing else would show that it works again
            self._works()

    def _failed(self, error: Exception) -> None:
        what = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        self._last_error = f"{self._config.folder}: {what}"
        self._working = False

    def _works(self) -> None:
        if not self._working:
            self._working, self._tidy_failed = True, False
            logs.info("evidence.working", folder=self._config.folder)

    def _drop(self, why: str) -> None:
        """Count a part that is not kept. Any thread."""
        with self._count_lock:
            self._dropped += 1
        self._failures.warning(error=why)
