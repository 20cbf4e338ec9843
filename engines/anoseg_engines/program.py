"""Runs the main function of the three programs: what they print reaches its reader, or one line says why not.

Main thread. `program_output` is the first thing that each program enters.
"""

from __future__ import annotations

import _thread
import codecs
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ESCAPED = "anoseg_escaped"
"""The name of the error handler of standard output and standard error."""


@contextmanager
def program_output(name: str) -> Iterator[None]:
    """Watch over a program's output for the length of its main function.

    - Text that the terminal's encoding lacks, such as a file name that is not UTF-8, is shown escaped.
    - If standard output cannot be written (a full disk), the program says so and ends with exit code 1. If its reader has ended
      (`head`), it ends in silence with exit code 0.
    - A thread that dies, such as the one that draws a progress bar, ends the program with exit code 1.

    Args:
        name: The program's name, for messages.
    """
    _prepare()
    threads = _Threads()
    try:
        with threads:
            try:
                yield
            finally:
                sys.stdout.flush()  # otherwise the interpreter would find out while it ends
    except OSError as error:
        if not _output_is_lost():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{name}: standard output cannot be written: {error.strerror}\n")
        sys.exit(1)
    except BaseException:
        if threads.died:
            sys.exit(1)
        raise


def _prepare() -> None:
    """Make standard output and standard error usable whatever the program was started with."""
    if sys.stdout is None:  # closed by whoever started the program
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the program ends
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    codecs.register_error(ESCAPED, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Escape what the stream's encoding lacks. Bytes of a file name that are not UTF-8 are shown as bytes: `\\xf6`."""
    if isinstance(error, UnicodeEncodeError) and 0xDC80 <= ord(error.object[error.start]) <= 0xDCFF:
        return f"\\x{ord(error.object[error.start]) - 0xDC00:02x}", error.start + 1
    return codecs.backslashreplace_errors(error)


def _output_is_lost() -> bool:
    """Return whether standard output cannot be written, which only another attempt shows: the error does not name the file."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


class _Threads:
    """Interrupts the main thread when another one dies of an error that nobody handled, and lets its traceback be printed."""

    def __init__(self) -> None:
        self.died = False

    def __enter__(self) -> None:
        self._before = threading.excepthook
        threading.excepthook = self._report

    def __exit__(self, *_: object) -> None:
        threading.excepthook = self._before

    def _report(self, arguments: threading.ExceptHookArgs) -> None:
        self._before(arguments)
        if arguments.exc_type is not SystemExit:
            self.died = True
            _thread.interrupt_main()
