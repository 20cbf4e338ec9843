"""Shares frame slots between the daemon and a capture process, so that frames cross without a copy.

The memory is an unnamed file (memfd). It has no path, and the kernel frees it when the last process that uses it ends. The
camera's thread and the capture process use this module.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os

import numpy as np

from anoseg_engines.images import Image


class Slots:
    """Holds `count` slots of `frame_bytes` each. Only pages that hold a frame take memory.

    The daemon makes the memory (`create`), the capture process maps it (`attach`). Views keep the mapping alive: it is freed
    when the Slots object and all its views are gone.
    """

    def __init__(self, memory: mmap.mmap, fd: int, count: int) -> None:
        self.fd = fd
        self.count = count
        self.frame_bytes = len(memory) // count
        self._memory = memory

    @classmethod
    def create(cls, count: int, frame_bytes: int) -> Slots:
        """Make the memory, with frame_bytes rounded up to whole pages. The caller closes with `close_fd`."""
        frame_bytes = -(-frame_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = os.memfd_create("anoseg-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, count * frame_bytes)
            # Without the seal a faulty capture process could shrink the file and kill the daemon with SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            return cls.attach(fd, count, frame_bytes)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, count: int, frame_bytes: int) -> Slots:
        """Map the memory of an inherited descriptor."""
        return cls(mmap.mmap(fd, count * frame_bytes), fd, count)

    def close_fd(self) -> None:
        """Close the descriptor; the mapping stays."""
        os.close(self.fd)

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether an image of this shape, (height, width, channels), fits into a slot."""
        return len(shape) == 3 and min(shape) > 0 and shape[2] in (1, 3) and math.prod(shape) <= self.frame_bytes

    def view(self, slot: int, shape: tuple[int, ...]) -> Image:
        """An image on the slot's memory, uint8 of this shape: (height, width, channels).

        Raises:
            ValueError: There is no such slot, or the image does not fit.
        """
        if not 0 <= slot < self.count or not self.holds(shape):
            raise ValueError(f"slot {slot} of {self.count} cannot hold an image of {'×'.join(map(str, shape))} values")
        return np.frombuffer(self._memory, np.uint8, math.prod(shape), slot * self.frame_bytes).reshape(shape)
