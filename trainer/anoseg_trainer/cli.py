"""Parses the command line of `anoseg-train`, and runs one command of `commands/`. Runs on the main thread.

PyTorch, scikit-learn and OpenVINO take seconds to import. This module imports none of them, so that `--help` and a wrong
argument are answered at once. A command's module is imported when it is about to run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from pathlib import Path

from anoseg_engines.commands.arguments import positive, threads
from anoseg_engines.commands.extra_packages import extra_packages
from anoseg_engines.completion import add_common_options
from anoseg_engines.errors import AnosegError
from anoseg_engines.program import program_output

BUNDLE_HELP = "STORE/NAME (its current version) or STORE/NAME/VERSION"
CONFIG_HELP = "YAML; configs/train.yaml lists every key with its default"
RUNTIME_HELP = "auto (the default), tensorrt, cpu, or cpu-f32 and the like for one precision"


def main() -> None:
    """Run `anoseg-train`; exits with the error's code."""
    with program_output("anoseg-train"):
        try:
            run(sys.argv[1:])
        except AnosegError as error:
            print(f"anoseg-train: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            print("anoseg-train: stopped", file=sys.stderr)
            sys.exit(130)


def run(arguments: list[str]) -> None:
    """Run one command: `commands/NAME.py` holds `run` of the command NAME, with `_` for `-`."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command == "calibrate" and (options.config is None) != (options.camera is None):
        parser.error("--config and --camera belong together; without both, the score threshold is calibrated")
    if options.command in ("fit", "ablate"):
        # By default, OpenMP threads that wait for each other keep their core busy. Beside the worker processes that make
        # training images, a step then takes several times as long. PyTorch reads this variable when it is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with extra_packages(f"anoseg-train {options.command}"):
        importlib.import_module(f"anoseg_trainer.commands.{options.command.replace('-', '_')}").run(options)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `anoseg-train` with all its commands."""
    parser = argparse.ArgumentParser(prog="anoseg-train", description="Train AnoSeg on good images and evaluate bundles.")
    add_common_options(parser)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_fit(commands.add_parser("fit", help="train on good images and write a finished bundle"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a bundle on test images with masks"))
    _add_compare(
        commands.add_parser(
            "compare",
            help="run two bundles on the same images, and show which parts change sides",
            description="Run two bundles on the same images: escapes and false rejects at each one's own score threshold, "
            "image AUROC, and the parts that one rejects and the other passes. Images of one part count once.",
        )
    )
    _add_calibrate(
        commands.add_parser(
            "calibrate",
            help="set a new score threshold from good images, or count the good images that region rules reject",
            description="Run good images through a bundle and write its next version: with a new score threshold, or, with "
            "--config and --camera, with a bound on the share of good parts that this camera's region rules reject. "
            "The network must not have been trained on these images.",
        )
    )
    _add_learn_good(
        commands.add_parser(
            "learn-good",
            help="add good images that a bundle rejects to its memory of good parts, without a training",
            description="Add confirmed false rejects (good parts that the line rejected) to a bundle's memory of good parts, "
            "and write its next version. Look at every image first: a defect that is learned as good is no longer found.",
        )
    )
    _add_fleet(
        commands.add_parser(
            "fleet",
            help="train many products, each in a process of its own, and report on all of them",
            description="Train the products of a file, as many at a time as this machine or a Ray cluster has room for. "
            "Products that are finished are left out, and what was stopped goes on.",
        )
    )
    _add_ablate(commands.add_parser("ablate", help="train with each part of the method left out in turn, and compare"))
    _add_bench(commands.add_parser("bench", help="measure a bundle's runtimes, and PyTorch for comparison"))
    return parser


def _add_fit(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("--data", type=Path, required=True, metavar="DIR", help="good images: MVTec AD layout or a flat folder")
    fit.add_argument("--out", type=Path, required=True, metavar="STORE/NAME", help="bundle that gets a new version")
    fit.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    fit.add_argument("--false-reject", type=_share, metavar="SHARE", help="share of good parts that may be rejected")
    fit.add_argument("--work", type=Path, metavar="DIR", help="folder for checkpoints and the report (runs/NAME)")
    fit.add_argument("--release", action="store_true", help="for a first version: make it current, so that STORE/NAME means it")
    ending = fit.add_mutually_exclusive_group()
    ending.add_argument("--quick", action="store_true", help="end with the first bundle, which needs no training (a minute)")
    ending.add_argument("--resume", action="store_true", help="continue from the checkpoint in --work")
    fit.add_argument(
        "--go-on",
        action="store_true",
        help="go on where the same command was stopped, if it was: continue from its checkpoint, write no version again",
    )
    fit.add_argument("--cores", type=positive, metavar="N", help="processor cores to use (all)")
    _add_training_limits(fit)


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--bundle", type=Path, required=True, metavar="DIR", help=BUNDLE_HELP)
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="MVTec AD layout")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all figures and every image's score")
    evaluate.add_argument("--overlays", type=Path, metavar="DIR", help="write pictures of the best and the worst cases")
    evaluate.add_argument(
        "--all-overlays",
        type=Path,
        metavar="DIR",
        help="write a picture of every image, to compare two versions",
    )
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="write figures, curves and pictures as one HTML file")
    evaluate.add_argument("--runtime", default="auto", help=RUNTIME_HELP)


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("a", type=Path, metavar="A", help=f"{BUNDLE_HELP}: the one in use, say")
    compare.add_argument("b", type=Path, metavar="B", help="the one that may take its place")
    compare.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="MVTec AD layout (no masks needed), or a folder of good images"
    )
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all figures and every part's scores")
    compare.add_argument("--report", type=Path, metavar="FILE", help="write figures and pictures as one HTML file")
    compare.add_argument(
        "--group",
        type=_pattern,
        metavar="REGEX",
        help="over file names: images with equal matches show the same part; '.+' if each image shows another part (default: "
        "holdout.group of the training)",
    )
    compare.add_argument("--any-product", action="store_true", help="A and B may be bundles of different products")
    compare.add_argument("--runtime", default="auto", help=RUNTIME_HELP)


def _add_calibrate(calibrate: argparse.ArgumentParser) -> None:
    calibrate.add_argument("--bundle", type=Path, required=True, metavar="DIR", help=BUNDLE_HELP)
    calibrate.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="good images that were not used for training: a flat folder, or train/good in it; with --config, whole camera "
        "frames",
    )
    calibrate.add_argument(
        "--false-reject", type=_share, default=0.01, metavar="SHARE", help="share of good parts that may be rejected (0.01)"
    )
    calibrate.add_argument(
        "--group",
        type=_pattern,
        metavar="REGEX",
        help="over file names: images with equal matches show the same part; '.+' if each image shows another part (default: "
        "holdout.group of the training)",
    )
    calibrate.add_argument("--config", type=Path, metavar="FILE", help="the station's YAML with the region rules")
    calibrate.add_argument("--camera", metavar="NAME", help="the camera in that file")
    calibrate.add_argument("--runtime", default="auto", help=RUNTIME_HELP)


