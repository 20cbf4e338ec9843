"""Measures what a memory of good parts and a whole-image model catch; neither takes a gradient step.

    python tests/bench/good_memory.py --data DIR [--size 448] [--strides 8,16] [--vectors 6000] [--even-length]
        [--images N] [--group REGEX] [--seed 0] [--json FILE]

DIR has the MVTec AD layout. Both models are built from the training part of the split and standardised on its held-out good
images. Test images are used for the figures alone. The features of the training images stay in memory: 1 MB an image at the
defaults in FP32, half of it in bf16. `fit` does not use these models yet, so no bundle gives these figures.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.images import read_image
from anoseg_engines.placement import InputSpec, Placement
from anoseg_trainer.config import HoldoutConfig, TrainConfig, TrainingConfig
from anoseg_trainer.data.evaluation_images import GOOD, EvaluationImage, find_evaluation_images
from anoseg_trainer.data.good_images import find_good_images, read_good_images
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.data.parts import find_parts
from anoseg_trainer.data.split import split_images
from anoseg_trainer.metrics import PixelHistogram, image_auroc
from anoseg_trainer.model.encoder import CHANNELS, STRIDES, Encoder, encoder_input, load_encoder, packaged_weights
from anoseg_trainer.model.memory import Features, Memory, MemoryConfig, standardise
from anoseg_trainer.model.memory_build import build_memory
from anoseg_trainer.model.network import valid_pixels
from anoseg_trainer.model.whole_image import WholeImage, fit_whole_image
from anoseg_trainer.thresholds import images_needed
from anoseg_trainer.training.step import Arithmetic

BATCH = 8
"""Images that are encoded together."""
SAMPLE_IMAGES = 48
"""Training images from which the projection of the memory is computed."""
GOOD_REJECTED = 0.02
"""Share of the good test images that may be rejected where escapes are counted."""


@dataclass(frozen=True, slots=True)
class Extractor:
    """Reads images and computes their features.

    Attributes:
        encoder: The encoder.
        spec: Its input.
        strides: The strides to keep; the other levels are left empty.
        arithmetic: The precision of the encoder.
    """

    encoder: Encoder
    spec: InputSpec
    strides: tuple[int, ...]
    arithmetic: Arithmetic

    @torch.inference_mode()
    def features(self, paths: Sequence[Path], parts: Sequence[int]) -> Iterator[Features]:
        """Yield the features of the images in batches; `parts` gives the part that each image shows."""
        for start in range(0, len(paths), BATCH):
            some = paths[start : start + BATCH]
            frames = np.empty((len(some), self.spec.height, self.spec.width, 3), np.uint8)
            coords = []
            for path, frame in zip(some, frames, strict=True):
                image = read_image(path)
                placement = whole_placement(self.spec, image)
                placement.fill(image, frame[None])
                coords.append(torch.from_numpy(placement.coords_N2HW.astype(np.float32)))
            batch = encoder_input(torch.from_numpy(frames), torch.float32).contiguous(memory_format=torch.channels_last)
            with self.arithmetic.autocast():
                levels = self.encoder(batch, deepest=max(self.strides))
            kept = [
                levels[i] if stride in self.strides else torch.zeros(0, CHANNELS[i], 0, 0) for i, stride in enumerate(STRIDES)
            ]
            yield Features(kept, torch.tensor(parts[start : start + BATCH]), valid_pixels(torch.cat(coords)))


@dataclass(frozen=True, slots=True)
class Models:
    """Holds both models and the seconds that they took.

    Attributes:
        memory: The memory of good parts.
        whole_image: The whole-image model.
        median: Median of the memory's image scores on held-out good images.
        deviation: Standard deviation of these scores.
        encode_s: Seconds to read and encode the good images.
        memory_s: Seconds to build and standardise the memory.
        whole_image_s: Seconds to fit the whole-image model.
    """

    memory: Memory
    whole_image: WholeImage
    median: float
    deviation: float
    encode_s: float
    memory_s: float
    whole_image_s: float


def input_spec(sizes_hw: Sequence[tuple[int, int]], size: int) -> InputSpec:
    """Choose the input: the shape of the images if all are equal, else a square; its area is about size²."""
    if len(set(sizes_hw)) > 1:
        return InputSpec(_side(size), _side(size))
    height, width = sizes_hw[0]
    scale = size / math.sqrt(height * width)
    return InputSpec(_side(height * scale), _side(width * scale))


def _side(pixels: float) -> int:
    """Return the nearest multiple of the encoder's deepest stride, at least two of them."""
    return max(2, round(pixels / STRIDES[-1])) * STRIDES[-1]


