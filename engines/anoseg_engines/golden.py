"""Runs an engine's self-test: compares its results on the bundle's golden images with the trainer's FP32 network.

Runs on the thread that uses the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from anoseg_engines.bundle import GoldenSample, GoldenTolerance
from anoseg_engines.engine import Engine, Inference
from anoseg_engines.errors import EngineError, SelfTestError
from anoseg_engines.images import Image
from anoseg_engines.placement import Placement, Region


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """The result for one golden image, and its absolute differences from the recorded map."""

    score: float
    recorded_score: float
    map_mean: float
    map_p999: float
    verdict_equal: bool

    def holds(self, tolerance: GoldenTolerance) -> bool:
        """Whether all differences are within tolerance. A difference of NaN is never within tolerance."""
        return (
            self.verdict_equal
            and abs(self.score - self.recorded_score) <= tolerance.score
            and self.map_mean <= tolerance.map_mean
            and self.map_p999 <= tolerance.map_p999
        )


def good_parts(samples: Sequence[GoldenSample]) -> list[Image]:
    """The golden images of good parts. If there are no good parts, all golden images."""
    return [sample.image for sample in samples if sample.verdict == "PASS"] or [sample.image for sample in samples]


def self_test(engine: Engine) -> list[GoldenResult]:
    """Run all golden images: one at a time, then several at once, as the engine does when parts are waiting.

    The test also warms the engine up. The engine must not inspect parts during the test; see `self_test_steps`.

    Returns:
        A result for each golden image, from the run in which it was alone.

    Raises:
        SelfTestError: A result is out of tolerance. The message has both values.
        EngineError: The runtime failed.
    """
    samples = engine.golden_samples()
    results = [_checked(engine, index, _run_alone(engine, sample)) for index, sample in enumerate(samples)]
    for index, result in _run_parallel(engine, samples):
        _checked(engine, index, result)
    return results


def self_test_steps(engine: Engine) -> Iterator[GoldenResult]:
    """Run the same test as `self_test`, one golden image in each step, so that parts can be inspected between the steps.

    Raises:
        SelfTestError, EngineError: As `self_test`.
    """
    for index, sample in enumerate(engine.golden_samples()):
        result = _checked(engine, index, _run_alone(engine, sample))
        if engine.parallel:
            started = engine.start(sample.image, _whole(engine, sample))
            _checked(engine, index, _compare(engine, sample, started))
        yield result


def _run_alone(engine: Engine, sample: GoldenSample) -> GoldenResult:
    return _compare(engine, sample, engine.prepare(sample.image, _whole(engine, sample)))


def _run_parallel(engine: Engine, samples: list[GoldenSample]) -> list[tuple[int, GoldenResult]]:
    """Run several golden images at once. If there are fewer images than sets of buffers, some images run twice.

    All runs are finished before a result is checked. So no run continues when a result is refused.
    """
    results: list[tuple[int, GoldenResult]] = []
    running: deque[tuple[int, GoldenSample, Inference]] = deque()
    runs = max(len(samples), engine.parallel) if engine.parallel else 0
    for index, sample in islice(cycle(enumerate(samples)), runs):
        if len(running) == engine.parallel:
            done, of, inference = running.popleft()
            results.append((done, _compare(engine, of, inference)))
        running.append((index, sample, engine.start(sample.image, _whole(engine, sample))))
    return results + [(index, _compare(engine, sample, inference)) for index, sample, inference in running]


def _whole(engine: Engine, sample: GoldenSample) -> Placement:
    height, width = sample.image.shape[:2]
    return Placement.of(engine.spec, Region(0, 0, width, height))


def _compare(engine: Engine, sample: GoldenSample, inference: Inference) -> GoldenResult:
    inspection = engine.finish(inference)
    if inspection.anomaly_map.shape != sample.anomaly_map.shape:
        raise EngineError(
            f"{engine.bundle.path}: a golden map is {sample.anomaly_map.shape}, "
            f"this input size gives {inspection.anomaly_map.shape}"
        )
    difference = np.abs(inspection.anomaly_map - sample.anomaly_map)
    return GoldenResult(
        score=inspection.score,
        recorded_score=sample.score,
        map_mean=float(difference.mean()),
        map_p999=float(np.quantile(difference, 0.999)),
        verdict_equal=(inspection.score >= engine.thresholds.score) == (sample.verdict == "FAIL"),
    )


def _checked(engine: Engine, index: int, result: GoldenResult) -> GoldenResult:
    bundle = engine.bundle
    limit = engine.golden_tolerance
    if result.holds(limit):
        return result
    raise SelfTestError(
        f"{bundle.path}: the self-test failed on {engine.runtime_description}: {bundle.manifest.golden[index].image} scores "
        f"{result.score:.4f}, recorded {result.recorded_score:.4f} (±{limit.score}); map differs by "
        f"{result.map_mean:.4f} on average (≤ {limit.map_mean}), {result.map_p999:.4f} at the 99.9th percentile "
        f"(≤ {limit.map_p999}); verdict {'equal' if result.verdict_equal else 'differs'}",
        hint="the engine is refused; copy the bundle again or train it again",
    )
