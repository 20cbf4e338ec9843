"""Runs `anosegd tail`: shows verdicts as they arrive, as a live table for a person or as JSON lines for a program.

Everything runs on the main thread, so that a table that cannot be drawn ends the command.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from anoseg_engines.words import counted
from anosegd import client as client_api
from anosegd.client import Client, Cursor, Event
from anosegd.commands.connection import connect, decoded, endpoints_of, print_line
from anosegd.commands.moments import period_of
from anosegd.commands.past import JournalFile, open_past
from anosegd.commands.shown import local_time, shown
from anosegd.wire import State, Verdict

ROWS = 100
"""Verdicts that are remembered, for the highest window."""
DRAW_EVERY_S = 0.25
WINDOW_S = 10.0
TABLE_HEAD = 2
MIN_ROWS = 5
COLUMNS = ("seq", "time", "camera", "part", "verdict", "score", "limit", "defects", "ms")
RIGHT = ("seq", "score", "limit", "defects", "ms")
WIDE = 100
WIDE_ONLY = ("seq", "defects", "ms")
"""Columns that a window narrower than `WIDE` leaves out."""
MIN_PART = 12
WITH_FILE = 30
"""Where a part's id has less room, no file is shown beside it if both do not fit."""
COLOURS = {"PASS": "green", "FAIL": "red", "UNKNOWN": "yellow"}


def main(options: argparse.Namespace) -> int:
    """Show verdicts until interrupted, or until `--count` verdicts were shown. `--since` begins in the journal.

    Raises:
        PublishError: The station does not answer.
        JournalError: The station is down and its journal cannot be read.
    """
    endpoints = endpoints_of(options)
    if options.json:
        with connect(endpoints) as client:
            for verdict in islice(_verdicts(client, options), options.count):
                print_line(verdict)
                sys.stdout.flush()
        return 0
    board = Board(endpoints.publish)
    drawing = Live(board, console=Console(), auto_refresh=False, vertical_overflow="crop")
    screen = _Screen(drawing)
    with (
        drawing,
        connect(endpoints, on_event=board.add_event, on_state=board.add_state, on_wait=screen.draw_if_due) as client,
    ):
        for verdict in islice(_verdicts(client, options), options.count):
            board.add_verdict(decoded(verdict, Verdict), replayed=verdict.replayed)
            screen.draw_if_due()
        drawing.refresh()
    if not drawing.console.is_terminal:
        drawing.console.line()  # the table ends without a line end there
    return 0


def _verdicts(client: Client, options: argparse.Namespace) -> Iterator[client_api.Verdict]:
    """Yield past verdicts of parts since the given moment, then new ones. While the station is down, its file has the past."""
    if options.since is None:
        yield from client.follow()
        return
    period = period_of(options.since, None)
    assert period.first_committed is not None
    after: Cursor | None = None
    first: int | None = None
    if endpoints_of(options).is_down:
        with open_past(options) as past:
            assert isinstance(past, JournalFile)
            for verdict in past.replay(past.first_seq_since(period.first_committed)):
                after = verdict.cursor or after
                if period.has(verdict):
                    yield verdict
    else:
        first = client.first_seq_since(period.first_committed)
    for verdict in client.follow(after=after, first=first):
        if not verdict.replayed or period.has(verdict):
            yield verdict