def memory_scores(maps: Tensor, valid: Tensor) -> NDArray[np.float64]:
    """Return the largest 3×3 mean of each map [N, h, w] over the part, [N]; `valid` is [N, H, W]."""
    inside = functional.interpolate(valid[:, None].float(), size=maps.shape[1:], mode="area") > 0.5
    weights = functional.avg_pool2d(inside.float(), 3, 1, 1)
    means = functional.avg_pool2d(maps[:, None] * inside, 3, 1, 1) / weights.clamp(min=1e-6)
    return means.masked_fill(~inside, -torch.inf).amax(dim=(1, 2, 3)).double().numpy()


def build_models(
    training: list[Features], held_out: list[Features], config: MemoryConfig, seed: int, encode_s: float
) -> Models:
    """Build both models from the training features and standardise them on the held-out ones."""
    start = time.monotonic()
    images = sum(len(batch.parts) for batch in training)
    sample = training[:: max(1, len(training) * BATCH // SAMPLE_IMAGES)]
    memory = build_memory(sample, training, config, images=images, seed=seed).memory
    standardise(memory, held_out)
    with torch.inference_mode():
        scores = np.concatenate([memory_scores(memory(batch.levels), batch.valid) for batch in held_out])
    built = time.monotonic()
    whole_image = fit_whole_image(training, held_out, config.strides)
    return Models(
        memory=memory,
        whole_image=whole_image,
        median=float(np.median(scores)),
        deviation=max(float(scores.std()), 1e-3),
        encode_s=encode_s,
        memory_s=built - start,
        whole_image_s=time.monotonic() - built,
    )


def escapes(good: NDArray[np.float64], defective: NDArray[np.float64]) -> int:
    """Count defective scores that pass where at most `GOOD_REJECTED` of the good ones are rejected."""
    threshold = np.sort(good)[::-1][int(GOOD_REJECTED * len(good))]
    return int((defective <= threshold).sum())


@torch.inference_mode()
def measure(models: Models, extractor: Extractor, tests: Sequence[EvaluationImage]) -> dict[str, Any]:
    """Score the test images and return the figures of the memory, the whole image, and both added."""
    pixels = PixelHistogram()
    memory_found, whole_found = [], []
    start = time.monotonic()
    reported = 0.0
    for i, batch in enumerate(extractor.features([test.path for test in tests], [0] * len(tests))):
        maps = models.memory(batch.levels)
        memory_found.append((memory_scores(maps, batch.valid) - models.median) / models.deviation)
        whole_found.append(models.whole_image(batch.levels, batch.valid.float()).double().numpy())
        reported -= time.monotonic()
        large = functional.interpolate(
            maps[:, None], (extractor.spec.height, extractor.spec.width), mode="bilinear", align_corners=False
        )
        for test, part_map in zip(tests[i * BATCH :], large.numpy()[:, 0], strict=False):
            image = read_image(test.path)
            mask = test.read_mask(image)
            if mask is not None:
                pixels.add(_map_of_image(whole_placement(extractor.spec, image), part_map, image.shape[:2]), mask)
        reported += time.monotonic()
    seconds = time.monotonic() - start - reported
    good = np.array([test.defect == GOOD for test in tests])
    memory, whole_image = np.concatenate(memory_found), np.concatenate(whole_found)
    scores = {"memory": memory, "whole image": whole_image, "both added": memory + whole_image}
    auroc = pixels.auroc()
    return {
        "good": int(good.sum()),
        "defective": int((~good).sum()),
        "ms_an_image": round(1e3 * seconds / len(tests), 1),
        "views": {
            name: {
                "image_auroc": image_auroc(found[good], found[~good]),
                "pixel_auroc": None if name == "whole image" else auroc,
                "escapes": escapes(found[good], found[~good]),
            }
            for name, found in scores.items()
        },
    }


def _map_of_image(placement: Placement, part_map: NDArray[np.float32], size_hw: Sequence[int]) -> NDArray[np.float64]:
    """Bring a standardised map to the size of its image, and to 0…1 as the histogram needs it."""
    height, width = size_hw
    full = cv2.resize(placement.stitch(part_map[None]), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(1 / (1 + np.exp(-np.clip(full.astype(np.float64), -11.9, 11.9))))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build and measure both models.

    Raises:
        ConfigError: A stride is not one of the encoder's.
        DataError: Images, masks or weights are missing or cannot be used.
    """
    paths, tests = find_good_images(options.data), find_evaluation_images(options.data)
    softness = 0.0 if options.even_length else MemoryConfig().softness
    try:
        config = MemoryConfig(strides=options.strides, vectors=options.vectors, softness=softness)
    except ValueError as error:
        raise ConfigError(f"--strides: {error}") from error
    encoder = load_encoder(packaged_weights()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = read_good_images(paths)
    notes = list(images.notes)
    groups = find_parts(images, options.group, notes.append).numbers
    split = split_images(groups, HoldoutConfig(), options.seed, images_needed(TrainConfig().false_reject))
    train = list(split.train)
    if options.images is not None:
        if options.images < 4:
            raise DataError(f"--images {options.images}: at least 4 training images are needed")
        train = sorted(np.random.default_rng(options.seed).permutation(train)[: options.images].tolist())
    held_out = [*split.validation, *split.calibration]
    arithmetic = Arithmetic.of(TrainingConfig(device="cpu"))
    extractor = Extractor(encoder, input_spec(images.sizes_hw, options.size), config.strides, arithmetic)
    start = time.monotonic()
    training_features, held_out_features = (
        list(extractor.features([paths[i] for i in indices], [int(groups[i]) for i in indices]))
        for indices in (train, held_out)
    )
    models = build_models(training_features, held_out_features, config, options.seed, time.monotonic() - start)
    return {
        "data": options.data.name,
        "input": f"{extractor.spec.width}×{extractor.spec.height}",
        "training": len(train),
        "held_out": len(held_out),
        "seed": options.seed,
        "notes": notes,
        "encode_s": round(models.encode_s, 1),
        "memory_s": round(models.memory_s, 1),
        "whole_image_s": round(models.whole_image_s, 1),
        **measure(models, extractor, tests),
    }


def table_of(found: dict[str, Any]) -> Table:
    """Format the figures for a terminal."""
    table = Table(
        title=f"{found['data']}: {found['input']}, {found['training']} training and {found['held_out']} held-out good images,"
        f" seed {found['seed']}",
        caption=f"Seconds: reading, encoding and building. One inspection: {found['ms_an_image']} ms. The map of both is"
        " that of the memory.",
    )
    seconds = {
        "memory": found["memory_s"],
        "whole image": found["whole_image_s"],
        "both added": found["memory_s"] + found["whole_image_s"],
    }
    table.add_column("")
    for heading in ("image AUROC", "pixel AUROC", f"escapes at {GOOD_REJECTED:.0%}", "seconds"):
        table.add_column(heading, justify="right")
    for name, view in found["views"].items():
        pixel = "–" if view["pixel_auroc"] is None else f"{view['pixel_auroc']:.3f}"
        passed = f"{view['escapes']} of {found['defective']}"
        table.add_row(name, f"{view['image_auroc']:.3f}", pixel, passed, f"{found['encode_s'] + seconds[name]:.1f}")
    return table


def strides(text: str) -> tuple[int, ...]:
    """Parse strides separated by commas."""
    return tuple(sorted({int(number) for number in text.split(",")}))


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and print one table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set in the MVTec AD layout")
    parser.add_argument("--size", type=positive, default=448, help="root of the input's area, network pixels")
    parser.add_argument("--strides", type=strides, default=(8, 16), help=f"of {STRIDES}; 32 helps on surfaces")
    parser.add_argument("--vectors", type=positive, default=6000, help="vectors that the memory keeps")
    parser.add_argument("--even-length", action="store_true", help="remove the contrast that changes with the light")
    parser.add_argument("--images", type=positive, help="training images to use; all if left out")
    parser.add_argument("--group", default="", help="holdout.group: names with an equal first group show one part")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the sampling")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        found = run(options)
    except AnosegError as error:
        print(f"good_memory: {error}", file=sys.stderr)
        return error.exit_code
    for note in found["notes"]:
        print(note)
    Console().print(table_of(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
