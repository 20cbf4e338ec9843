"""What a runtime is: something that runs the bundle's network on N inputs. One implementation a module (`cpu.py`)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """A loaded network. Made, used and closed on one thread."""

    @property
    def description(self) -> str:
        """Name, version and precision that really runs, for logs and `inspect`."""
        ...

    def bind_coords(self, coords_N2HW: NDArray[np.float16]) -> None:
        """Bind precomputed coordinates, FP16 [N, 2, H, W]; kept until the next call, nothing is sent per part."""
        ...

    def infer(self, frames_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Run frames uint8 [N, H, W, 3]: maps float [N, H, W] and scores float32 [N], views valid until the next call.

        Raises:
            EngineError: the runtime failed.
        """
        ...

    def close(self) -> None:
        """Give everything back; further calls are errors."""
        ...
