"""Connects to a Ray cluster, or starts one on this machine, and names its errors. Main thread; needs Ray.

Import this module before Ray: it sets what Ray reads when it is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to its makers
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its remarks are not for a user; errors come as exceptions
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default; else a warning

import ray
from ray.exceptions import RayError

from anoseg_engines.errors import AnosegError, ConfigError

LOCAL = "local"
"""The address that starts Ray on this machine, for this run."""
SLOW = "timed out during startup"
"""What Ray says if the machine is so busy that its own processes are not ready in time; the next attempt may be in time."""
CONNECT_S = 10.0
OBJECT_STORE_BYTES = 256 << 20
"""Shared memory of a cluster that is started here. What our commands put there is small."""


@contextlib.contextmanager
def ray_cluster(address: str, goes_on: str) -> Iterator[None]:
    """Connect to the cluster, or start one, and name its errors. What Ray says of workers that die goes to standard error.

    Args:
        address: Of the cluster's head, HOST:PORT; `auto` finds a cluster on this machine, `LOCAL` starts one.
        goes_on: What to do if Ray fails in the middle.

    Raises:
        ConfigError: It is no address.
        AnosegError: The cluster cannot be reached, or was lost.
    """
    _knock(address)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            try:
                _connect(address)
            except Exception as error:  # a node that is slow to start is a plain Exception
                if address != LOCAL or SLOW not in str(error):
                    raise
                ray.shutdown()
                _connect(address)
        except Exception as error:
            what = f"--ray {address}: Ray cannot be used ({first_line(error)})"
            raise AnosegError(what, hint="is `ray status` well there?") from error
        try:
            yield
        except RayError as error:
            raise AnosegError(f"--ray {address}: Ray failed ({first_line(error)})", hint=goes_on) from error
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == LOCAL else {}
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)


def _knock(address: str) -> None:
    """Check that somebody answers at the address: Ray would end this process if nobody does.

    Raises:
        ConfigError: It is no address.
        AnosegError: Nobody answers.
    """
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--ray {address}: is not an address", hint="write it as 10.0.0.5:6379, or give auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        what = f"--ray {address}: the cluster cannot be reached ({getattr(error, 'strerror', None) or error})"
        raise AnosegError(what, hint="start it with `ray start --head` there, or check the address") from error


def first_line(error: Exception) -> str:
    """Return the first line of what an error says; Ray's go on for pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
