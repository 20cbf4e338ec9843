"""What a runtime is: something that runs the bundle's network on N inputs. `cpu.py` and `tensorrt_runtime.py` are the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BESIDE = 3
"""So many lanes other than 0 run at a time."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that crossed between host and device since the runtime was made; both 0 on the CPU."""

    to_device: int = 0
    from_device: int = 0

    def since(self, earlier: Traffic) -> Traffic:
        """What has been sent since `earlier` was read."""
        return Traffic(self.to_device - earlier.to_device, self.from_device - earlier.from_device)


class Runtime(Protocol):
    """A loaded network. Owns its input and output buffers. Used by one thread at a time, but for lanes that run beside."""

    @property
    def description(self) -> str:
        """Name, version and precision that really runs, for logs and `inspect`."""
        ...

    @property
    def precision(self) -> str:
        """The precision that really runs: f32, f16 or bf16."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes to and from the device so far."""
        ...

    @property
    def lanes(self) -> int:
        """Sets of buffers. Lane 0 has the whole machine. Further ones may be run `BESIDE` at a time, each on a thread of its
        own, while another is filled: slower for one part, faster for many."""
        ...

    def bind(self, coords_N2HW: NDArray[np.float16], lane: int = 0) -> NDArray[np.uint8]:
        """Bind precomputed coordinates, FP16 [N, 2, H, W], until the lane's next call; nothing of them is sent per part.

        The array is read in place, or by its identity: it must not be written afterwards.

        Returns:
            The lane's input buffer, uint8 [N, H, W, 3]: fill it, then call `infer`; valid until the lane's next `bind`.

        Raises:
            EngineError: the runtime cannot take N inputs.
        """
        ...

    def infer(self, lane: int = 0) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Run what the input buffer holds: maps float [N, H, W] and scores float32 [N], views valid until the lane's next call.

        Raises:
            EngineError: the runtime failed, or nothing is bound.
        """
        ...

    def close(self) -> None:
        """Give everything back, also after an error; once is enough, more does no harm."""
        ...