def _add_learn_good(learn: argparse.ArgumentParser) -> None:
    learn.add_argument("bundle", type=Path, metavar="BUNDLE", help=BUNDLE_HELP)
    learn.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="good images that were rejected, cut to the part's region: a flat folder, or train/good in it",
    )
    learn.add_argument(
        "--held-out",
        type=Path,
        metavar="DIR",
        help="the folder of good images that the bundle was trained on, or calibrated with since: those that set the score "
        "threshold set it again",
    )


def _add_fleet(fleet: argparse.ArgumentParser) -> None:
    fleet.add_argument("products", type=Path, metavar="FILE", help="YAML; configs/products.yaml explains every key")
    fleet.add_argument("--only", action="append", default=[], metavar="NAME", help="train this product only; may be repeated")
    fleet.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="train on the nodes of a Ray cluster, HOST:PORT or auto (the extra fleet); without ADDRESS, Ray is started here",
    )
    what = fleet.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say what would be done for each product and why, and do nothing")
    what.add_argument("--names", action="store_true", help="print the names of the products, one a line, and do nothing")


def _add_ablate(ablate: argparse.ArgumentParser) -> None:
    ablate.add_argument("--data", type=Path, required=True, metavar="DIR", help="MVTec AD layout")
    ablate.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for bundles, figures and report.html")
    ablate.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    ablate.add_argument("--only", metavar="NAMES", default="", help="variants to run, separated by commas (all)")
    _add_training_limits(ablate)


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--bundle", type=Path, required=True, metavar="DIR", help=BUNDLE_HELP)
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    bench.add_argument("--threads", type=threads, default=0, metavar="N", help="threads on the CPU; 0: each runtime chooses")
    bench.add_argument("--seconds", type=_positive, default=2.0, metavar="S", help="time for each runtime and batch size (2)")


def _add_training_limits(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of all random choices (0)")
    command.add_argument("--minutes", type=_positive, metavar="M", help="training time; replaces the configuration's limits")
    command.add_argument("--steps", type=_steps, metavar="N", help="training steps; replaces the configuration's limits")


def _seed(text: str) -> int:
    """A seed in the range of NumPy and PyTorch."""
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to {(1 << 32) - 1}")
    return int(text)


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number


def _share(text: str) -> float:
    number = _number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share between 0 and 1; 0.01 is one in a hundred")
    return number


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a regular expression: {error}") from None
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


if __name__ == "__main__":
    main()
