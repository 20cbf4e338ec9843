"""The CPU runtime: it leaves the process's signals alone, and loads on a machine without free threads."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import good_part, write_tiny_bundle

from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec, Region
from anoseg_engines.runtimes import openvino_network
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_engines.runtimes.openvino_network import OTHER_SIZES, PARALLEL

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


def test_few_sizes_stay_compiled(tmp_path: Path) -> None:
    """A folder whose images all differ in size does not fill the memory. The sizes of the configuration stay."""
    bundle = write_tiny_bundle(tmp_path / "tiny", InputSpec(64, 64, "tile", 1.0, 0))
    engine = load_engine(bundle, runtime="cpu", threads=2)
    networks = engine._runtime._networks  # type: ignore[attr-defined]
    regions = [Region(0, 0, 64 * n, 64) for n in range(1, 10)]
    engine.keep_ready(regions[1:3])
    used: list[weakref.ref[object]] = []
    for region in regions:
        placement, image = engine.place(region), good_part(64, region.width)
        engine.inspect(image, placement)
        if engine.parallel:
            engine.finish(engine.start(image, placement))
        used.append(weakref.ref(networks.compiled[len(placement.tiles)].alone.frames_NHWC))
    assert set(networks.compiled) == {2, 3} | set(range(9, 9 - OTHER_SIZES, -1))
    gc.collect()
    assert [n for n, ref in enumerate(used, 1) if ref() is not None] == sorted(networks.compiled)
    engine.keep_ready(regions[:1], others=4)
    for region in regions:
        engine.place(region)
    assert set(networks.compiled) == {1, 6, 7, 8, 9}
    engine.close()


@pytest.mark.parametrize(("large", "threads", "compiled"), [(True, 2, 1), (True, 4, 2), (False, 2, 2)])
def test_a_large_network_on_two_cores_is_compiled_once(
    large: bool, threads: int, compiled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one would take much memory. Parts that are started together still get the same result as alone."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    spec = bundle.manifest.input
    monkeypatch.setattr(openvino_network, "LARGE", spec.height * spec.width + (not large))
    uses: list[Mapping[str, str | int]] = []
    compile_pieces = openvino_network.Networks._compile_pieces

    def counted(networks: openvino_network.Networks, pieces: Any, use: Mapping[str, str | int]) -> Any:
        uses.append(use)
        return compile_pieces(networks, pieces, use)

    monkeypatch.setattr(openvino_network.Networks, "_compile_pieces", counted)
    engine = load_engine(bundle, runtime="cpu", threads=threads)
    image = good_part(spec.height, spec.width)
    placement = engine.place(Region(0, 0, spec.width, spec.height))
    alone = engine.inspect(image, placement)
    together = [engine.start(image, placement) for _ in range(engine.parallel)]
    assert (len(uses), len(together)) == (compiled, PARALLEL)
    for started in together:
        found = engine.finish(started)
        assert found.score == pytest.approx(alone.score, abs=1e-5)
    engine.close()
