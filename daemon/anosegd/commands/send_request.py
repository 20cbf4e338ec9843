"""Runs `anosegd drain`, `reload`, `swap`, `rollback` and `prove`.

Each sends one request to the station and waits for the answer. `prove` runs the self-test.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import Any

from anoseg_engines.errors import PublishError
from anosegd.client import Client, ClientError
from anosegd.commands.connection import client_key, connect, endpoints_of, refuse_if_down
from anosegd.config import load_config

DRAIN_TIMEOUT_S = 5.0
PROVE_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 900.0
"""For requests that load a bundle and run its self-test first. With `engine.build`, a TensorRT plan may be built, too."""
RESTART_TIMEOUT_S = 120.0
TRY_S = 1.0


def main(options: argparse.Namespace) -> int:
    """Send the request that the command stands for, and print the answer.

    Raises:
        PublishError: The station does not answer, or refuses; the message gives the reason.
    """
    command = options.command
    if command == "reload" and options.wait and _asked_by_signal(options):
        return 0
    arguments: dict[str, Any] = {}
    if command == "swap":
        arguments = {"bundle": str(options.bundle.absolute()), "other_product": options.other_product}
    if command in ("swap", "rollback"):
        arguments |= {"who": options.who, "why": options.why}
    timeout_s = {"drain": DRAIN_TIMEOUT_S, "prove": PROVE_TIMEOUT_S}.get(command, LOAD_TIMEOUT_S)
    endpoints = endpoints_of(options)
    refuse_if_down(endpoints)
    with connect(endpoints, request_timeout_s=timeout_s) as client:
        run_id = client.status()["run_id"] if command == "reload" else None
        answer = client.request(command, **arguments)
    engine = answer.get("engine")
    if run_id is not None and engine is None:  # more has changed than cameras and bundle
        with connect(endpoints, request_timeout_s=TRY_S) as client:
            engine = _engine_after_restart(client, run_id)
    result = f"inspecting with {engine['name']}/{engine['version']} (digest {engine['digest'][:12]})" if engine else "done"
    sys.stdout.write(f"{command}: {result if command != 'prove' else 'done'}\n")
    if cameras := answer.get("cameras"):
        sys.stdout.write(f"  cameras opened again, added or removed: {', '.join(cameras)}\n")
    if warning := answer.get("warning"):
        sys.stderr.write(f"anosegd: warning: {warning}\n")
    return 0


def _asked_by_signal(options: argparse.Namespace) -> bool:
    """Send the daemon SIGHUP if systemd calls this command without a key and the station asks for one.

    systemd 252 shows the unit's credentials to ExecStart, but not to ExecReload.

    Raises:
        ConfigError: The configuration is refused.
    """
    daemon = os.environ.get("MAINPID")
    if daemon is None or options.config is None or client_key(options.key) is not None:
        return False
    if load_config(options.config).keys is None:
        return False
    os.kill(int(daemon), signal.SIGHUP)
    sys.stdout.write("reload: this command has no key, so it sent SIGHUP; the station's log has the result\n")
    return True


def _engine_after_restart(client: Client, run_id: str) -> dict[str, Any]:
    """Wait until the station that runs as `run_id` has restarted, and return the name of its engine.

    Raises:
        PublishError: It went back to the configuration before, or does not come back in time.
    """
    end = time.monotonic() + RESTART_TIMEOUT_S
    while time.monotonic() < end:
        try:
            state = client.status()
        except ClientError:  # it is ending, or not there yet
            time.sleep(0.1)
            continue
        if state["run_id"] == run_id or state["state"] == "Preoperational":
            time.sleep(0.1)
        elif state["reload_error"] is not None:
            raise PublishError(f"reload: {state['reload_error']}")
        else:
            return dict(state["engine"])
    raise PublishError(
        f"reload: accepted, but the station has not come back within {RESTART_TIMEOUT_S:.0f} s",
        hint="see its log; if `control.endpoint` has changed, it answers at the new one: anosegd status CONFIG",
    )
