"""The daemon with switches for faults that cannot be made from outside: `faulty_daemon.py FOLDER run CONFIG`.

FOLDER/engine-fails: while this file exists the engine raises on every part. FOLDER/engine-drifts: its scores are off.
FOLDER/clock: seconds that the wall clock is off. FOLDER/leak: bytes that are kept of every part.
Nothing else is changed; the product has no such switches.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError
from anosegd.cli import run

FOLDER = Path(sys.argv[1])
LEAK = int((FOLDER / "leak").read_text()) if (FOLDER / "leak").exists() else 0
_finish, _time_ns = Engine.finish, time.time_ns
_kept: list[bytearray] = []


def finish(self: Engine, *arguments: Any) -> Any:
    if (FOLDER / "engine-fails").exists():
        raise EngineError("the engine fails, as this test wants it to")
    if LEAK:
        _kept.append(bytearray(LEAK))
    found = _finish(self, *arguments)
    return replace(found, score=found.score + 0.2) if (FOLDER / "engine-drifts").exists() else found


def time_ns() -> int:
    try:
        return _time_ns() + int(float((FOLDER / "clock").read_text()) * 1e9)
    except (OSError, ValueError):
        return _time_ns()


Engine.finish = finish  # type: ignore[method-assign]
time.time_ns = time_ns
sys.exit(run(sys.argv[2:]))
