"""Computes the score and the anomaly map of a camera image, with a bundle on a runtime. Nothing else does this.

One thread at a time uses an engine. In the daemon, the inspector's thread does. Another thread may load and close the
engine. If several parts wait, the engine's own threads run the network for them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle import INT8, Bundle, GoldenSample, GoldenTolerance
from anoseg_engines.errors import EngineError
from anoseg_engines.images import Image
from anoseg_engines.judgement import Inspection, Thresholds
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.runtimes.base import InferRequest, Releasable, Runtime, ScalesRegions, Traffic


class _Output(NamedTuple):
    """The runtime's maps [N, H, W] and scores [N], and the start and end of the run in monotonic ns."""

    maps_NHW: NDArray[np.floating]
    scores_N: NDArray[np.float32]
    began_ns: int
    ended_ns: int


class _Buffers:
    """An infer request, and the placement whose coordinates are bound to it."""

    def __init__(self, request: InferRequest) -> None:
        self._request = request
        self._placement: Placement | None = None
        self._frames_NHWC: NDArray[np.uint8] | None = None

    def bind(self, placement: Placement) -> NDArray[np.uint8]:
        """Return the input buffer for this placement's tiles, with its coordinates bound."""
        if self._frames_NHWC is None or self._placement is not placement:
            self._frames_NHWC = None  # nothing is bound if the next line raises
            self._frames_NHWC = self._request.bind(placement.coords_N2HW)
            self._placement = placement
        return self._frames_NHWC

    def make_ready(self, placement: Placement) -> None:
        """Bind a placement, so that its first part does not have to wait for that."""
        if self._bind_region(placement, 3) is None:
            self.bind(placement)

    def fill(self, image: Image, placement: Placement) -> None:
        """Write the inputs of a camera image into the buffer. A device that scales regions gets the region as it is.

        Raises:
            ConfigError: The region reaches beyond the image.
            EngineError: The runtime cannot take so many tiles.
        """
        region = placement.cut_region(image)
        buffer = self._bind_region(placement, region.shape[2])
        if buffer is None:
            placement.fill(image, self.bind(placement))
        else:
            np.copyto(buffer, region)

    def _bind_region(self, placement: Placement, channels: int) -> NDArray[np.uint8] | None:
        if not isinstance(self._request, ScalesRegions):
            return None
        buffer = self._request.bind_region(placement, channels)
        if buffer is not None:
            self._frames_NHWC = self._placement = None
        return buffer

    def unbind(self) -> None:
        """Drop the binding, so that the runtime can free what only this placement needed."""
        if isinstance(self._request, Releasable):
            self._request.release()
        self._frames_NHWC = self._placement = None

    def infer(self) -> _Output:
        began_ns = time.monotonic_ns()
        maps, scores = self._request.infer()
        return _Output(maps, scores, began_ns, time.monotonic_ns())


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """One part whose network inputs are ready. The engine that made it must finish it.

    Attributes:
        buffers: The buffers that hold the inputs. No other part uses these buffers until this part is finished.
        ready_ns: The monotonic time at which the inputs were ready.
        output: The future result. None if `Engine.finish` runs the network.
    """

    placement: Placement
    buffers: _Buffers
    ready_ns: int
    output: Future[_Output] | None = None

    @property
    def done(self) -> bool:
        """Whether a started inference has ended, with a result or an error."""
        return self.output is not None and self.output.done()


