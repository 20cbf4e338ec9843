"""`anosegd status`: the station's next heartbeat, for a person or a program."""

from __future__ import annotations

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from anoseg_engines.errors import PublishError
from anosegd.commands.subscribe import subscribe
from anosegd.inspection.rule_calibration import is_worrying
from anosegd.wire import State


def hear_state(endpoint: str, timeout_s: float) -> State:
    """Wait for a heartbeat.

    Raises:
        PublishError: none came: no daemon runs there, or it hangs.
    """
    with subscribe(endpoint, "state") as subscription:
        state = subscription.wait_for("state", State, timeout_s)
    if state is None:
        raise PublishError(
            f"{endpoint}: no heartbeat within {timeout_s:g} s: the station is down",
            hint="is `anosegd run` running, and is this the endpoint of its configuration?",
        )
    return state


def as_json(state: State) -> str:
    """The heartbeat, one line of JSON."""
    return msgspec.json.encode(state).decode()


def as_table(state: State) -> RenderableType:
    """The heartbeat for a person."""
    counts, engine = state.counts, state.engine
    head = Text(f"{state.station}  {state.state}", style="red" if state.state == "Error" else "bold green")
    head.append(f"\n{state.detail}" if state.detail else "", style="yellow")
    head.append(f"\nup {state.uptime_s:.0f} s, {engine.name}/{engine.version} on {engine.runtime}", style="default")
    head.append(
        f"\n{state.last_seq} sent: {counts.passed} PASS, {counts.failed} FAIL, {counts.unknown} UNKNOWN; {counts.late} late",
        style="default",
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("camera", "state", "frames", "PASS", "FAIL", "UNKNOWN", "dropped", "overruns", "restarts"):
        table.add_column(column, justify="left" if column in ("camera", "state") else "right")
    errors = Text()
    for name, c in state.cameras.items():
        numbers = (c.frames, c.counts.passed, c.counts.failed, c.counts.unknown, c.dropped, c.overruns, c.restarts)
        table.add_row(name, c.state, *map(str, numbers))
        if c.note:
            errors.append(f"{name}: {c.note}\n", style="yellow" if is_worrying(c.note) else "dim")
        if c.last_error:
            errors.append(f"{name}: last error: {c.last_error}\n", style="yellow" if c.state == "lost" else "dim")
    return Group(head, table, errors)
