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
_SETTINGS = 4
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
"""How each side of a gRPC connection begins: with a frame of settings, the client after these words (RFC 9113, section 3.4)."""


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
    _check_address(address, _found_address(address))
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
            raise AnosegError(what, hint=_hint(address)) from error
        try:
            yield
        except RayError as error:
            raise AnosegError(f"--ray {address}: Ray failed ({first_line(error)})", hint=goes_on) from error
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == LOCAL else {}
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)


def _found_address(address: str) -> str:
    """Return the address that Ray takes for `auto`: a cluster that was not stopped in order leaves its own behind.

    Raises:
        AnosegError: Ray knows of no cluster.
    """
    if address != "auto":
        return address
    try:
        return str(ray._private.services.get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        hint = "start one with `ray start --head`, or give the address of its head, such as 10.0.0.5:6379"
        raise AnosegError("--ray auto: no Ray cluster was found on this machine", hint=hint) from error
    except (AttributeError, TypeError):  # the function is not public: another Ray may have another one
        return address


def _check_address(given: str, address: str) -> None:
    """Check that a cluster's head may be at the address: otherwise Ray would try for minutes, and then end this process.

    Args:
        given: As the user wrote it.
        address: What it means.

    Raises:
        ConfigError: It is no address.
        AnosegError: Nobody answers, or another program.
    """
    if address in (LOCAL, "auto"):
        return
    shown = f"--ray {given}: " if given == address else f"--ray {given} found {address}: "
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{shown}is not an address", hint="write it as 10.0.0.5:6379, or give auto")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S) as connection:
            connection.sendall(_HTTP2_GREETING)
            answer = b"" if _uses_tls() else connection.recv(4, socket.MSG_WAITALL)
    except (OSError, OverflowError) as error:
        what = f"{shown}the cluster cannot be reached ({getattr(error, 'strerror', None) or error})"
        raise AnosegError(what, hint="start it with `ray start --head` there, or check the address") from error
    if not _uses_tls() and answer[3:] != bytes((_SETTINGS,)):
        hint = "`ray start --head` prints the address; its port is usually 6379"
        raise AnosegError(f"{shown}another program than Ray answers there", hint=hint)


def _hint(address: str) -> str:
    if address not in (LOCAL, "auto") and os.environ.get("RAY_AUTH_MODE") != "token":  # Ray tells no address a token unasked
        return "does the cluster ask for a token? Then set RAY_AUTH_MODE=token here; docs/reinspect.md says how"
    return "look at the cluster with `ray status`"


def _uses_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "0") != "0"


def first_line(error: Exception) -> str:
    """Return the first line of what an error says; Ray's go on for pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
