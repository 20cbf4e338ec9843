"""Runs `anosegd run`, the daemon: one station after another in one process, as long as reloads follow. Main thread."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Mapping

import msgspec

from anoseg_engines.errors import AnosegError
from anosegd import logs
from anosegd.config import Config, load_config
from anosegd.config_check import check_ipc_folders, check_surroundings
from anosegd.station import End, Station, Successor
from anosegd.systemd import Notifier


def main(options: argparse.Namespace) -> int:
    """Run until stopped. The signals must be blocked already.

    Raises:
        ConfigError: The configuration is invalid.
        AnosegError: As `Station.run`.
    """
    logs.set_up(level=logs.DEBUG if options.verbose else logs.INFO, journal=os.environ.get("JOURNAL_STREAM"))

    def load() -> Config:
        config = load_config(options.config)
        return msgspec.structs.replace(config, exit_when_finished=True) if options.once else config

    def reread() -> Config:
        config = load()
        check_surroundings(config)
        return config

    config = load()
    check_ipc_folders(config)
    check_surroundings(config)
    return run(config, os.environ, reread)


def run(config: Config, environment: Mapping[str, str], reread: Callable[[], Config]) -> int:
    """Run stations until one ends without a successor, and return the exit code.

    Args:
        config: The first station's configuration.
        environment: Where systemd's variables are; capture processes inherit it.
        reread: Loads the configuration again, checked as at the start.

    Raises:
        AnosegError: As `Station.run`.
    """
    _limit_memory_pools()
    threads_before = set(threading.enumerate())
    notifier = Notifier.from_environment(environment, pid=os.getpid())
    try:
        end = Station(config, notifier, environment, reread).run()
        while end.successor is not None and not end.stuck:
            previous, config, last = config, end.successor.config, end.successor
            end, failure = _run_successor(end.successor, notifier, environment, reread)
            if failure is not None and not end.stuck:
                logs.error("reload.failed", error=failure, going_on="with the configuration before")
                notice = f"the last reload failed, the configuration before it runs: {failure}"
                config = previous
                station = Station(
                    config, notifier, environment, reread, notice=notice, inspected=last.inspected, recipe=last.recipe
                )
                end = station.run()
    except BaseException as error:
        _leave_if_stuck(error, set(threading.enumerate()) - threads_before)
        raise
    finally:
        notifier.close()
    if end.stuck:  # a thread that hangs in a library would keep the process alive
        os._exit(end.exit_code)
    return end.exit_code


def _run_successor(
    successor: Successor, notifier: Notifier, environment: Mapping[str, str], reread: Callable[[], Config]
) -> tuple[End, str | None]:
    """Run a station after a reload.

    Returns:
        Its end, and the reason why it never became ready; None if it did.

    Raises:
        AnosegError: The station failed after it had become ready.
    """
    station = Station(
        successor.config,
        notifier,
        environment,
        reread,
        engine=successor.engine,
        inspected=successor.inspected,
        recipe=successor.recipe,
    )
    try:
        end = station.run()
    except AnosegError as error:
        if station.ready:
            raise
        return End(error.exit_code, stuck=False), str(error).splitlines()[0]
    failed = not station.ready and end.exit_code != 0
    return end, "one of its threads failed, see the log" if failed else None


def _leave_if_stuck(error: BaseException, left: set[threading.Thread]) -> None:
    """If a thread that hangs would keep the process alive after this error, log the error and end the process."""
    left = {thread for thread in left if thread.is_alive() and not thread.daemon}  # pyzmq has a daemonic one
    if not left:
        return
    logs.error("daemon.stuck", threads=",".join(sorted(thread.name for thread in left)))
    if isinstance(error, AnosegError):
        logs.error("thread.failed", thread="main", error=str(error))
        os._exit(error.exit_code)
    logs.error("thread.died", exception=error, thread="main")
    os._exit(1)


def _limit_memory_pools() -> None:
    """Have glibc serve all threads from two memory pools.

    By default each thread gets a pool of its own. Each camera that a reload exchanges would open another one, in which some
    memory stays in use: 3 MB a reload, for months.
    """
    m_arena_max = -8
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(m_arena_max, 2)
