"""The CPU runtime: it leaves the process's signals alone, and the self-test covers every set of its buffers."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.engine import Engine
from anoseg_engines.errors import SelfTestError
from anoseg_engines.golden import self_test
from anoseg_engines.runtimes.base import InferRequest, Traffic
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_engines.runtimes.openvino_network import PARALLEL

LOADS = {
    "one after the other": "a = load(); a.close(); b = load(); b.close(); del a, b",
    "closed on another thread": "a = load(); t = threading.Thread(target=a.close); t.start(); t.join(); del a",
    "loaded on another thread": "t = threading.Thread(target=lambda: kept.append(load())); t.start(); t.join(); kept.pop()",
}
PROGRAM = """
import faulthandler, gc, os, signal, sys, threading
from pathlib import Path
from anoseg_engines.bundle.read import load_bundle
from anoseg_engines.loading import load_engine

faulthandler.enable()  # gives this thread a signal stack, as pytest does, and as a service does that reports crashes
bundle, kept = load_bundle(Path(sys.argv[1])), []
load = lambda: load_engine(bundle, runtime="cpu")
{loads}
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("signal taken", flush=True))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("how", LOADS)
def test_signals_are_taken_after_engines_came_and_went(how: str, tmp_path: Path) -> None:
    """With every core, OpenVINO would set up and free a signal stack; in the wrong order, the next signal ends the process
    without a message."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    program = PROGRAM.format(loads=LOADS[how])
    done = subprocess.run([sys.executable, "-c", program, bundle.path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout == "signal taken\n"


def test_networks_are_compiled_one_after_the_other_if_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has no threads left, loading takes longer and works."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    refusals = []

    def refused(thread: threading.Thread) -> None:
        refusals.append(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading.Thread, "start", refused)
    runtime = CpuRuntime.open(bundle.model_onnx, bundle.manifest.input)
    assert refusals
    assert len(runtime.parallel) == PARALLEL
    runtime.close()


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
    finally:
        engine.close()
