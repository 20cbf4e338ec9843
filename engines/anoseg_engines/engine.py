"""An engine: a bundle loaded on a runtime and proved on its golden images. The one way from image to map and score.

Used by one thread at a time (the inspector, in the daemon); it may be loaded and closed on another.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle.manifest import GoldenTolerance
from anoseg_engines.bundle.read import Bundle, GoldenSample
from anoseg_engines.errors import EngineError, NotProvedError, PrecisionError
from anoseg_engines.images import Image
from anoseg_engines.judgement.judge import Inspection, Thresholds
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.runtimes.base import BESIDE, Runtime, Traffic
from anoseg_engines.runtimes.select import Choice, choose


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How far one golden image came out from its record (absolute differences)."""

    score: float
    recorded_score: float
    map_mean: float
    map_p999: float
    verdict_equal: bool

    def holds(self, tolerance: GoldenTolerance) -> bool:
        """Whether all differences are within tolerance; anything that is no number does not hold."""
        return (
            self.verdict_equal
            and abs(self.score - self.recorded_score) <= tolerance.score
            and self.map_mean <= tolerance.map_mean
            and self.map_p999 <= tolerance.map_p999
        )


class Answer(NamedTuple):
    """What the runtime gave: maps [N, H, W] and scores [N], its own; when it began and ended, monotonic ns."""

    maps_NHW: NDArray[np.floating]
    scores_N: NDArray[np.float32]
    began_ns: int
    ended_ns: int


@dataclass(slots=True, eq=False)
class Prepared:
    """A part whose network inputs lie in a lane. ready_ns: since when, monotonic. answer: to come, once it is started."""

    placement: Placement
    lane: int
    ready_ns: int
    answer: Future[Answer] | None = None

    @property
    def done(self) -> bool:
        """Whether what was started is at its end, one way or another."""
        return self.answer is not None and self.answer.done()


