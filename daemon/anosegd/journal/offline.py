"""Reads the journal of a station that is down. Changes nothing: no file is written, renamed or made beside it.

Runs in a command, on the main thread. While a daemon runs, ask the daemon instead: it knows which verdicts were sent.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anosegd.journal.format import beside, files_of
from anosegd.journal.place import check_content
from anosegd.journal.reader import JournalReader
from anosegd.journal.types import JournalConfig, JournalError


@contextmanager
def offline_reader(config: JournalConfig) -> Iterator[JournalReader]:
    """Open the journal for the length of a `with` block. Numbers that a killed daemon left pending are void.

    Raises:
        ConfigError: There is no journal at this path.
        JournalError: It cannot be read, or a daemon started while it was read.
    """
    path = Path(config.path).resolve()
    if not path.exists():
        raise JournalError(f"{path}: there is no journal yet", hint="it is made when the station starts for the first time")
    check_content(path)
    before = _stamp(path)
    with contextlib.ExitStack() as opened:
        log, memory = beside(path, "-wal"), beside(path, "-shm")
        mode = "ro&immutable=1"  # makes no files, and needs no permission to make any
        if _size(log) and not memory.exists():  # copied without it: only beside a copy can it be made again
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            for name in files_of(path)[:2]:
                shutil.copyfile(name, folder / name.name)
            path, mode = folder / path.name, "rw"
        elif _size(log):  # of a killed daemon
            mode = "ro&readonly_shm=1"
        with JournalReader(path, mode=mode, ended=True) as reader:
            yield reader
    if _stamp(Path(config.path).resolve()) != before:
        raise JournalError(f"{config.path}: the station was started meanwhile", hint="run the command again")


def _stamp(path: Path) -> list[tuple[int, int] | None]:
    """What changes when a daemon writes the journal."""
    found: list[tuple[int, int] | None] = []
    for name in files_of(path)[:2]:
        try:
            status = name.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_size, status.st_mtime_ns))
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
