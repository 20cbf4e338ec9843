"""Keeps the accounts of a fleet: starts trainings, again if they were lost, and says what became of each. Main thread."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from anoseg_engines.words import counted
from anoseg_trainer.fit_status import FitStatus, one_line, read_status
from anoseg_trainer.fleet.plan import Plan, finished_version
from anoseg_trainer.fleet.products_file import ProductTraining
from anoseg_trainer.fleet.training_run import Ending

POLL_S = 0.5
SHARED_WAIT_S = 10.0
"""How long a finished bundle may take to appear here: a network drive is seen late from other machines."""

Phase = Literal["waiting", "training", "finished", "failed", "stopped"]


class Place(Protocol):
    """Where trainings run."""

    def start(self, training: ProductTraining) -> bool:
        """Start a training; return False if there is no room for it now."""

    def endings(self, timeout_s: float) -> list[tuple[str, Ending]]:
        """Wait for trainings that end; return each with its product's name, or none after the time."""

    def stop(self) -> None:
        """Ask all trainings to end."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Account:
    """A product and what became of it.

    Attributes:
        training: The product.
        plan: What was to do.
        phase: Where it stands.
        status: What WORK/status.json says of this training; None: nothing yet.
        restarts: Why it was started again, each time.
        why: Why it failed.
        exit_code: Of a failed training.
    """

    training: ProductTraining
    plan: Plan
    phase: Phase = "waiting"
    status: FitStatus | None = None
    restarts: list[str] = dataclasses.field(default_factory=list)
    why: str = ""
    exit_code: int = 0
    _before: float | None = None

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        return one_line(self.why)

    def look(self) -> None:
        """Read the status of a training that runs, if its process has written one since it was started."""
        found = read_status(self.training.work)
        if found is not None and found.key == self.training.key and found.updated != self._before:
            self.status = found

    def begin(self) -> None:
        """Note that it was handed over; what its status says now is of an earlier process."""
        found = read_status(self.training.work)
        self.phase, self.status, self._before = "training", None, None if found is None else found.updated


def account_of(training: ProductTraining, plan: Plan) -> Account:
    """Open the account of a product: nothing of it runs."""
    account = Account(training=training, plan=plan)
    status = read_status(training.work)
    if status is not None and status.key == training.key:
        account.status = status
    if plan.action == "skip":
        account.phase = "finished"
    elif account.status is not None and status is not None and status.state == "failed":
        account.why, account.exit_code = status.error, status.exit_code or 1
    return account


def supervise(
    accounts: Sequence[Account],
    place: Place,
    *,
    restarts: int,
    stop_requested: Callable[[], bool],
    on_event: Callable[[Account, str], None],
    on_look: Callable[[], None],
) -> bool:
    """Train all products that are not finished.

    Args:
        accounts: The products; their phases change.
        place: Where they are trained.
        restarts: How often a training is started again that was lost.
        stop_requested: Whether to stop all trainings.
        on_event: Called with a product and what happened to it.
        on_look: Called about twice a second, after the accounts were brought up to date.

    Returns:
        Whether it was stopped.
    """
    waiting = deque(account for account in accounts if account.phase == "waiting")
    running: dict[str, Account] = {}
    stopped = False
    for account in waiting:
        account.why, account.exit_code = "", 0
    while waiting or running:
        if not stopped and stop_requested():
            stopped = True
            place.stop()
        if stopped:
            _give_up(waiting)
        for account in list(waiting):
            if not stopped and place.start(account.training):
                waiting.remove(account)
                account.begin()
                running[account.training.name] = account
        for name, ending in place.endings(POLL_S) if running else ():
            account = running.pop(name)
            _end(account, ending, restarts=0 if stopped else restarts, on_event=on_event)
            if account.phase == "waiting":
                waiting.appendleft(account)
        for account in running.values():
            account.look()
        on_look()
    return stopped


def _give_up(waiting: deque[Account]) -> None:
    while waiting:
        waiting.popleft().phase = "stopped"


def _end(account: Account, ending: Ending, *, restarts: int, on_event: Callable[[Account, str], None]) -> None:
    """Enter how a training ended; one that is to start again waits."""
    account.status = ending.status or account.status
    if ending.kind == "finished" and not _is_here(account):
        why = f"its bundle is not in {account.training.out}; every machine needs stores and the work folder at the same paths"
        ending = Ending("failed", why, 1, None)
    if ending.kind == "lost" and len(account.restarts) < restarts:
        account.restarts.append(ending.why)
        account.phase = "waiting"
        on_event(account, f"is started again ({len(account.restarts)} of {restarts}): {ending.why}")
    elif ending.kind == "finished":
        account.phase = "finished"
        figures = account.status.figures if account.status else None
        on_event(account, "finished" if figures is None else f"finished, version {figures.version}: {figures.answer}")
    elif ending.kind == "stopped":
        account.phase = "stopped"
        on_event(account, "stopped")
    else:
        again = f" (started again {counted(len(account.restarts), 'time')})" if account.restarts else ""
        account.phase, account.why, account.exit_code = "failed", ending.why + again, ending.exit_code
        on_event(account, f"failed: {account.why}")


def _is_here(account: Account) -> bool:
    """Whether a training that says it is finished has its bundle in the store, as this machine sees it."""
    give_up_at = time.monotonic() + SHARED_WAIT_S
    while finished_version(account.training, account.status) is None:
        if time.monotonic() > give_up_at:
            return False
        time.sleep(POLL_S)
    return True
