"""Runs one training in a process of its own and says how it ended. Any thread; on Ray, in a worker of any node.

The output goes to WORK/fit.log. A lock on the folder lets one process at a time train a product: it is held as long as the
training's process lives, so a second fleet, or the same one after its driver was killed, waits until the process has ended.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

from anoseg_engines.errors import AnosegError
from anoseg_engines.files import shown_name
from anoseg_trainer.fit_status import STOPPED, FitStatus, read_status
from anoseg_trainer.fleet.plan import finished_version
from anoseg_trainer.fleet.products_file import ProductTraining

LOG = "fit.log"
LOCK = ".lock"
LOCK_WAIT_S = 300.0
"""How long to wait for a training of an earlier start: it ends its step and writes a checkpoint."""
STOP_S = 60.0
"""How long a training may take to end after SIGTERM."""
CHECK_S = 0.2
KEPT_LINES = 40
"""Last lines of the output in which the reason of a failure is looked for."""
NO_RESTART = (2, 3)
"""Exit codes that a restart cannot cure: a wrong input, a refused engine."""


class Ending(NamedTuple):
    """How the process of a training ended.

    Attributes:
        kind: `finished`; `failed`: a restart cannot help; `lost`: it may; `stopped`: it was asked to stop.
        why: In words; empty if it is finished.
        exit_code: As `anoseg-train fit` has it; 1 for a process that was killed.
        status: What WORK/status.json says where it ran.
    """

    kind: Literal["finished", "failed", "lost", "stopped"]
    why: str
    exit_code: int
    status: FitStatus | None


def run_training(training: ProductTraining, stop: threading.Event, gpus: str | None = None) -> Ending:
    """Train a product in a process, and wait until it ends.

    Args:
        training: The product.
        stop: Set it to stop the training.
        gpus: CUDA_VISIBLE_DEVICES of the process; None: as it is here.
    """
    try:
        training.work.mkdir(parents=True, exist_ok=True)
        with _locked(training.work, stop) as lock:
            status = read_status(training.work)
            if finished_version(training, status) is not None:  # by the one that held the lock
                return Ending("finished", "", 0, status)
            if stop.is_set():
                return Ending("stopped", "", STOPPED, status)
            return _run(training, stop, gpus, lock)
    except AnosegError as error:  # it is in other hands, so starting it again is no help
        return Ending("failed", str(error), error.exit_code, None)
    except OSError as error:
        return Ending("lost", f"{shown_name(training.work)}: cannot be written ({error.strerror})", 1, None)


def _run(training: ProductTraining, stop: threading.Event, gpus: str | None, lock: int | None) -> Ending:
    command = [sys.executable, "-m", "anoseg_trainer.training_child", str(os.getpid()), *training.arguments()]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the driver alone
        pass_fds=() if lock is None else (lock,),
        env=os.environ if gpus is None else os.environ | {"CUDA_VISIBLE_DEVICES": gpus},
    )
    assert process.stdout is not None
    output = _Output(process.stdout, training.work / LOG)
    try:
        while process.poll() is None and not stop.wait(CHECK_S):
            pass
    finally:  # on Ray, a request to stop is an exception
        _end(process)
        output.close()
    return _ending(process.returncode, output.last_lines(), read_status(training.work), asked=stop.is_set())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that may run."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ending(code: int, lines: list[str], status: FitStatus | None, *, asked: bool) -> Ending:
    """Say how a process ended, from its exit code and its last lines."""
    if code == 0:
        return Ending("finished", "", 0, status)
    if code in (STOPPED, -signal.SIGTERM):
        return Ending("stopped" if asked else "lost", f"its process on {socket.gethostname()} was told to end", STOPPED, status)
    if code < 0:
        memory = "; if the system's log (dmesg) says that memory ran out, train fewer at a time" if code == -9 else ""
        name = signal.Signals(-code).name
        return Ending("lost", f"its process on {socket.gethostname()} was killed by {name}{memory}", 1, status)
    said = [n for n, line in enumerate(lines) if line.startswith("anoseg-train: ")]
    words = "\n".join(lines[said[-1] :]).removeprefix("anoseg-train: ") if said else (lines or ["without a word"])[-1]
    why = words if said else f"its process on {socket.gethostname()} crashed: {words}"
    return Ending("failed" if said and code in NO_RESTART else "lost", why, code if said else 1, status)


class _Output:
    """Copies a process's output to its log, and keeps the last lines. A full disk stops the log only."""

    def __init__(self, stream: IO[bytes], log: Path) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._thread = threading.Thread(target=self._copy, args=(stream, log), name="training-output")
        self._thread.start()

    def close(self) -> None:
        """Wait for the end of the output."""
        self._thread.join()

    def last_lines(self) -> list[str]:
        """Return them without line ends."""
        return [line for line in self._lines if line]

    def _copy(self, stream: IO[bytes], log: Path) -> None:
        _append(log, f"---- {time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}\n".encode())
        for line in stream:
            self._lines.append(line.decode("utf-8", "backslashreplace").rstrip())
            _append(log, line)
        stream.close()


def _append(log: Path, data: bytes) -> None:
    with contextlib.suppress(OSError), log.open("ab") as file:
        file.write(data)


@contextlib.contextmanager
def _locked(work: Path, stop: threading.Event) -> Iterator[int | None]:
    """Hold the folder's lock; None where the file system has no locks.

    Raises:
        AnosegError: Another process holds it for too long.
    """
    lock = os.open(work / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        give_up_at = time.monotonic() + LOCK_WAIT_S
        while not stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up_at:
                    said = read_status(work)
                    who = f" (process {said.pid} on {said.host})" if said else ""
                    what = f"{shown_name(work)}: another process trains this product{who}"
                    raise AnosegError(what, hint="wait for it, or end it") from error
            except OSError:
                yield None
                return
            stop.wait(CHECK_S)
        yield lock
    finally:
        os.close(lock)
