"""Defines the interface of a runtime, which runs the bundle's network.

`openvino.py` and `tensorrt/runtime.py` implement it. One thread at a time uses a runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.placement import Placement

MAX_RUNNING = 3
"""How many of a runtime's parallel requests may run at the same time."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes copied between host and device since the runtime was made; both 0 on the CPU."""

    to_device: int = 0
    from_device: int = 0

    def plus(self, more: Traffic) -> Traffic:
        """The sum of both."""
        return Traffic(self.to_device + more.to_device, self.from_device + more.from_device)

    def since(self, earlier: Traffic) -> Traffic:
        """The bytes copied after `earlier` was read."""
        return Traffic(self.to_device - earlier.to_device, self.from_device - earlier.from_device)


class InferRequest(Protocol):
    """One set of input and output buffers of a loaded network. One thread at a time uses it."""

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Bind precomputed coordinates for all parts until the next call.

        Args:
            coords_N2HW: FP16 [N, 2, H, W]. The runtime may read this array in place later, so it must not change.

        Returns:
            The input buffer, uint8 [N, H, W, 3]. Fill it, then call `infer`. Valid until the next `bind`.

        Raises:
            EngineError: The runtime cannot take N inputs.
        """
        ...

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Run the network on the input buffer.

        Returns:
            Maps, float [N, H, W], and scores, float32 [N]: views that are valid until the next call.

        Raises:
            RuntimeFailedError: The runtime failed.
            EngineError: Nothing is bound.
        """
        ...


@runtime_checkable
class Releasable(Protocol):
    """A request that keeps memory for the size it is bound to."""

    def release(self) -> None:
        """Drop the binding and that memory. `bind` makes the request ready again."""
        ...


@runtime_checkable
class ScalesRegions(Protocol):
    """A request whose device scales the region of a camera image, and cuts it into the network's inputs."""

    def bind_region(self, placement: Placement, channels: int) -> NDArray[np.uint8] | None:
        """Bind a placement for all parts until the next call, instead of `bind`.

        Args:
            channels: 1 for grey cameras, otherwise 3.

        Returns:
            The buffer for the camera's pixels in the region, uint8 [height, width, channels]. Fill it, then call `infer`. None
            if this placement is not scaled on the device: use `bind`.

        Raises:
            EngineError: The runtime cannot take so many inputs.
        """
        ...


class Runtime(InferRequest, Protocol):
    """A loaded network. Its own methods `bind` and `infer` run one part with the whole machine."""

    @property
    def description(self) -> str:
        """Name, version and the precision that really runs, for logs and `inspect`."""
        ...

    @property
    def precision(self) -> str:
        """The precision that really runs: f32, f16, bf16 or int8."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes copied to and from the device so far."""
        ...

    @property
    def parallel(self) -> Sequence[InferRequest]:
        """Requests, of which `max_running` may run at the same time, each on its own thread.

        They share the machine: each part takes longer, but more parts are finished a second. They never run at the same
        time as the runtime's own request, which may be one of them.
        """
        ...

    @property
    def max_running(self) -> int:
        """How many of the parallel requests may run at the same time."""
        ...

    def keep_ready(self, sizes: Collection[int], others: int = 0) -> None:
        """Be ready for batches of these sizes until the next call. Any thread.

        Args:
            sizes: Numbers of inputs.
            others: How many other sizes must stay ready once they were used. Any further one may take seconds again.

        Raises:
            EngineError: The runtime cannot take so many inputs.
        """
        ...

    def close(self) -> None:
        """Free everything, also after an error. Calling it twice does no harm."""
        ...
