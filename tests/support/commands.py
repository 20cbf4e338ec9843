"""Runs the product's commands in the test's own process: what a user types, without the seconds a new interpreter takes.

For everything but the process itself this is the same: arguments, exit code, stdout and stderr, native libraries' output
included. Tests of signals, kills and broken pipes start a real process instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

COLUMNS = "200"
"""Width of the terminal: wide enough that no table wraps a word that a test looks for."""


def run_here(
    main: Callable[[], None], program: str, *arguments: object, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command's entry point to its end, as `program ARGUMENTS` would.

    Args:
        main: The entry point; it reads `sys.argv` and ends with `SystemExit`, or returns for exit code 0.
        program: The command's name.
        arguments: What the user types after it.
        cwd: The folder to run in; the present one if None.

    Returns:
        Exit code, stdout and stderr. An exception that the command does not handle fails the test.
    """
    command = [program, *map(str, arguments)]
    code: object = 0
    with contextlib.ExitStack() as surroundings:
        out, err = (surroundings.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        with _surroundings(command, cwd), _redirected("stdout", out), _redirected("stderr", err):
            try:
                main()
            except SystemExit as end:
                code = end.code
        assert code is None or isinstance(code, int), code
        return subprocess.CompletedProcess(command, code or 0, _text(out), _text(err))


@contextlib.contextmanager
def _surroundings(command: list[str], cwd: Path | None) -> Iterator[None]:
    """What a process of its own would have for itself: arguments, folder, signal mask, log handlers, warning filters."""
    argv, columns, folder = sys.argv, os.environ.get("COLUMNS"), Path.cwd()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sys.argv, os.environ["COLUMNS"] = command, COLUMNS
    os.chdir(cwd or folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as for a user: libraries' deprecations are not shown
            yield
    finally:
        os.chdir(folder)
        sys.argv = argv
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
        root.handlers[:] = handlers
        root.setLevel(level)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _redirected(name: str, file: BinaryIO) -> Iterator[None]:
    """Python's stream of that name, and the descriptor below it that native libraries write to, go into the file."""
    stream, number = getattr(sys, name), {"stdout": 1, "stderr": 2}[name]
    stream.flush()
    kept = os.dup(number)
    os.dup2(file.fileno(), number)
    try:
        with open(number, "w", encoding="utf-8", closefd=False) as replaced:
            setattr(sys, name, replaced)
            yield
    finally:
        setattr(sys, name, stream)
        os.dup2(kept, number)
        os.close(kept)


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()