class _Screen:
    """Draws a few times a second, however many verdicts arrive."""

    def __init__(self, drawing: Live) -> None:
        self._drawing, self._next = drawing, 0.0

    def draw_if_due(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + DRAW_EVERY_S
            self._drawing.refresh()


class Board:
    """Keeps the contents of the table, which takes the whole window. Times are local.

    Attributes:
        seen: Verdicts received.
        replayed: How many of them came from the journal.
        missed: Numbers that never arrived.
    """

    def __init__(self, endpoint: str) -> None:
        self.seen = 0
        self.replayed = 0
        self.missed = 0
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
        self.seen += 1
        self.replayed += replayed
        self._outcomes[verdict.outcome] += 1
        self._last.append(verdict)
        if not replayed:  # the journal gives them faster than the line inspects
            self._arrivals.append(time.monotonic())
            self._latencies.append(verdict.timings_ms.total)

    def add_state(self, state: dict[str, Any]) -> None:
        """Show the state of a heartbeat."""
        self._state, self._state_at = decoded(state, State), time.monotonic()

    def add_event(self, event: Event) -> None:
        """Count numbers that are lost for good."""
        if event.kind in ("missed", "gone"):
            self.missed += event.last - event.first + 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the newest rows that fit between head and totals. In a low window, the cameras leave their place to rows."""
        height = console.size.height
        foot = console.render_lines(self._foot(), options, pad=False)
        room = height - len(foot) - TABLE_HEAD - MIN_ROWS - 1  # the cursor is on a line of its own
        head = console.render_lines(Text("\n").join(self._head()), options, pad=False)
        if len(head) > max(1, room):
            head = console.render_lines(
                Text("\n").join(_short(self._head(), max(1, room), options.max_width)), options, pad=False
            )
        rows = max(1, height - len(foot) - len(head) - TABLE_HEAD - 1)
        table = console.render_lines(self._table(rows, options.max_width), options, pad=False)
        for line in (*head, *table, *foot):
            yield from line
            yield Segment.line()

    def _head(self) -> list[Text]:
        """The station, then its cameras, lost ones first."""
        state, silent_s = self._state, time.monotonic() - self._state_at
        if state is None:
            return [Text(f"{self._endpoint}: no heartbeat yet", style="yellow")]
        if silent_s > 3:
            return [Text(f"{state.station}: no heartbeat for {silent_s:.0f} s: treat the station as down", style="bold red")]
        head = Text(f"{shown(state.station)}  {state.state}", style="red" if state.state == "Error" else "bold")
        head.append(f"  {state.engine.name}/{state.engine.version} on {state.engine.runtime}", style="dim")
        lines = [head]
        for name, camera in sorted(state.cameras.items(), key=lambda item: item[1].state != "lost"):
            doing = "paused" if camera.pause is not None and camera.state == "running" else camera.state
            text = f"{name}: {doing}, {counted(camera.frames, 'frame')}, {camera.dropped} dropped"
            if camera.overruns:
                text += f", {counted(camera.overruns, 'overrun')}"
            if camera.state == "lost":
                text += f": {shown(camera.last_error or '')}"
            lines.append(Text(text, style="yellow" if camera.state == "lost" else "dim"))
        return lines

    def _table(self, rows: int, width: int) -> Table:
        """The newest rows. A narrow window leaves out what a person needs least."""
        names = [name for name in COLUMNS if width >= WIDE or name not in WIDE_ONLY]
        verdicts = list(self._last)[-rows:]
        cells = [_cells(verdict) for verdict in verdicts]
        widths = {name: max(len(name), *(row[name].cell_len for row in cells), 0) for name in names if name != "part"}
        room = width - sum(widths.values()) - (2 * len(names) - 1)
        camera = max(len("camera"), widths["camera"] - max(0, MIN_PART - room))  # a long name leaves room for the part's id
        longest = max(MIN_PART, room)
        table = Table(expand=True, padding=(0, 1, 0, 0), box=SIMPLE_HEAD, show_edge=False)
        for name in names:
            if name == "part":
                table.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
            else:
                justify: JustifyMethod = "right" if name in RIGHT else "left"
                table.add_column(name, justify=justify, no_wrap=True)
        for verdict, row in zip(verdicts, cells, strict=True):
            file = "" if verdict.source is None else f" {verdict.source}"
            row["camera"] = Text(shown(verdict.camera, camera))
            if longest < WITH_FILE and cell_len(verdict.part_id + file) > longest:
                file = ""  # the id is worth more
            row["part"] = Text(_fitting(verdict.part_id + file, longest))
            table.add_row(*(row[name] for name in names))
        return table

    def _foot(self) -> Text:
        now = time.monotonic()
        while self._arrivals and self._arrivals[0] < now - WINDOW_S:
            self._arrivals.popleft()
        judged = self._outcomes["PASS"] + self._outcomes["FAIL"]
        foot = Text(f"{counted(self.seen, 'verdict')}: ")
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


def _short(head: list[Text], rows: int, width: int) -> list[Text]:
    """Cut the head to so many rows of a window. The last one says how many cameras have no row."""
    hidden = len(head) - rows
    more = Text(f"  and {counted(hidden, 'more camera')}" if hidden > 0 else "", style="dim")
    lines = [line.copy() for line in head[:rows]]
    for n, line in enumerate(lines, start=1):
        line.truncate(width - (len(more) if n == len(lines) else 0), overflow="ellipsis")
    lines[-1].append_text(more)
    return lines


def _fitting(text: str, cells: int) -> str:
    """Show text in so many columns of the terminal; some letters take two."""
    fitting = shown(text, cells)
    if (needed := cell_len(fitting)) > cells:
        fitting = shown(text, cells * len(fitting) // needed)
    return fitting


def _cells(verdict: Verdict) -> dict[str, Text]:
    """The cells of a row, without the part's id, whose length depends on the others."""
    why = f" {verdict.reason}" if verdict.reason else ""
    return {
        "seq": Text(str(verdict.seq)),
        "time": Text(local_time(verdict.captured_at or verdict.triggered_at or verdict.committed_at, "%H:%M:%S")),
        "camera": Text(verdict.camera),
        "verdict": Text(verdict.outcome + why, style=COLOURS[verdict.outcome]),
        "score": Text("" if verdict.score is None else f"{verdict.score:.4f}"),
        "limit": Text("" if verdict.threshold is None else f"{verdict.threshold:.4f}"),
        "defects": Text("" if verdict.score is None else str(len(verdict.defects))),
        "ms": Text(f"{verdict.timings_ms.total:.1f}"),
    }