class Engine:
    """Runs parts through a bundle's network. `loading.load_engine` makes one and runs its self-test.

    To run one part at a time, call `inspect`, or `prepare` and then `finish`. To run many parts, call `start` for up to
    `parallel` parts, and `finish` for each. The two ways must not overlap.

    Attributes:
        runtime_name: One of `select.RUNTIMES`.
        why: The reason for this runtime, in a few words.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, *, name: str = "", why: str = "") -> None:
        self.bundle = bundle
        self.runtime_name = name
        self.why = why
        self._runtime = runtime
        self._alone = _Buffers(runtime)
        self._free = deque(self._alone if request is runtime else _Buffers(request) for request in runtime.parallel)
        self._threads = ThreadPoolExecutor(runtime.max_running, "network")  # the pool starts a thread only when a part needs it
        self._golden: list[GoldenSample] | None = None

    @property
    def spec(self) -> InputSpec:
        """The network's input."""
        return self.bundle.manifest.input

    @property
    def thresholds(self) -> Thresholds:
        """Score and pixel threshold of the bundle."""
        return self.bundle.thresholds

    @property
    def description(self) -> str:
        """Bundle and runtime, for logs."""
        return f"{self.bundle.label} on {self._runtime.description}"

    @property
    def runtime_description(self) -> str:
        """Runtime, version and the precision that runs."""
        return self._runtime.description

    @property
    def precision(self) -> str:
        """The precision that runs."""
        return self._runtime.precision

    @property
    def golden_tolerance(self) -> GoldenTolerance:
        """The largest differences from what was recorded for the golden images."""
        int8 = self.bundle.int8 if self.precision == INT8 else None
        return self.bundle.manifest.golden_tolerance if int8 is None else int8.golden_tolerance

    @property
    def traffic(self) -> Traffic:
        """Bytes copied to and from the device so far."""
        return self._runtime.traffic

    @property
    def parallel(self) -> int:
        """How many started parts may be unfinished at the same time. 0 if parts run only one at a time."""
        return len(self._runtime.parallel)

    def golden_samples(self) -> list[GoldenSample]:
        """The bundle's golden images with what was recorded for the network that runs, decoded once.

        Raises:
            EngineError: One cannot be decoded.
        """
        if self._golden is None:
            self._golden = self.bundle.golden_samples(self.precision)
        return self._golden

    def place(self, region: Region) -> Placement:
        """Plan a region of the camera image, and make the runtime ready for its number of tiles, which may take seconds.

        Raises:
            ConfigError: The region is empty.
            EngineError: The runtime cannot take so many tiles.
        """
        placement = Placement.of(self.spec, region)
        for buffers in self._free:  # otherwise each could keep a network of another size that the runtime has forgotten
            buffers.unbind()
        self._alone.make_ready(placement)
        return placement

    def keep_ready(self, regions: Iterable[Region], *, others: int = 0) -> None:
        """Make the runtime ready for parts in these regions, and keep it ready for them until the next call. Any thread.

        Args:
            regions: Regions of a camera image.
            others: How many regions of other sizes will be used besides these.

        Raises:
            ConfigError: A region is empty.
            EngineError: The runtime cannot take so many tiles.
        """
        self._runtime.keep_ready({len(Placement.of(self.spec, region).tiles) for region in regions}, others)

    def inspect(self, image: Image, placement: Placement) -> Inspection:
        """Run one part.

        Args:
            image: The camera image, uint8 [H, W, 3] BGR or [H, W, 1].

        Returns:
            Score and part map, a new array that belongs to the caller.

        Raises:
            ConfigError: The region reaches beyond the image.
            EngineError: The runtime failed or its score is not a number.
        """
        return self.finish(self.prepare(image, placement))

    def prepare(self, image: Image, placement: Placement) -> Inference:
        """Copy the part's network inputs from a camera image. The image may be released afterwards. `finish` runs the network.

        Raises:
            ConfigError: The region reaches beyond the image.
            EngineError: The runtime cannot take so many tiles.
        """
        self._alone.fill(image, placement)
        return Inference(placement, self._alone, time.monotonic_ns())

    def start(self, image: Image, placement: Placement, when_done: Callable[[], None] = lambda: None) -> Inference:
        """Copy the inputs as `prepare` does, and run the network on a thread of the engine. Started parts run at the same time.

        Args:
            when_done: Called on that thread when the run has ended, with a result or an error.

        Raises:
            ConfigError, EngineError: As `prepare`.
        """
        assert self._free, "more parts are started than `parallel` allows"
        buffers = self._free[0]
        buffers.fill(image, placement)
        self._free.popleft()
        ready_ns = time.monotonic_ns()
        output = self._threads.submit(buffers.infer)
        output.add_done_callback(lambda _: when_done())
        return Inference(placement, buffers, ready_ns, output)

    def finish(self, inference: Inference) -> Inspection:
        """Wait for a started part, or run a prepared one.

        Returns:
            Score and part map, a new array that belongs to the caller.

        Raises:
            EngineError: The runtime failed or its score is not a number.
        """
        try:
            output = inference.buffers.infer() if inference.output is None else inference.output.result()
            score = float(output.scores_N.max())
            if not np.isfinite(output.scores_N).all():  # max() can hide the NaN of one tile behind the number of another
                raise EngineError(
                    f"the network's score is {output.scores_N.tolist()}", hint="run `anoseg-engine verify` on the bundle"
                )
            anomaly_map = inference.placement.stitch(output.maps_NHW)
        finally:
            if inference.output is not None:
                self._free.append(inference.buffers)
        return Inspection(score, anomaly_map, output.ended_ns - output.began_ns, output.began_ns - inference.ready_ns)

    def close(self) -> None:
        """Wait for parts that run, and free the runtime."""
        self._threads.shutdown()
        self._runtime.close()