class Engine:
    """Runs parts through a bundle's network; `inspect` returns arrays that are the caller's.

    runtime_name: as in `choose.RUNTIMES`. why: why this runtime, in a few words.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, *, name: str = "", why: str = "") -> None:
        self.bundle = bundle
        self.runtime_name = name
        self.why = why
        self._runtime = runtime
        self._bound: list[tuple[Placement, NDArray[np.uint8]] | None] = [None] * runtime.lanes
        self._beside = ThreadPoolExecutor(BESIDE, "network") if runtime.lanes > 1 else None
        self._golden: list[GoldenSample] | None = None

    @classmethod
    def load(cls, bundle: Bundle, *, runtime: str = "auto", threads: int = 0, build: bool = False) -> Engine:
        """Load `bundle` on a runtime, prove it on the golden images (which warms it up as well).

        runtime: one of `choose.RUNTIMES`. threads: of the CPU runtime, 0 lets it choose. build: a TensorRT plan that is
        missing is built.

        Raises:
            ConfigError: the runtime's name is unknown.
            EngineError: the runtime cannot run, or the golden images come out otherwise than recorded.
        """
        *others, last = choose(bundle, runtime, threads=threads, build=build)
        for choice in others:
            try:
                return cls._load(bundle, choice)
            except (NotProvedError, PrecisionError):
                continue  # the next one's reason says so
        return cls._load(bundle, last)

    @classmethod
    def _load(cls, bundle: Bundle, choice: Choice) -> Engine:
        engine = cls(bundle, choice.open(), name=choice.name, why=choice.why)
        try:
            engine.prove()
        except BaseException:
            engine.close()
            raise
        choice.proved()
        return engine

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
    def traffic(self) -> Traffic:
        """Bytes to and from the device so far."""
        return self._runtime.traffic

    def place(self, region: Region, lane: int = 0) -> Placement:
        """Plan a region of the camera image, and make the runtime ready for its tiles. The lane's part before is done.

        Raises:
            ConfigError: the region is empty. EngineError: the runtime cannot take so many tiles.
        """
        placement = Placement.of(self.spec, region)
        self._bind(placement, lane)
        return placement

    def inspect(self, image: Image, placement: Placement) -> Inspection:
        """Run one part: camera image uint8 [H, W, 3] BGR → score and part map (a new array, the caller's).

        Raises:
            EngineError: the runtime failed or its answer is no number.
        """
        return self.finish(self.prepare(image, placement))

    @property
    def lanes(self) -> int:
        """How many parts may be prepared and not finished, each in a lane of its own; see `Runtime.lanes`."""
        return self._runtime.lanes

    def prepare(self, image: Image, placement: Placement, lane: int = 0) -> Prepared:
        """Fill the lane's input from a camera image, which is not needed any more afterwards. The lane's part before is done.

        Raises:
            ConfigError: the region reaches beyond the image. EngineError: the runtime cannot take so many tiles.
        """
        placement.fill(image, self._bind(placement, lane))
        return Prepared(placement, lane, time.monotonic_ns())

    def start(self, prepared: Prepared, when_done: Callable[[], None]) -> None:
        """Run it on a thread of the engine's own, while the caller does something else; not in lane 0.

        when_done: called on that thread.
        """
        assert self._beside is not None, "a runtime with one lane runs nothing beside"
        assert prepared.lane, "lane 0 is for parts that run alone"
        prepared.answer = self._beside.submit(self._run, prepared.lane)
        prepared.answer.add_done_callback(lambda _: when_done())

    def finish(self, prepared: Prepared) -> Inspection:
        """Score and part map (a new array, the caller's) of what was prepared: waits for it, or runs it if it was not started.

        Raises:
            EngineError: the runtime failed or its answer is no number.
        """
        answer = self._run(prepared.lane) if prepared.answer is None else prepared.answer.result()
        score = float(answer.scores_N.max())
        if not np.isfinite(answer.scores_N).all():  # max() may hide a NaN in one tile behind another tile's number
            raise EngineError(
                f"the network's score is {answer.scores_N.tolist()}", hint="run `anoseg-engine verify` on the bundle"
            )
        anomaly_map = prepared.placement.stitch(answer.maps_NHW)
        return Inspection(score, anomaly_map, answer.ended_ns - answer.began_ns, answer.began_ns - prepared.ready_ns)

    def _run(self, lane: int) -> Answer:
        began_ns = time.monotonic_ns()
        maps, scores = self._runtime.infer(lane)
        return Answer(maps, scores, began_ns, time.monotonic_ns())

    def prove(self) -> list[GoldenResult]:
        """Run the golden images and compare with what the trainer's FP32 network said of them: alone, and beside one another
        as parts run while more are waiting. For an engine that inspects nothing meanwhile; see `proofs`.

        Raises:
            NotProvedError: one is out of tolerance; both values are named. EngineError: the runtime failed.
        """
        samples = self.golden_samples()
        results = []
        for index, sample in enumerate(samples):
            results.append(self._compare(sample, 0))
            self._check(index, results[-1])
        for index, result in enumerate(list(self._compare_beside(samples))):  # all first: no lane runs on when one is refused
            self._check(index, result)
        return results

    def proofs(self) -> Iterator[GoldenResult]:
        """As `prove`, one golden image at a time, so that parts can be inspected in between; in lane 0 and in one beside it.

        Raises:
            NotProvedError, EngineError: as `prove`.
        """
        for index, sample in enumerate(self.golden_samples()):
            results = [self._compare(sample, lane) for lane in range(min(2, self.lanes))]
            for result in results:
                self._check(index, result)
            yield results[0]

    def golden_samples(self) -> list[GoldenSample]:
        """The bundle's golden images, read once: a bundle deleted meanwhile says nothing about the engine.

        Raises:
            EngineError: one cannot be read.
        """
        if self._golden is None:
            self._golden = self.bundle.golden_samples()
        return self._golden

    def _check(self, index: int, result: GoldenResult) -> None:
        """Raises: NotProvedError, the golden image of this index is out of tolerance."""
        limit = self.bundle.manifest.golden_tolerance
        if result.holds(limit):
            return
        raise NotProvedError(
            f"{self.bundle.path}: does not prove itself on {self._runtime.description}: "
            f"{self.bundle.manifest.golden[index].image} scores "
            f"{result.score:.4f}, recorded {result.recorded_score:.4f} (±{limit.score}); map differs by "
            f"{result.map_mean:.4f} on average (≤ {limit.map_mean}), {result.map_p999:.4f} at the 99.9th percentile "
            f"(≤ {limit.map_p999}); verdict {'equal' if result.verdict_equal else 'differs'}",
            hint="the engine is refused; copy the bundle again or train it anew",
        )

    def close(self) -> None:
        """Give the runtime back."""
        if self._beside is not None:
            self._beside.shutdown()
        self._bound = [None] * len(self._bound)
        self._runtime.close()

    def _compare_beside(self, samples: list[GoldenSample]) -> Iterator[GoldenResult]:
        """As many at a time as run beside one another, on the lanes after lane 0; none where there is no such lane."""
        at_a_time = min(BESIDE, self.lanes - 1)
        lanes = itertools.cycle(range(1, 1 + at_a_time))
        running: deque[tuple[GoldenSample, Prepared]] = deque()
        for sample in samples if at_a_time else ():
            if len(running) == at_a_time:  # the oldest has the lane that is the next one's
                yield self._difference(*running.popleft())
            running.append((sample, self._prepare(sample, next(lanes))))
            self.start(running[-1][1], lambda: None)
        for pair in running:
            yield self._difference(*pair)

    def _compare(self, sample: GoldenSample, lane: int) -> GoldenResult:
        return self._difference(sample, self._prepare(sample, lane))

    def _prepare(self, sample: GoldenSample, lane: int) -> Prepared:
        height, width = sample.image.shape[:2]
        return self.prepare(sample.image, Placement.of(self.spec, Region(0, 0, width, height)), lane)

    def _difference(self, sample: GoldenSample, prepared: Prepared) -> GoldenResult:
        inspection = self.finish(prepared)
        if inspection.anomaly_map.shape != sample.anomaly_map.shape:
            raise EngineError(
                f"{self.bundle.path}: a golden map is {sample.anomaly_map.shape}, "
                f"this input size gives {inspection.anomaly_map.shape}"
            )
        difference = np.abs(inspection.anomaly_map - sample.anomaly_map)
        threshold = self.thresholds.score
        return GoldenResult(
            score=inspection.score,
            recorded_score=sample.score,
            map_mean=float(difference.mean()),
            map_p999=float(np.quantile(difference, 0.999)),
            verdict_equal=(inspection.score >= threshold) == (sample.verdict == "FAIL"),
        )

    def _bind(self, placement: Placement, lane: int = 0) -> NDArray[np.uint8]:
        """The lane's input buffer for this placement's tiles, its coordinates bound."""
        bound = self._bound[lane]
        if bound is None or bound[0] is not placement:
            self._bound[lane] = None  # until it has worked
            bound = self._bound[lane] = placement, self._runtime.bind(placement.coords_N2HW, lane)
        return bound[1]
