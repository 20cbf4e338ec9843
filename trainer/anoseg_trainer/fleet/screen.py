"""Shows the progress of all products on one screen: a table on a terminal, elsewhere lines. Standard error; main thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anoseg_trainer.fleet.supervision import Account, Phase
from anoseg_trainer.tables import LONG_NAME

SUMMARY_EVERY_S = 60.0
"""How often a line sums up the progress where there is no terminal."""
FRAME_LINES = 6
"""Lines of the screen that are not rows of the table."""
ORDER: tuple[Phase, ...] = ("training", "failed", "stopped", "waiting", "finished")
"""Which products come first, if the screen has no room for all."""
COLOURS = {"training": "cyan", "failed": "red", "stopped": "yellow", "waiting": "dim", "finished": "green"}
BAR = 10


class Screen:
    """The products of a run. Use it as a context."""

    def __init__(self, console: Console, accounts: Sequence[Account], *, begun: str) -> None:
        """Start nothing yet.

        Args:
            console: Where to show them.
            accounts: The products.
            begun: What a training does of which nothing is heard yet: `starting`, or `queued` for a node.
        """
        self._console, self._accounts, self._begun = console, accounts, begun
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._summed_at = time.monotonic()
        self._width = max(len("… 100 more"), *(len(account.training.name) for account in accounts))

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, account: Account, what: str) -> None:
        """Print what happened to a product."""
        self._console.print(f"{account.training.name}: {what}", soft_wrap=True, highlight=False, markup=False)

    def look(self) -> None:
        """Show where all products stand."""
        if self._live is not None:
            self._live.update(Group(self._table(), Text(summary(self._accounts))), refresh=True)
        elif time.monotonic() - self._summed_at >= SUMMARY_EVERY_S:
            self._summed_at = time.monotonic()
            self._console.print(self._line(), soft_wrap=True, highlight=False, markup=False)

    def _line(self) -> str:
        """Sum up the progress in one line."""
        running = [
            f"{account.training.name} {account.status.done:.0%}"
            for account in self._accounts
            if account.phase == "training" and account.status is not None
        ]
        return "; ".join([summary(self._accounts), *([f"in training: {', '.join(running)}"] if running else [])])

    def _table(self) -> Table:
        table = Table(expand=True, pad_edge=False, box=box.SIMPLE_HEAD)
        table.add_column("product", width=min(self._width, LONG_NAME), no_wrap=True)
        table.add_column("state", width=max(len(self._begun), len("preparing")), no_wrap=True)
        table.add_column("done", width=BAR + 5, no_wrap=True)
        for title, width in (("step", 6), ("AUROC", 5), ("left", 7)):
            table.add_column(title, width=width, justify="right", no_wrap=True)
        table.add_column("remark", ratio=1, overflow="ellipsis", no_wrap=True)
        ordered = sorted(self._accounts, key=lambda account: ORDER.index(_phase(account)))
        room = max(3, self._console.height - FRAME_LINES)
        shown = ordered if len(ordered) <= room else ordered[: room - 1]
        for account in shown:
            table.add_row(*self._cells(account), style="dim" if _phase(account) == "waiting" else None)
        if left := Counter(_phase(account) for account in ordered[len(shown) :]):
            kinds = ", ".join(f"{n} {phase}" for phase, n in left.items())
            table.add_row(f"… {sum(left.values())} more", *[""] * 5, kinds)
        return table

    def _cells(self, account: Account) -> Iterator[str | Text]:
        status, running = account.status, account.phase == "training"
        state = (self._begun if status is None else status.state) if running else account.phase
        yield escape(account.training.name)
        yield Text(state, style=COLOURS[_phase(account)])
        done = 1.0 if account.phase == "finished" else status.done if running and status is not None else 0.0
        filled = round(done * BAR)
        bar = "━" * filled + " " * (BAR - filled) + f" {done:4.0%}"
        yield Text(bar if running or done else "", style=COLOURS[account.phase])
        yield str(status.step) if running and status is not None else ""
        yield "" if not running or status is None or status.image_auroc is None else f"{status.image_auroc:.3f}"
        yield "" if not running or status is None or status.left_s is None else minutes_of(status.left_s)
        yield Text(_remark(account))


def _phase(account: Account) -> Phase:
    """Return the phase; a training of which nothing is heard yet waits for a node."""
    return "waiting" if account.phase == "training" and account.status is None else account.phase


def _remark(account: Account) -> str:
    if account.phase == "failed":
        return account.reason
    if account.phase == "finished" and account.status is not None and account.status.figures is not None:
        figures = account.status.figures
        return f"version {figures.version} rejects {figures.caught:.1%} of {figures.defective} {figures.defects}"
    if account.restarts:
        return f"started again {len(account.restarts)}×: {account.restarts[-1].splitlines()[0]}"
    return account.plan.why if account.phase == "waiting" else ""


def summary(accounts: Sequence[Account]) -> str:
    """Count the products in each phase, in words."""
    counts = Counter(_phase(account) for account in accounts)
    rest = [f"{counts[phase]} {phase}" for phase in ("failed", "stopped", "training", "waiting") if counts[phase]]
    return ", ".join([f"{counts['finished']} of {len(accounts)} finished", *rest])


def minutes_of(seconds: float) -> str:
    """Write a time as minutes and seconds, or hours and minutes."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d}"
