"""Runs `anoseg-train fleet`: trains the products of a file, many at a time, and reports on all of them.

The driver imports no PyTorch: each training is a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from anoseg_engines.commands.extra_packages import extra_packages
from anoseg_engines.errors import AnosegError
from anoseg_engines.words import counted, rounded_up
from anoseg_trainer.fit_status import STOPPED
from anoseg_trainer.fleet.fleet_report import failures, figures_of, worst_first, write_report
from anoseg_trainer.fleet.on_this_machine import OnThisMachine, has_unused_gpu
from anoseg_trainer.fleet.plan import plan_of
from anoseg_trainer.fleet.products_file import Fleet, ProductTraining, load_fleet, read_products
from anoseg_trainer.fleet.screen import Screen, minutes_of, summary
from anoseg_trainer.fleet.supervision import Account, Place, account_of, supervise
from anoseg_trainer.stop_signals import StopSignals
from anoseg_trainer.tables import table


class FleetError(AnosegError):
    """Products that failed, or were stopped."""

    def __init__(self, what: str, *, hint: str, exit_code: int) -> None:
        super().__init__(what, hint=hint)
        self.exit_code = exit_code


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ConfigError: The file cannot be used, or a product of it cannot be trained.
        FleetError: Products failed; the exit code is theirs if it is the same for all, else 1.
        AnosegError: The cluster was lost, or the report cannot be written.
    """
    if options.names:
        print("\n".join(read_products(options.products).products))
        return
    fleet = load_fleet(options.products)
    trainings = fleet.only(options.only)
    accounts = [account_of(training, plan_of(training)) for training in trainings]
    to_do = [account.training for account in accounts if account.phase == "waiting"]
    if options.dry_run:
        if options.ray is None:
            OnThisMachine(to_do)  # is there room?
        _print_plan(options, fleet, accounts)
        return
    with _place(options.ray, to_do) as place:
        try:
            stopped = place is not None and _train(place, fleet, accounts, queues=options.ray is not None)
        finally:
            unwritten = _write_report(fleet, accounts)
    codes = {account.exit_code for account in accounts if account.phase == "failed"}
    if unwritten is not None and (stopped or codes):
        print(f"note: {unwritten.what}", file=sys.stderr)
    if stopped:
        raise FleetError("stopped", hint="the same command goes on", exit_code=STOPPED)
    if codes:
        hint = "correct what is named; the same command then trains only these"
        raise FleetError(failures(accounts), hint=hint, exit_code=codes.pop() if len(codes) == 1 else 1)
    if unwritten is not None:
        raise unwritten


def _train(place: Place, fleet: Fleet, accounts: list[Account], *, queues: bool) -> bool:
    """Train what is not finished; return whether it was stopped."""
    begun = "queued" if queues else "starting"
    fleet.work.mkdir(parents=True, exist_ok=True)
    with StopSignals() as stop, Screen(Console(stderr=True), accounts, begun=begun) as screen:
        return supervise(
            accounts,
            place,
            restarts=fleet.restarts,
            stop_requested=lambda: stop.requested,
            on_event=screen.event,
            on_look=screen.look,
        )


def _write_report(fleet: Fleet, accounts: Sequence[Account]) -> AnosegError | None:
    """Write the report on all products of the file, and print what became of these. Return why the report cannot be written."""
    names = {account.training.name for account in accounts}
    others = [account_of(training, plan_of(training)) for training in fleet.trainings if training.name not in names]
    Console().print(_result(accounts))
    try:
        report = write_report(fleet.path, fleet.work, [*accounts, *others])
    except AnosegError as error:
        print(summary(accounts))
        return error
    print(f"{summary(accounts)}; report in {report}")
    return None


@contextlib.contextmanager
def _place(address: str | None, trainings: Sequence[ProductTraining]) -> Iterator[Place | None]:
    """Open the place where the trainings run: this machine, or a Ray cluster; None if there are none."""
    if not trainings:
        yield None
        return
    if address is None:
        place = OnThisMachine(trainings)
        if has_unused_gpu(trainings):
            what = "this machine seems to have a GPU, which is not used: set gpus: 1 in the products file"
            print(f"note: {what}", file=sys.stderr)
        try:
            yield place
        finally:  # a second Ctrl-C comes here at once: its trainings must end, or this process would wait for them
            place.stop()
        return
    with extra_packages("anoseg-train fleet --ray"):
        from anoseg_engines.ray_cluster import ray_cluster
        from anoseg_trainer.fleet.on_ray import GOES_ON, OnRay
    with ray_cluster(address, GOES_ON):
        yield OnRay(trainings)


def _print_plan(options: argparse.Namespace, fleet: Fleet, accounts: Sequence[Account]) -> None:
    shown = Table()
    for title in ("product", "would", "why", "with"):
        shown.add_column(title, overflow="fold")
    for account in accounts:
        training = account.training
        gpus = f", {training.gpus:g} GPU" if training.gpus else ""
        uses = "" if account.plan.action == "skip" else f"{counted(training.cores, 'core')}{gpus}"
        shown.add_row(training.name, account.plan.action, account.plan.why, uses)
    Console().print(shown, markup=False)
    where = f"on {counted(len(os.sched_getaffinity(0)), 'core')} of this machine" if options.ray is None else "on Ray"
    number = sum(account.phase == "waiting" for account in accounts)
    print(f"{number} of {counted(len(accounts), 'product')} would be trained {where}; work and report in {fleet.work}")
    print("dry run: nothing was started, nothing was written")


def _result(accounts: Sequence[Account]) -> Table:
    """Build the table that is printed at the end, the worst product first."""
    rows = []
    for account in worst_first(accounts):
        figures = figures_of(account)
        if figures is None:
            rows.append([account.training.name, account.phase, "", "", ""])
            continue
        promised = "not known" if figures.promised is None else f"{rounded_up(figures.promised):.1%}"
        caught = f"{figures.caught:.1%} of {figures.defective} {figures.defects}"
        rows.append([account.training.name, f"version {figures.version}", caught, promised, minutes_of(figures.seconds)])
    return table(["product", "state", "rejects", "good parts rejected, at most", "time"], rows)
