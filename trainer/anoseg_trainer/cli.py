"""`anoseg-train`: fit, evaluate, calibrate, ablate and bench."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from anoseg_engines.benchmark import candidates, measure
from anoseg_engines.bundle.read import load_bundle
from anoseg_engines.commands.bench import show
from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_engines.loading import load_engine
from anoseg_engines.runtimes.select import RUNTIMES
from anoseg_trainer.commands.calibrate import NewThreshold, calibrate_score
from anoseg_trainer.commands.calibrate_rules import RulesCalibrated, calibrate_rules
from anoseg_trainer.commands.evaluate import Evaluation, evaluate
from anoseg_trainer.config import TrainConfig, load_config
from anoseg_trainer.data.station_camera import load_camera
from anoseg_trainer.report.overlays import write_overlays

COLUMNS = ("image_auroc", "pixel_auroc", "aupro_30", "best_iou", "iou_at_pixel_threshold")


def main() -> None:
    """Entry point of `anoseg-train`; exits with the error's code."""
    try:
        run(sys.argv[1:])
    except AnosegError as error:
        print(f"anoseg-train: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("anoseg-train: stopped", file=sys.stderr)
        sys.exit(130)


def _seed(text: str) -> int:
    """A seed as NumPy and PyTorch take it."""
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0 to {(1 << 32) - 1}")
    return int(text)


def run(arguments: list[str]) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="anoseg-train", description="Train AnoSeg on good images and evaluate bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    fit = commands.add_parser("fit", help="train on good images; ends with a finished bundle")
    fit.add_argument("--data", type=Path, required=True, metavar="DIR", help="good images: MVTec AD layout or a flat folder")
    fit.add_argument("--out", type=Path, required=True, metavar="STORE/NAME", help="bundle to write a new version of")
    fit.add_argument("--config", type=Path, metavar="FILE", help="YAML; configs/train.yaml shows every key and its default")
    fit.add_argument("--seed", type=_seed, default=0, metavar="N")
    fit.add_argument("--minutes", type=float, metavar="M", help="time to train; replaces the configuration's limits")
    fit.add_argument("--steps", type=int, metavar="N", help="steps to train; replaces the configuration's limits")
    fit.add_argument("--false-reject", type=float, metavar="SHARE", help="share of good parts that may be rejected")
    fit.add_argument("--work", type=Path, metavar="DIR", help="folder for checkpoints (runs/NAME)")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    test = commands.add_parser("evaluate", help="measure a bundle on test images with masks")
    test.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="STORE/NAME or STORE/NAME/VERSION")
    test.add_argument("--data", type=Path, required=True, metavar="DIR", help="MVTec AD layout")
    test.add_argument("--json", type=Path, metavar="FILE", help="write all figures and every image's score")
    test.add_argument("--overlays", type=Path, metavar="DIR", help="write pictures of the best and the worst")
    test.add_argument("--report", type=Path, metavar="FILE", help="write figures, curves and pictures as one HTML file")
    test.add_argument("--runtime", default="auto", help=", ".join(RUNTIMES))
    again = commands.add_parser(
        "calibrate",
        help="take the score threshold anew from good images, or measure what region rules reject",
        description="Send good images through a bundle and write its next version: with a new score threshold, or, with "
        "--config and --camera, with what that camera's region rules promise. The images must be ones that the network was not "
        "trained on.",
    )
    again.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="STORE/NAME or STORE/NAME/VERSION")
    again.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="good images that training has not seen: a flat folder, or train/good in it; with --config whole camera frames",
    )
    again.add_argument(
        "--false-reject", type=float, default=0.01, metavar="SHARE", help="share of good parts that may be rejected (0.01)"
    )
    again.add_argument(
        "--config", type=Path, metavar="FILE", help="the station's YAML, whose region rules are to be calibrated"
    )
    again.add_argument("--camera", metavar="NAME", help="the camera in it")
    again.add_argument("--runtime", default="auto", help=", ".join(RUNTIMES))
    parts = commands.add_parser("ablate", help="train with each part left out in turn, and compare on test images")
    parts.add_argument("--data", type=Path, required=True, metavar="DIR", help="MVTec AD layout")
    parts.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for bundles, figures and report.html")
    parts.add_argument("--config", type=Path, metavar="FILE", help="YAML; configs/train.yaml shows every key and its default")
    parts.add_argument("--only", metavar="NAMES", default="", help="variants to run, with commas between; all without it")
    parts.add_argument("--seed", type=_seed, default=0, metavar="N")
    parts.add_argument("--minutes", type=float, metavar="M", help="time to train each; replaces the configuration's limits")
    parts.add_argument("--steps", type=int, metavar="N", help="steps to train each; replaces the configuration's limits")
    bench = commands.add_parser("bench", help="measure a bundle's runtimes, and PyTorch beside them")
    bench.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="STORE/NAME or STORE/NAME/VERSION")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    bench.add_argument("--threads", type=int, default=0, metavar="N", help="of the processor's runtimes; 0: they choose")
    bench.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each runtime and batch size (2)")
    options = parser.parse_args(arguments)
    if options.command == "fit":
        _fit(options)
    elif options.command == "ablate":
        _ablate(options)
    elif options.command == "bench":
        _bench(options)
    elif options.command == "calibrate":
        _calibrate(options)
    else:
        _evaluate(options)


