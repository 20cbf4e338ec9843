"""Which processors programs use, and how much of them (Linux)."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from support.anosegd_line import children_of


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Let the programs that are started in this context use these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processes_of(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *(found for child in children_of(pid) for found in processes_of(child))]


def processor_s(pid: int) -> float:
    """Return how many seconds of processor time a process, and all below it, have used."""
    ticks = 0
    for one in processes_of(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
