"""Runs `anosegd status`: shows the station's next heartbeat, to a person or a program."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import timedelta
from math import ceil

import msgspec
import zmq
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from anoseg_engines.errors import PublishError
from anosegd.client import connect as connect_socket
from anosegd.commands.connection import Endpoints, connect, decoded, endpoints_of, invalid_endpoint
from anosegd.commands.observed import observed, observed_note
from anosegd.commands.shown import local_time, moment_of, shown
from anosegd.endpoint import answers
from anosegd.inspection.rule_calibration import is_worrying
from anosegd.inspection.score_thresholds import NO_PROMISE, PROMISE_LOST, threshold_note
from anosegd.wire import Counts, Pause, State, Stored

MINUTE = "%Y-%m-%d %H:%M"
IN_ERROR = 4
"""The exit code if the station was reached and is in state Error. Without an answer it is 1."""


def main(options: argparse.Namespace) -> int:
    """Wait for a heartbeat and print it, as a table or as one line of JSON. Returns `IN_ERROR` in state Error, else 0.

    Raises:
        PublishError: No heartbeat arrived: no daemon runs there, or it hangs.
    """
    endpoints = endpoints_of(options)
    state = _receive(endpoints, options.timeout)
    if options.json:
        sys.stdout.write(msgspec.json.encode(state).decode() + "\n")
    else:
        Console().print(_table(state, _observed(state, endpoints)))
    return IN_ERROR if state.state == "Error" else 0


def _observed(state: State, endpoints: Endpoints) -> dict[str, str]:
    """Say, for each camera with another threshold than the calibrated one, what past parts show about it."""
    moved = {name: c.threshold for name, c in state.cameras.items() if c.threshold is not None and threshold_note(c.threshold)}
    endpoints = endpoints._replace(control=endpoints.control or state.control)
    if not moved or endpoints.control is None or not answers(endpoints.control):
        return {}
    notes = {}
    with connect(endpoints) as client:
        for name, in_use in moved.items():
            found = observed(client, state, name, (in_use.value, in_use.calibrated))
            notes[name] = observed_note(found, in_use.value, before=in_use.calibrated)
    return notes


def _receive(endpoints: Endpoints, timeout_s: float) -> State:
    endpoint = endpoints.publish
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(b"state")
        try:
            connect_socket(socket, endpoint, endpoints.key)
        except zmq.ZMQError as error:
            raise invalid_endpoint(endpoint, error) from error
        give_up_at = time.monotonic() + timeout_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            if socket.poll(round(left_s * 1000)):
                topic, *rest = socket.recv_multipart()
                if topic == b"state" and rest:
                    return decoded(rest[0], State)
    starting = "a program has this endpoint: the daemon is just starting, hangs, or refuses this client's key; see its log"
    hint = starting if answers(endpoint) else endpoints.hint_to_start
    raise PublishError(f"{endpoint}: no heartbeat within {timeout_s:g} s: the station is down", hint=hint)


def _table(state: State, observed_notes: dict[str, str]) -> RenderableType:
    counts, engine = state.counts, state.engine
    head = Text(f"{shown(state.station)}  {state.state}", style="red" if state.state == "Error" else "bold green")
    head.append(f"\n{shown(state.detail)}" if state.detail else "", style="yellow")
    head.append(f"\nup {state.uptime_s:.0f} s, {engine.name}/{engine.version} on {engine.runtime}", style="default")
    if state.recipes:
        refused = [f"{shown(name)}: {shown(found.error)}" for name, found in state.recipes.items() if found.error is not None]
        head.append(f"\nrecipe {shown(state.recipe)}, one of {len(state.recipes)}", style="default")
        head.append("".join(f"\nrecipe refused: {text}" for text in refused), style="yellow")
    if (journal := state.journal) is not None:
        head.append(f"\nin the journal {_counted(journal.stored)}{_since(journal.since)}", style="default")
    if (evidence := state.evidence) is not None:
        head.append(
            f"\npictures kept {evidence.kept}, dropped {evidence.dropped}, {evidence.size_mb:.0f} MB in all", style="default"
        )
    begun = moment_of(state.at) - timedelta(seconds=state.uptime_s)
    head.append(
        f"\nsent {_counted(counts)}, {counts.late} late, since the start at {begun.astimezone():{MINUTE}}", style="default"
    )
    stored = all(c.stored is not None for c in state.cameras.values())
    columns = ("state", "PASS", "FAIL", "UNKNOWN", "frames", "dropped", "repeated", "overruns", "restarts")
    caption = "PASS, FAIL, UNKNOWN: in the journal; the rest since the start" if stored else None
    table = Table(box=SIMPLE_HEAD, padding=0, caption=caption, caption_justify="left")
    table.add_column("camera", overflow="fold")
    for column in columns:
        table.add_column(column, justify="left" if column == "state" else "right", no_wrap=True)
    errors = Text()
    for name, c in state.cameras.items():
        verdicts = c.stored or c.counts
        numbers = (verdicts.passed, verdicts.failed, verdicts.unknown, c.frames, c.dropped, c.repeated, c.overruns, c.restarts)
        table.add_row(name, "paused" if c.pause and c.state == "running" else c.state, *map(str, numbers))
        if c.note:
            errors.append(f"{name}: {shown(c.note)}\n", style="yellow" if _is_worrying(c.note) else "dim")
        if c.pause is not None:
            errors.append(f"{name}: {pause_note(c.pause)}\n", style="bold yellow")
        if (found := c.threshold) is not None and found.who is not None:
            why = f"{name}: {shown(found.who)} set the threshold at {local_time(found.at or '')}: {shown(found.why or '')}\n"
            errors.append(why, style="yellow")
        if name in observed_notes:
            errors.append(f"{name}: {observed_notes[name]}\n", style="yellow")
        if c.last_error:
            errors.append(f"{name}: last error: {shown(c.last_error)}\n", style="yellow" if c.state == "lost" else "dim")
    return Group(head, table, errors)


def pause_note(pause: Pause) -> str:
    """Say that a camera is paused, for how long, and by whom."""
    why = f": {shown(pause.why)}" if pause.why else ""
    left = f"{ceil(pause.left_s / 60)} min left"
    return f"paused until {local_time(pause.until, '%H:%M:%S')} ({left}) by {shown(pause.who)}{why}; every part is UNKNOWN"


def _counted(counts: Counts | Stored) -> str:
    total = counts.passed + counts.failed + counts.unknown
    return f"{total}: {counts.passed} PASS, {counts.failed} FAIL, {counts.unknown} UNKNOWN"


def _since(moment: str | None) -> str:
    return f", since {local_time(moment, MINUTE)}" if moment is not None else ""


def _is_worrying(note: str) -> bool:
    return is_worrying(note) or PROMISE_LOST in note or NO_PROMISE in note
