"""The CPU runtime: it leaves the process's signals alone, and loads on a machine without free threads."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.tiny_bundle import write_tiny_bundle

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
from anoseg_engines.bundle import load_bundle
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
