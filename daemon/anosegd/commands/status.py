"""Runs `anosegd status`: shows the station's next heartbeat, to a person or a program."""

from __future__ import annotations

import argparse
import sys
import time

import msgspec
import zmq
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from anoseg_engines.errors import PublishError
from anosegd.commands.connection import decoded, endpoints_of, invalid_endpoint
from anosegd.inspection.rule_calibration import is_worrying
from anosegd.wire import State

IN_ERROR = 4
"""The exit code if the station was reached and is in state Error. Without an answer it is 1."""


def main(options: argparse.Namespace) -> int:
    """Wait for a heartbeat and print it, as a table or as one line of JSON. Returns `IN_ERROR` in state Error, else 0.

    Raises:
        PublishError: No heartbeat arrived: no daemon runs there, or it hangs.
    """
    state = _receive(endpoints_of(options).publish, options.timeout)
    if options.json:
        sys.stdout.write(msgspec.json.encode(state).decode() + "\n")
    else:
        Console().print(_table(state))
    return IN_ERROR if state.state == "Error" else 0


def _receive(endpoint: str, timeout_s: float) -> State:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        socket.subscribe(b"state")
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise invalid_endpoint(endpoint, error) from error
        give_up_at = time.monotonic() + timeout_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            if socket.poll(round(left_s * 1000)):
                topic, *rest = socket.recv_multipart()
                if topic == b"state" and rest:
                    return decoded(rest[0], State)
    raise PublishError(
        f"{endpoint}: no heartbeat within {timeout_s:g} s: the station is down",
        hint="is `anosegd run` running, and is this the endpoint of its configuration?",
    )


def _table(state: State) -> RenderableType:
    counts, engine = state.counts, state.engine
    head = Text(f"{state.station}  {state.state}", style="red" if state.state == "Error" else "bold green")
    head.append(f"\n{state.detail}" if state.detail else "", style="yellow")
    head.append(f"\nup {state.uptime_s:.0f} s, {engine.name}/{engine.version} on {engine.runtime}", style="default")
    head.append(
        f"\n{state.last_seq} sent: {counts.passed} PASS, {counts.failed} FAIL, {counts.unknown} UNKNOWN; {counts.late} late",
        style="default",
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("camera", "state", "frames", "PASS", "FAIL", "UNKNOWN", "dropped", "repeated", "overruns", "restarts"):
        table.add_column(column, justify="left" if column in ("camera", "state") else "right")
    errors = Text()
    for name, c in state.cameras.items():
        verdicts = (c.counts.passed, c.counts.failed, c.counts.unknown)
        numbers = (c.frames, *verdicts, c.dropped, c.repeated, c.overruns, c.restarts)
        table.add_row(name, c.state, *map(str, numbers))
        if c.note:
            errors.append(f"{name}: {c.note}\n", style="yellow" if is_worrying(c.note) else "dim")
        if c.last_error:
            errors.append(f"{name}: last error: {c.last_error}\n", style="yellow" if c.state == "lost" else "dim")
    return Group(head, table, errors)
