"""OpenVINO in our process: it must leave alone what is not its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

LOADS = {
    "one after the other": "a = load(); a.close(); b = load(); b.close(); del a, b",
    "closed on another thread": "a = load(); t = threading.Thread(target=a.close); t.start(); t.join(); del a",
    "loaded on another thread": "t = threading.Thread(target=lambda: kept.append(load())); t.start(); t.join(); kept.pop()",
}
PROGRAM = """
import faulthandler, gc, os, signal, sys, threading
from pathlib import Path
from anoseg_engines.bundle import load_bundle
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
