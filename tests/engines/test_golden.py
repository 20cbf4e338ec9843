"""The self-test: it finds a fault in any set of buffers, and one that shows only when several parts run at once."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.engine import Engine
from anoseg_engines.errors import SelfTestError
from anoseg_engines.golden import self_test, self_test_steps
from anoseg_engines.runtimes.base import MAX_RUNNING, InferRequest, Traffic
from anoseg_engines.runtimes.openvino import CpuRuntime


class _Watched:
    """An infer request whose maps are wrong when `faulty.wrong` says so."""

    def __init__(self, request: InferRequest, number: int, faulty: "_FaultyRuntime") -> None:
        self._request = request
        self._number = number
        self._faulty = faulty

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        return self._request.bind(coords_N2HW)

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        running = self._faulty.running
        running.add(self._number)
        until = time.monotonic() + 0.5
        while self._number and len(running) < 2 and time.monotonic() < until:
            time.sleep(0.001)  # until another request runs too
        wrong = self._faulty.wrong(self._number, len(running) > 1)
        maps, scores = self._request.infer()
        running.discard(self._number)
        return (maps + 0.2, scores) if wrong else (maps, scores)


class _FaultyRuntime(_Watched):
    """A CPU runtime whose request 0 runs alone, and 1 to 4 at the same time. `wrong` gets a request's number, and whether
    others are running."""

    precision = "f32"
    traffic = Traffic()
    description = "faulty"
    max_running = MAX_RUNNING

    def __init__(self, runtime: CpuRuntime) -> None:
        super().__init__(runtime, 0, self)
        self.wrong: Callable[[int, bool], bool] = lambda number, in_company: False
        self.running: set[int] = set()
        self.parallel = tuple(_Watched(request, 1 + i, self) for i, request in enumerate(runtime.parallel))
        self.close = runtime.close


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: parts run only one at a time")
@pytest.mark.parametrize("wrong", ["request 0", "request 2", "request 4", "not alone"])
def test_an_engine_that_is_wrong_in_one_request_or_only_in_company_is_refused(wrong: str, tmp_path: Path) -> None:
    """The self-test runs every set of buffers, and several parts at once."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    runtime = _FaultyRuntime(CpuRuntime.open(bundle.model_onnx, bundle.manifest.input))
    engine = Engine(bundle, runtime)
    try:
        assert all(result.holds(bundle.manifest.golden_tolerance) for result in self_test(engine))
        runtime.wrong = {
            "request 0": lambda number, in_company: number == 0,
            "request 2": lambda number, in_company: number == 2,
            "request 4": lambda number, in_company: number == 4,
            "not alone": lambda number, in_company: in_company,
        }[wrong]
        with pytest.raises(SelfTestError, match=r"map differs by 0\.2"):
            self_test(engine)
        if wrong == "request 0":
            with pytest.raises(SelfTestError, match=r"map differs by 0\.2"):
                list(self_test_steps(engine))
    finally:
        engine.close()
