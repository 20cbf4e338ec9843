"""Checks that the guaranteed share of false rejects holds on good test images. Needs a data set in the MVTec AD layout.

    python tests/bench/calibration_check.py --bundle engines/store/my-part --data my-part/ [--group REGEX]

It scores the calibration images of the bundle's training again; seed and configuration give the same split. For each target
share it computes the threshold and counts the images in test/good that the threshold rejects. Images of one part are not
independent, so the interval comes from a bootstrap over parts, of the calibration images and of the test images.
"""

import argparse
import sys
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anoseg_engines.bundle import load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError
from anoseg_engines.images import read_image
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.good_images import GoodImages, find_good_images, read_good_images
from anoseg_trainer.data.parts import find_parts, held_out_together
from anoseg_trainer.data.split import split_images
from anoseg_trainer.thresholds import conformal_threshold, images_needed, part_scores

SHARES = (0.05, 0.01)
DRAWS = 4000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="MVTec AD layout")
    parser.add_argument(
        "--group",
        default="",
        help="regular expression: images of one part have equal matches (default: parts are found by comparing images)",
    )
    options = parser.parse_args()
    try:
        return check(options.bundle, options.data, options.group)
    except AnosegError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def check(bundle_path: Path, data: Path, group: str) -> int:
    bundle = load_bundle(bundle_path)
    training = bundle.manifest.training
    config = msgspec.convert(training["config"], TrainConfig)
    engine = load_engine(bundle)
    try:
        images = read_good_images(find_good_images(data))
        if images.fingerprint != training["data_fingerprint"]:
            print(f"{data}: {bundle.label} was trained on other images", file=sys.stderr)
            return 1
        parts = find_parts(images, config.holdout.group)
        needed, groups = images_needed(config.false_reject), held_out_together(images, parts)
        split = split_images(parts.numbers, config.holdout, int(training["seed"]), needed, known=parts.known, groups=groups)
        held_out = scores_of(engine, images, split.calibration, "calibration")
        tested = read_good_images(find_good_images(data / "test" / "good"))
        good = scores_of(engine, tested, tuple(range(len(tested.paths))), "test/good")
    finally:
        engine.close()
    return report(bundle.label, held_out, parts.numbers[list(split.calibration)], good, find_parts(tested, group).numbers)


def scores_of(engine: Engine, images: GoodImages, indices: tuple[int, ...], what: str) -> np.ndarray:
    scores = []
    for i in track(indices, description=what, console=Console(stderr=True), transient=True):
        image = read_image(images.paths[i])
        placement = engine.place(Region(0, 0, image.shape[1], image.shape[0]))
        scores.append(engine.inspect(image, placement).score)
    return np.array(scores)


def report(label: str, held_out: np.ndarray, held_out_parts: np.ndarray, good: np.ndarray, good_parts: np.ndarray) -> int:
    rng = np.random.default_rng(0)
    table = Table(
        title=f"{label}: {len(held_out)} calibration images of {len(set(held_out_parts))} parts, "
        f"{len(good)} good test images of {len(set(good_parts))} parts"
    )
    for column in ("target", "threshold", "rejected", "share", "95 % interval", "consistent"):
        table.add_column(column, justify="right")
    consistent = True
    for share in SHARES:
        threshold = conformal_threshold(held_out, share, parts=held_out_parts.tolist()).value
        rejected = int((good >= threshold).sum())
        drawn = []
        for _ in range(DRAWS):
            scores, parts = drawn_by_part(rng, held_out, held_out_parts)
            limit = conformal_threshold(scores, share, parts=parts.tolist()).value
            drawn.append(float((part_scores(*drawn_by_part(rng, good, good_parts)) >= limit).mean()))
        low, high = np.quantile(drawn, [0.025, 0.975])
        holds = bool(low <= share)  # fewer rejects than the target are fine
        consistent &= holds
        table.add_row(
            f"{share:.0%}",
            f"{threshold:.4f}",
            f"{rejected} of {len(good)}",
            f"{rejected / len(good):.1%}",
            f"{low:.1%} to {high:.1%}",
            "yes" if holds else "no",
        )
    Console().print(table)
    return 0 if consistent else 1


def drawn_by_part(rng: np.random.Generator, scores: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many parts as there are, with replacement. Returns the scores of all their images, and the images' parts."""
    names = np.unique(parts)
    members = [np.flatnonzero(parts == name) for name in rng.choice(names, len(names))]
    return scores[np.concatenate(members)], np.repeat(np.arange(len(names)), [len(m) for m in members])


if __name__ == "__main__":
    sys.exit(main())
