"""Runs an archive: starts its threads, looks after them, and ends them. Main thread."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Mapping

from anoseg_engines.errors import PublishError
from anoseg_engines.words import counted
from anosegd import logs, signals
from anosegd.archive.config import ArchiveConfig
from anosegd.archive.database import Database
from anosegd.archive.reader import MOST_PAGES, StationReader
from anosegd.archive.writer import Writer
from anosegd.client import Key
from anosegd.systemd import Notifier

STOP_S = 10.0
SILENT_S = 30.0
"""A station's thread that has not answered for this long hangs."""
STATUS_EVERY_S = 5.0


def run_archive(
    config: ArchiveConfig, database: Database, keys: Mapping[str, Key | None], environment: Mapping[str, str], pid: int
) -> int:
    """Archive until SIGINT or SIGTERM; return the exit code. The signals of `signals.block` must be blocked.

    Raises:
        AnosegError: The database refuses the archive, or a thread has died.
    """
    _allow_many_sockets()
    notifier = Notifier.from_environment(environment, pid=pid)
    writer = Writer(config, database)
    pages = threading.BoundedSemaphore(MOST_PAGES)
    readers = [StationReader(name, config, keys.get(name), writer, pages) for name in config.stations]
    workers: tuple[Writer | StationReader, ...] = (writer, *readers)
    try:
        for worker in workers:
            worker.start()
        logs.info("archive.started", database=database.shown, schema=database.schema, stations=len(readers))
        notifier.ready(f"archives {counted(len(readers), 'station')}")
        _watch(writer, readers, notifier)
    finally:
        notifier.stopping()
        for worker in workers:
            worker.stop()
        end = time.monotonic() + STOP_S
        stuck = [worker.thread_name for worker in workers if not worker.join(end - time.monotonic())]
        notifier.close()
        if stuck:  # whatever is not committed is fetched again by the next start
            logs.warning("archive.stuck", threads=", ".join(stuck))
            os._exit(0 if writer.failure is None else 1)
    logs.info("archive.stopped", rows=writer.rows)
    return 0


def _watch(writer: Writer, readers: list[StationReader], notifier: Notifier) -> None:
    """Wait for a signal; meanwhile, look after the threads.

    Raises:
        AnosegError: A thread has died.
    """
    shown_at = time.monotonic()
    while signals.wait(1.0) not in (signal.SIGTERM, signal.SIGINT):
        for worker in (writer, *readers):
            if not worker.alive:
                raise worker.failure or PublishError(
                    f"the thread {worker.thread_name} has ended", hint="its log has the details"
                )
        writer.break_off_if_hung()
        # A database that does not answer is no reason to restart: the writer waits for it.
        if all(reader.silent_s < SILENT_S or not writer.is_up for reader in readers):
            notifier.watchdog()
        if time.monotonic() - shown_at > STATUS_EVERY_S:
            shown_at = time.monotonic()
            heard = sum(reader.is_heard for reader in readers)
            up = "database up" if writer.is_up else "database away"
            notifier.status(f"{up}, {heard} of {counted(len(readers), 'station')} heard, {writer.rows} verdicts stored")


def _allow_many_sockets() -> None:
    """Raise the limit of open files to what the system allows: each station takes about twenty."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
