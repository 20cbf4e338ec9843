"""The CPU runtime: OpenVINO must leave alone what is not its own, and each of its lanes is proved."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.engine import Engine
from anoseg_engines.errors import NotProvedError
from anoseg_engines.runtimes.openvino import LANES, CpuRuntime

LOADS = {
    "one after the other": "a = load(); a.close(); b = load(); b.close(); del a, b",
    "closed on another thread": "a = load(); t = threading.Thread(target=a.close); t.start(); t.join(); del a",
    "loaded on another thread": "t = threading.Thread(target=lambda: kept.append(load())); t.start(); t.join(); kept.pop()",
}
PROGRAM = """
import faulthandler, gc, os, signal, sys, threading
from pathlib import Path
from anoseg_engines.bundle.read import load_bundle
from anoseg_engines.engine import Engine

faulthandler.enable()  # gives this thread a stack for signals, as pytest does, and a service that wants to be told of crashes
bundle, kept = load_bundle(Path(sys.argv[1])), []
load = lambda: Engine.load(bundle, runtime="cpu")
{loads}
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("signal taken", flush=True))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("how", LOADS)
def test_signals_are_taken_after_engines_came_and_went(how: str, tmp_path: Path) -> None:
    """OpenVINO lays out a stack for signals with each of its cores and takes it away in the order in which they go: a signal
    that comes after the wrong order ends the process, without a word."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    program = PROGRAM.format(loads=LOADS[how])
    done = subprocess.run([sys.executable, "-c", program, bundle.path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout == "signal taken\n"


def test_without_a_thread_to_be_had_networks_are_compiled_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    refusals = []

    def refused(thread: threading.Thread) -> None:
        refusals.append(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading.Thread, "start", refused)
    runtime = CpuRuntime(bundle.model_onnx, bundle.manifest.input)
    assert refusals
    assert runtime.lanes == LANES
    runtime.close()


class _WrongSometimes(CpuRuntime):
    """Its answers are wrong when `wrong` says so of a lane and of the lanes that run at the moment."""

    def watch(self) -> "_WrongSometimes":
        self.wrong = lambda lane, in_company: False
        self._running: set[int] = set()
        return self

    def infer(self, lane: int = 0) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        self._running.add(lane)
        until = time.monotonic() + 0.5
        while lane and len(self._running) < 2 and time.monotonic() < until:
            time.sleep(0.001)  # for another one to come beside it
        wrong = self.wrong(lane, len(self._running) > 1)
        maps, scores = super().infer(lane)
        self._running.discard(lane)
        return (maps + 0.2, scores) if wrong else (maps, scores)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing runs beside")
@pytest.mark.parametrize("wrong", ["lane 0", "lane 2", "not alone"])
def test_an_engine_that_is_wrong_on_one_lane_or_only_in_company_is_refused(wrong: str, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    runtime = _WrongSometimes(bundle.files["model.onnx"], bundle.manifest.input).watch()
    engine = Engine(bundle, runtime)
    try:
        assert all(result.holds(bundle.manifest.golden_tolerance) for result in engine.prove())
        runtime.wrong = {
            "lane 0": lambda lane, in_company: lane == 0,
            "lane 2": lambda lane, in_company: lane == 2,
            "not alone": lambda lane, in_company: in_company,
        }[wrong]
        with pytest.raises(NotProvedError, match=r"map differs by 0\.2"):
            engine.prove()
    finally:
        engine.close()
