"""The engine: parts one at a time, and several at once."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_bundle import bad_part, good_part, write_tiny_bundle

from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError
from anoseg_engines.placement import Region
from anoseg_engines.runtimes.base import Traffic
from anoseg_engines.runtimes.openvino import CpuRuntime

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: parts run only one at a time")


class _Request:
    """Fails while `fails` is set."""

    def __init__(self) -> None:
        self.fails = True

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        n, _, height, width = coords_N2HW.shape
        return np.zeros((n, height, width, 3), np.uint8)

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        if self.fails:
            raise EngineError("the device does not answer")
        return np.zeros((1, 64, 64), np.float32), np.array([0.25], np.float32)


class _OneParallelRequest(_Request):
    precision, description, traffic, max_running = "f32", "fails", Traffic(), 1

    def __init__(self) -> None:
        super().__init__()
        self.parallel = (_Request(),)

    def close(self) -> None:
        pass


@two_cores
def test_parts_at_the_same_time_have_the_results_of_each_alone(tmp_path: Path) -> None:
    """Up to `parallel` parts are started before the first is finished, and none gets another's result."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    engine = Engine(bundle, CpuRuntime.open(bundle.model_onnx, bundle.manifest.input))
    placement = engine.place(Region(0, 0, 80, 48))
    images = [part + np.uint8(i) for i in range(20) for part in (good_part(), bad_part() // 2)]
    alone = [engine.inspect(image, placement) for image in images]
    for first in range(0, len(images), engine.parallel):
        batch = range(first, min(first + engine.parallel, len(images)))
        started = [engine.start(images[i], placement) for i in batch]
        for i, inference in zip(batch, started, strict=True):
            found = engine.finish(inference)
            assert found.score == alone[i].score
            np.testing.assert_array_equal(found.anomaly_map, alone[i].anomaly_map)
    assert len({inspection.score for inspection in alone}) > 20
    engine.close()


def test_a_started_part_that_fails_is_reported_and_frees_its_buffers(tmp_path: Path) -> None:
    """`when_done` is called and `finish` raises; the next part runs in the same buffers."""
    runtime = _OneParallelRequest()
    engine = Engine(write_tiny_bundle(tmp_path / "tiny"), runtime)
    placement = engine.place(Region(0, 0, 80, 48))
    ended = threading.Event()
    inference = engine.start(good_part(), placement, ended.set)
    assert ended.wait(10)
    assert inference.done
    with pytest.raises(EngineError, match="does not answer"):
        engine.finish(inference)
    runtime.parallel[0].fails = False
    assert engine.finish(engine.start(good_part(), placement)).score == 0.25
    engine.close()
