"""The daemon with faults that cannot be caused from outside: `faulty_daemon.py FOLDER run CONFIG`.

Files in FOLDER switch the faults on. The product has no such switches.

engine-fails    While it exists, the engine raises an error on every part.
runtime-lost    While it exists, the runtime raises an error whenever it runs the network, as with a lost GPU context.
engine-drifts   While it exists, every score is 0.2 too high.
recipe-loads    While it exists, the engine of a recipe that is not in force is being loaded.
journal-hangs   While it exists, every write of the journal waits: it neither succeeds nor fails.
clock           Seconds to add to the wall clock.
leak            Bytes to leak for every part; read at the start.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, RuntimeFailedError
from anoseg_engines.runtimes.openvino import CpuRequest
from anosegd.cli import main
from anosegd.journal.store import Store
from anosegd.recipes import preparation

FOLDER = Path(sys.argv[1])
LEAK = int((FOLDER / "leak").read_text()) if (FOLDER / "leak").exists() else 0
_finish, _infer, _time_ns = Engine.finish, CpuRequest.infer, time.time_ns
_load_engine = preparation.load_engine
_write = Store.write
_kept: list[bytearray] = []


def finish(self: Engine, *arguments: Any) -> Any:
    if (FOLDER / "engine-fails").exists():
        raise EngineError("the test made the engine fail")
    if LEAK:
        _kept.append(bytearray(LEAK))
    found = _finish(self, *arguments)
    return replace(found, score=found.score + 0.2) if (FOLDER / "engine-drifts").exists() else found


def infer(self: CpuRequest) -> Any:
    if (FOLDER / "runtime-lost").exists():
        raise RuntimeFailedError("the test lost the runtime")
    return _infer(self)


def load_engine(*arguments: Any, **more: Any) -> Engine:
    while (FOLDER / "recipe-loads").exists():
        time.sleep(0.05)
    return _load_engine(*arguments, **more)


def write(self: Store, *arguments: Any, **more: Any) -> None:
    while (FOLDER / "journal-hangs").exists():
        time.sleep(0.05)
    _write(self, *arguments, **more)


def time_ns() -> int:
    try:
        return _time_ns() + int(float((FOLDER / "clock").read_text()) * 1e9)
    except (OSError, ValueError):
        return _time_ns()


Engine.finish = finish  # type: ignore[method-assign]
CpuRequest.infer = infer  # type: ignore[method-assign]
Store.write = write  # type: ignore[method-assign]
time.time_ns = time_ns
preparation.load_engine = load_engine
del sys.argv[1]
main()