def _fit(options: argparse.Namespace) -> None:
    # OpenMP's threads burn their core while they wait for each other, unless told so; with anything else running (the process
    # that makes training images does), a step then takes several times as long. Read when PyTorch loads, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from anoseg_trainer.commands.fit import REPORT, fit  # PyTorch takes seconds to import; evaluate and --help do without
    from anoseg_trainer.training import Status

    config = _with_options(load_config(options.config), options)
    work = options.work or Path("runs") / options.out.name
    console = Console(stderr=True)
    live = console.is_terminal
    line = (
        "{task.percentage:5.1f} %  loss {task.fields[loss]}  AUROC {task.fields[auroc]}  "
        "{task.fields[rate]} img/s  {task.fields[left]} left"
    )
    with Progress(TextColumn("training"), BarColumn(), TextColumn(line), console=console, disable=not live) as progress:
        task = progress.add_task("training", total=1.0, loss="–", auroc="–", rate="–", left="–")
        shown: list[object] = [None]

        def on_status(status: Status) -> None:
            auroc = "–" if status.validation is None else f"{status.validation.image_auroc:.3f}"
            left = "–" if status.step < 10 else f"{int(status.left_s) // 60}:{int(status.left_s) % 60:02d}"
            fields: dict[str, Any] = {
                "loss": f"{status.loss:.4f}" if math.isfinite(status.loss) else "–",  # resumed at its end: no step was made
                "auroc": auroc,
                "rate": f"{status.images_per_s:.0f}",
                "left": left,
            }
            progress.update(task, completed=status.done, **fields)
            if not live and status.validation is not shown[0]:
                shown[0] = status.validation
                print(f"step {status.step}  " + "  ".join(f"{k} {v}" for k, v in fields.items()), file=sys.stderr, flush=True)

        fitted = fit(
            options.data,
            options.out,
            config,
            seed=options.seed,
            work=work,
            resume=options.resume,
            on_status=on_status,
            on_note=lambda note: progress.console.print(f"note: {note}", soft_wrap=True, highlight=False),
        )
    manifest = fitted.bundle.manifest
    print(f"{fitted.bundle.path}: finished and proved; report in {work / REPORT}")
    print(
        f"trained {fitted.result.steps} steps in {fitted.result.seconds / 60:.1f} minutes, {fitted.result.images_seen} images"
    )
    found = fitted.validation
    print(f"held-out images with synthetic defects: image AUROC {found.image_auroc:.3f}, pixel AP {found.pixel_ap:.3f}")
    print(f"score threshold {manifest.score_threshold:.4f}, pixel threshold {manifest.pixel_threshold:.4f}")
    print(f"synthetic defects caught at this threshold: {manifest.metrics['synthetic_defects_caught']:.1%}")
    print(f"calibration: {manifest.calibration.guarantee}")


def _with_options(config: TrainConfig, options: argparse.Namespace) -> TrainConfig:
    """The configuration with what the command line replaces."""
    training = config.training
    if options.minutes is not None or options.steps is not None:
        if not all(limit is None or limit > 0 for limit in (options.minutes, options.steps)):  # NaN is not above 0 either
            raise ConfigError("--minutes and --steps must be above 0")
        training = msgspec.structs.replace(training, minutes=options.minutes, steps=options.steps)
    wished = getattr(options, "false_reject", None)
    false_reject = config.false_reject if wished is None else wished
    _check_share(false_reject)
    return msgspec.structs.replace(config, training=training, false_reject=false_reject)


