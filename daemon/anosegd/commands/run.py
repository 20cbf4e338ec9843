"""A daemon's life: one station after another, through reloads, in one process. Runs on the main thread."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Mapping

from anoseg_engines.errors import AnosegError
from anosegd import logs
from anosegd.config import Config
from anosegd.station import End, Station
from anosegd.systemd import Notifier


def run(config: Config, environment: Mapping[str, str], reread: Callable[[], Config]) -> int:
    """Run a station until it is stopped, through reloads; returns the exit code. Signals must be blocked already.

    Raises:
        AnosegError: as `Station.run`.
    """
    _keep_memory_together()
    notifier = Notifier.from_environment(environment, pid=os.getpid())
    try:
        end = Station(config, notifier, environment, reread).run()
        while end.successor is not None and not end.stuck:
            previous, config = config, end.successor
            end, why = _go_on_with(config, notifier, environment, reread)
            if why is not None and not end.stuck:
                logs.error("reload.failed", error=why, going_on="with the configuration before")
                notice = f"the last reload failed, the configuration before it runs: {why}"
                config = previous
                end = Station(config, notifier, environment, reread, notice=notice).run()
    finally:
        notifier.close()
    if end.stuck:  # a thread that hangs in a library would hold the process for ever
        os._exit(end.exit_code)
    return end.exit_code


def _keep_memory_together() -> None:
    """Have glibc serve all threads from two pools of memory. With one for each thread, as it is used to, each camera that a
    reload exchanges takes up a new one, and in each a little stays in use: 3 MB a reload, for months."""
    m_arena_max = -8
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(m_arena_max, 2)


def _go_on_with(
    config: Config, notifier: Notifier, environment: Mapping[str, str], reread: Callable[[], Config]
) -> tuple[End, str | None]:
    """Run a station with a configuration that was checked; with it, why it never came to inspect, if so.

    Raises:
        AnosegError: what ended it after it had come to inspect.
    """
    station: Station | None = None
    try:
        station = Station(config, notifier, environment, reread)
        end = station.run()
    except AnosegError as error:
        if station is not None and station.ready:
            raise
        return End(error.exit_code, stuck=False), str(error).splitlines()[0]
    failed = not station.ready and end.exit_code != 0
    return end, "one of its threads failed, see the log" if failed else None
