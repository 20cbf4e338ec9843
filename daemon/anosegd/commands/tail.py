"""Runs `anosegd tail`: shows verdicts as they arrive, as a live table for a person or as JSON lines for a program."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from anosegd import client as client_api
from anosegd.client import Client, Event
from anosegd.commands.connection import connect, decoded, endpoints_of, print_line, unix_ns
from anosegd.wire import State, Verdict

ROWS = 15
WINDOW_S = 10.0
COLOURS = {"PASS": "green", "FAIL": "red", "UNKNOWN": "yellow"}


def main(options: argparse.Namespace) -> int:
    """Show verdicts until interrupted, or until `--count` verdicts were shown. `--since` begins in the journal.

    Raises:
        PublishError: The station does not answer.
    """
    endpoints = endpoints_of(options)
    if options.json:
        with connect(endpoints) as client:
            for verdict in _verdicts(client, options):
                print_line(verdict)
                sys.stdout.flush()
        return 0
    board = Board(endpoints.publish)
    live = Live(console=Console(), get_renderable=board.render, refresh_per_second=4)
    with connect(endpoints, on_event=board.add_event, on_state=board.add_state) as client, live:
        for verdict in _verdicts(client, options):
            board.add_verdict(decoded(verdict, Verdict), replayed=verdict.replayed)
    return 0


def _verdicts(client: Client, options: argparse.Namespace) -> Iterator[client_api.Verdict]:
    first = client.first_seq_since(unix_ns(options.since)) if options.since else None
    return islice(client.follow(first=first), options.count)


class Board:
    """Keeps the contents of the table. One thread adds verdicts, another one draws. Times are UTC.

    Attributes:
        seen: Verdicts received.
        replayed: How many of them came from the journal.
        missed: Numbers that never arrived.
    """

    def __init__(self, endpoint: str) -> None:
        self.seen = 0
        self.replayed = 0
        self.missed = 0
        self._lock = threading.Lock()
        self._endpoint = endpoint
        self._outcomes: Counter[str] = Counter()
        self._last: deque[Verdict] = deque(maxlen=ROWS)
        self._arrivals: deque[float] = deque()
        self._latencies: deque[float] = deque(maxlen=500)
        self._state: State | None = None
        self._state_at = 0.0
        self._began = time.monotonic()

    def add_verdict(self, verdict: Verdict, *, replayed: bool = False) -> None:
        """Count a verdict and show it."""
        with self._lock:
            self.seen += 1
            self.replayed += replayed
            self._outcomes[verdict.outcome] += 1
            self._last.append(verdict)
            self._arrivals.append(time.monotonic())
            if not replayed:
                self._latencies.append(verdict.timings_ms.total)

    def add_state(self, state: dict[str, Any]) -> None:
        """Show the state of a heartbeat."""
        with self._lock:
            self._state, self._state_at = decoded(state, State), time.monotonic()

    def add_event(self, event: Event) -> None:
        """Count numbers that are lost for good."""
        if event.kind in ("missed", "gone"):
            with self._lock:
                self.missed += event.last - event.first + 1

    def render(self) -> RenderableType:
        """Return the whole table. Any thread."""
        with self._lock:
            return Group(self._head(), self._table(), self._foot())

    def _head(self) -> Text:
        state, silent_s = self._state, time.monotonic() - self._state_at
        if state is None:
            return Text(f"{self._endpoint}: no heartbeat yet", style="yellow")
        if silent_s > 3:
            return Text(f"{state.station}: no heartbeat for {silent_s:.0f} s: treat the station as down", style="bold red")
        head = Text(f"{state.station}  {state.state}", style="red" if state.state == "Error" else "bold")
        head.append(f"  {state.engine.name}/{state.engine.version} on {state.engine.runtime}", style="dim")
        for name, camera in state.cameras.items():
            text = f"\n{name}: {camera.state}, {camera.frames} frames, {camera.dropped} dropped"
            if camera.overruns:
                text += f", {camera.overruns} overruns"
            if camera.state == "lost":
                text += f": {camera.last_error}"
            head.append(text, style="yellow" if camera.state == "lost" else "dim")
        return head

    def _table(self) -> Table:
        table = Table(expand=True, padding=(0, 1, 0, 0), box=SIMPLE_HEAD)
        for column in ("seq", "UTC", "camera"):
            table.add_column(column, no_wrap=True)
        table.add_column("part", ratio=1, no_wrap=True, overflow="ellipsis")
        for column in ("verdict", "score", "limit", "defects", "ms"):
            table.add_column(column, justify="left" if column == "verdict" else "right", no_wrap=True)
        for verdict in self._last:
            why = f" {verdict.reason}" if verdict.reason else ""
            cells: list[str | Text] = [
                str(verdict.seq),
                (verdict.captured_at or verdict.triggered_at or verdict.committed_at)[11:19],
                verdict.camera,
                verdict.source or verdict.part_id,
                Text(verdict.outcome + why, style=COLOURS[verdict.outcome]),
                "" if verdict.score is None else f"{verdict.score:.4f}",
                "" if verdict.threshold is None else f"{verdict.threshold:.4f}",
                "" if verdict.score is None else str(len(verdict.defects)),
                f"{verdict.timings_ms.total:.1f}",
            ]
            table.add_row(*cells)
        return table

    def _foot(self) -> Text:
        now = time.monotonic()
        while self._arrivals and self._arrivals[0] < now - WINDOW_S:
            self._arrivals.popleft()
        judged = self._outcomes["PASS"] + self._outcomes["FAIL"]
        foot = Text(f"{self.seen} verdicts: ")
        for outcome, colour in COLOURS.items():
            foot.append(f"{self._outcomes[outcome]} {outcome}  ", style=colour)
        foot.append(f"reject share {self._outcomes['FAIL'] / judged:.1%}  " if judged else "")
        foot.append(f"{len(self._arrivals) / max(0.5, min(WINDOW_S, now - self._began)):.1f}/s  ")
        if self._latencies:
            ordered = sorted(self._latencies)
            foot.append(f"latency median {ordered[len(ordered) // 2]:.1f} ms, max {ordered[-1]:.1f} ms")
        if self.missed:
            foot.append(f"  {self.missed} missed", style="bold red")
        return foot
