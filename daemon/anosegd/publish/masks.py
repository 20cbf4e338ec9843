"""Encodes anomaly maps as PNG on the thread "masks", after their verdicts were sent. Maps may be lost; verdicts may not."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anosegd import wire
from anosegd.picture import encode_map
from anosegd.worker import Worker


@dataclass(frozen=True, slots=True)
class MaskJob:
    """A map to encode: float32 [h, w], 0…1. It belongs to the encoder from here on."""

    header: wire.Mask
    anomaly_map: NDArray[np.float32]


class MaskEncoder(Worker):
    """Encodes maps on one thread. `dropped` counts maps for which there was no room; only the offering thread writes it."""

    def __init__(self, capacity: int, deliver: Callable[[wire.Mask, bytes], None]) -> None:
        super().__init__("masks")
        self.dropped = 0
        self._deliver = deliver
        self._jobs: queue.Queue[MaskJob | None] = queue.Queue(capacity + 1)  # one place is for the end
        self._capacity = capacity

    def offer(self, job: MaskJob) -> None:
        """Queue a map, or count it as dropped. The publisher's thread."""
        if self._jobs.qsize() >= self._capacity:
            self.dropped += 1
        else:
            self._jobs.put_nowait(job)

    def stop(self) -> None:
        """Encode what is queued, then end."""
        self._jobs.put(None)

    def work(self) -> None:
        """Encode until asked to stop."""
        self.give_way()
        while (job := self._jobs.get()) is not None:
            self._deliver(job.header, encode_map(job.anomaly_map))