def _check_share(false_reject: float) -> None:
    if not 0 < false_reject < 1:
        raise ConfigError(f"--false-reject {false_reject}: a share between 0 and 1 is needed", hint="0.01 is one in a hundred")


def _ablate(options: argparse.Namespace) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in _fit
    from anoseg_trainer.commands.ablate import Row, ablate

    def on_row(row: Row) -> None:
        figures = "  ".join(f"{c} {'–' if row.figures[c] is None else format(row.figures[c], '.3f')}" for c in COLUMNS)
        print(f"{row.name}: {figures}  ({row.steps} steps, {row.seconds / 60:.1f} minutes)", flush=True)

    ablate(
        options.data,
        options.out,
        _with_options(load_config(options.config), options),
        seed=options.seed,
        names=[name.strip() for name in options.only.split(",") if name.strip()],
        on_row=on_row,
        on_note=lambda note: print(f"training {note}", file=sys.stderr, flush=True),
    )
    print(f"report in {options.out / 'report.html'}")


def _evaluate(options: argparse.Namespace) -> None:
    console = Console(stderr=True)
    engine = load_engine(load_bundle(options.bundle), runtime=options.runtime)
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("inspecting", total=None)
            found = evaluate(engine, options.data, lambda n, total: progress.update(task, completed=n, total=total))
        Console().print(result_table(found))
        if options.json:
            _write_json(options.json, msgspec.to_builtins(found))
        if options.report:
            from anoseg_trainer.report.pages import evaluation_report  # PyTorch comes with it

            evaluation_report(engine, options.data, found).write(options.report)
            print(f"report in {options.report}")
        if options.overlays:
            written = write_overlays(engine, options.data, found, options.overlays)
            print(f"{len(written)} pictures in {options.overlays}")
    finally:
        engine.close()


def _calibrate(options: argparse.Namespace) -> None:
    _check_share(options.false_reject)
    if (options.config is None) != (options.camera is None):
        raise ConfigError("--config and --camera belong together", hint="without both, the score threshold is calibrated")
    camera = None if options.config is None else load_camera(options.config, options.camera)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("inspecting", total=None)
        common: dict[str, Any] = {
            "runtime": options.runtime,
            "on_image": lambda n, total: progress.update(task, completed=n, total=total),
        }
        found: NewThreshold | RulesCalibrated
        if camera is None:
            found = calibrate_score(options.bundle, options.data, options.false_reject, **common)
        else:
            found = calibrate_rules(options.bundle, options.data, camera, options.false_reject, **common)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for line in found.in_words():
        print(line)
    print(f"{found.bundle.path}: finished and proved; {found.before.path} is as it was")
    print("a running line takes it with `anosegd swap`, or with `anosegd reload` if its configuration names no version")


def _bench(options: argparse.Namespace) -> None:
    from anoseg_trainer.commands.bench import torch_candidates  # PyTorch takes seconds to import

    bundle = load_bundle(options.bundle)
    found, skipped = candidates(bundle, threads=options.threads)
    yardsticks, missing = torch_candidates(bundle, threads=options.threads)
    everything = [*yardsticks, *found]
    try:
        with Console(stderr=True).status("measuring") as status:
            report = measure(
                bundle,
                everything,
                skipped | missing,
                seconds=options.seconds,
                threads=options.threads,
                baseline=yardsticks[0].name,
                on_progress=status.update,
            )
    finally:
        for candidate in everything:
            candidate.close()
    show(report, options.json)


def result_table(evaluation: Evaluation) -> Table:
    """The figures as a person reads them."""
    table = Table(title=f"{evaluation.bundle} on {evaluation.runtime}, {evaluation.inference_ms:.1f} ms an image")
    for name in ("", "images", "image AUROC", "pixel AUROC", "AUPRO 30 %", "best IoU", "IoU at threshold", "escapes"):
        table.add_column(name, justify="left" if not name else "right")
    for name, row in [*evaluation.per_defect.items(), ("all", evaluation.overall)]:
        if name == "all":
            table.add_section()
        values = ["–" if row[c] is None else f"{row[c]:.3f}" for c in COLUMNS]
        table.add_row(name, str(row["n_defective"]), *values, f"{row['escapes']}")
    o = evaluation.overall
    table.caption = f"{o['n_good']} good images, {o['false_rejects']} rejected at {evaluation.thresholds['score']:.4f}"
    return table


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AnosegError(f"{path}: cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    main()
