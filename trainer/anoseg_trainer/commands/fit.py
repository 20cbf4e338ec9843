"""Runs `anoseg-train fit`: shows the progress of a training, and prints its figures.

PyTorch is imported after configuration and data folder are checked, so that a mistake in them is reported at once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from anoseg_engines.bundle import how_to_release, read_releases, release_version
from anoseg_engines.errors import ConfigError
from anoseg_engines.result_files import try_folder
from anoseg_engines.words import counted
from anoseg_trainer.config import TrainConfig, load_config, with_limits
from anoseg_trainer.data.good_images import find_good_images
from anoseg_trainer.tables import table

if TYPE_CHECKING:
    from anoseg_trainer.pipeline import Fitted
    from anoseg_trainer.training import Status
    from anoseg_trainer.training.together import Together
    from anoseg_trainer.validation import Validation


OWNER = "bundle.txt"
"""File in the default work folder with the path of the bundle (STORE/NAME) that the folder belongs to."""


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    rank = _rank_of_torchrun()
    if rank:
        from anoseg_trainer.training.together import help_training, together

        with together() as group:
            help_training(group)
        return
    config = with_limits(load_config(options.config), minutes=options.minutes, steps=options.steps)
    if options.false_reject is not None:
        config = msgspec.structs.replace(config, false_reject=options.false_reject)
    if options.release and not options.go_on and (released := read_releases(options.out)):
        raise ConfigError(
            f"--release is for a first version: version {released[-1].version} of {options.out} is released already",
            hint="train without --release and look at the new version; `anoseg-engine release` then makes it current",
        )
    if options.go_on and options.resume:
        raise ConfigError("--resume and --go-on: give one of them", hint="--go-on resumes if there is a checkpoint")
    find_good_images(options.data)
    work = options.work or default_work(options.out, resume=options.resume or options.go_on)
    try_folder(options.out, "--out")
    try_folder(work, "--work")

    from anoseg_trainer.model.checkpoint import find_checkpoint
    from anoseg_trainer.pipeline import fit

    if options.resume:
        find_checkpoint(work)  # before the folder is claimed
    if options.work is None:
        claim(work, options.out)

    with _group(config, shared=rank is not None) as group, TrainingProgress(Console(stderr=True)) as progress:
        fitted = fit(
            options.data,
            options.out,
            config,
            seed=options.seed,
            work=work,
            resume=options.resume,
            go_on=options.go_on,
            quick=options.quick,
            cores=options.cores,
            group=group,
            on_status=progress.show,
            on_note=progress.note,
        )
    _print_result(fitted)
    if not options.release:
        print(how_to_release(fitted.bundle))
    elif not (released := read_releases(options.out)):
        release_version(options.out, fitted.bundle.manifest.version, fitted.bundle.digest)
        print(f"released: {options.out} means this version")
    elif released[-1].digest == fitted.bundle.digest:  # by an earlier start of this command, with --go-on
        print(f"released already: {options.out} means this version")
    else:
        print(f"--release is for a first version: version {released[-1].version} of {options.out} is released already")
        print(how_to_release(fitted.bundle))


def _rank_of_torchrun() -> int | None:
    """Return the number of this process among those that torchrun started for one training; None if it is alone."""
    shared = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    return int(os.environ["RANK"]) if shared else None


@contextlib.contextmanager
def _group(config: TrainConfig, *, shared: bool) -> Iterator[Together | None]:
    """Meet the other processes of the training; None if this one is alone."""
    if not shared:
        yield None
        return
    from anoseg_trainer.training.together import together

    with together() as group:
        group.check(config)
        yield group


def default_work(out: Path, *, resume: bool) -> Path:
    """Return the folder for checkpoints and reports: runs/NAME, or with a number behind if a bundle of another store has it.

    A folder with files in which nothing says whose it is may be from an earlier version. It is left alone, but a training
    may be resumed in it if the bundle has no folder of its own.
    """
    owner, runs = os.fsencode(out.resolve()), Path("runs")
    named = re.compile(rf"{re.escape(out.name)}(-\d+)?")
    found = [path for path in (runs.iterdir() if runs.is_dir() else ()) if path.is_dir() and named.fullmatch(path.name)]
    owners = {path: _owner(path) for path in sorted(found, key=lambda path: (len(path.name), path.name)) if any(path.iterdir())}
    if owner in owners.values():
        return next(path for path in owners if owners[path] == owner)
    if resume and None in owners.values():
        return next(path for path in owners if owners[path] is None)
    names = (out.name if n == 1 else f"{out.name}-{n}" for n in count(1))
    return next(work for work in map(runs.joinpath, names) if work not in owners)


def _owner(work: Path) -> bytes | None:
    """Return the path of the bundle that a folder belongs to; None if it does not say."""
    try:
        return (work / OWNER).read_bytes()
    except OSError:
        return None


def claim(work: Path, out: Path) -> None:
    """Create the default work folder, and write down which bundle it belongs to."""
    work.mkdir(parents=True, exist_ok=True)
    (work / OWNER).write_bytes(os.fsencode(out.resolve()))


class TrainingProgress:
    """A progress bar on a terminal; elsewhere one line for each validation."""

    def __init__(self, console: Console) -> None:
        self._live = console.is_terminal
        line = (
            "{task.percentage:5.1f} %  loss {task.fields[loss]}  AUROC {task.fields[AUROC]}  "
            "{task.fields[rate]}  {task.fields[left]} left"
        )
        columns = (TextColumn("training"), BarColumn(), TextColumn(line))
        self._progress = Progress(*columns, console=console, disable=not self._live)
        self._task = self._progress.add_task("training", total=1.0, loss="–", AUROC="–", rate="–", left="–")
        self._shown: Validation | None = None

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, status: Status) -> None:
        """Show where the training stands."""
        left = int(status.left_s) if status.step >= 10 else None
        fields = {
            "loss": f"{status.loss:.4f}" if math.isfinite(status.loss) else "–",  # resumed at its end, no step was made
            "AUROC": "–" if status.validation is None else f"{status.validation.image_auroc:.3f}",
            "rate": f"{status.images_per_s:.0f} img/s",
            "left": "–" if left is None else f"{left // 60}:{left % 60:02d}",
        }
        self._progress.update(self._task, completed=status.done, **fields)  # type: ignore[arg-type]
        if not self._live and status.validation is not self._shown:
            self._shown = status.validation
            words = "  ".join(f"{name} {value}" for name, value in fields.items())
            print(f"step {status.step}  {words}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print a remark."""
        self._progress.console.print(f"note: {text}", soft_wrap=True, highlight=False, markup=False)


def _print_result(fitted: Fitted) -> None:
    manifest, result, validation, study = fitted.bundle.manifest, fitted.result, fitted.validation, fitted.study
    print(f"{fitted.bundle.path}: finished, self-test passed; report in {fitted.report}")
    for line in study.lines():
        print(line)
    Console().print(table(study.trade_off()[0], study.trade_off()[1:]))
    print(f"calibration: {manifest.calibration.guarantee}")
    print(f"synthetic defects caught at this threshold: {manifest.metrics['synthetic_defects_caught']:.1%}")
    print(
        f"held-out images with synthetic defects: image AUROC {validation.image_auroc:.3f}, pixel AP {validation.pixel_ap:.3f}"
    )
    print(f"score threshold {manifest.score_threshold:.4f}, pixel threshold {manifest.pixel_threshold:.4f}")
    if result is None:
        print("no network was trained")
    else:
        steps, images = counted(result.steps, "step"), counted(result.images_seen, "image")
        print(f"trained {steps} in {result.seconds / 60:.1f} minutes, {images}")
