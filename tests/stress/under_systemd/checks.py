"""What every check needs: one line for each that passes, an error for the first that fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from stress.under_systemd.machine import FailedError


def held(what: str, seconds: float | None = None) -> None:
    print(f"ok {f'{seconds:6.2f} s' if seconds is not None else ' ' * 8}  {what}", flush=True)


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise FailedError(what)


@contextlib.contextmanager
def timed(what: str, limit_s: float | None = None) -> Iterator[None]:
    """A check that passes if nothing in it fails and it takes no longer than the limit."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    demand(limit_s is None or took_s <= limit_s, f"{what}: took {took_s:.2f} s, limit {limit_s} s")
    held(what, took_s)


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    give_up_at = time.monotonic() + limit_s
    while not condition():
        demand(time.monotonic() < give_up_at, f"timed out: {what}")
        time.sleep(0.1)
