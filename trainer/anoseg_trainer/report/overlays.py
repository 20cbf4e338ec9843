"""Draws overlay images: an image with its anomaly map and the outline of the true defect, one PNG for each image."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError
from anoseg_engines.images import Image
from anoseg_trainer.data.evaluation_images import EvaluationImage
from anoseg_trainer.evaluation import Evaluation, InspectedImage, inspect_file

CAPTION = 22
EXTREME = re.compile(r"\d\d_(worst|best)_(good|defective)_.*\.png")
"""The name of a picture of one of the lowest or highest scores."""


def write_overlays(engine: Engine, data: Path, evaluation: Evaluation, folder: Path, *, every: bool = False) -> list[Path]:
    """Inspect images once more, write a picture of each, and return the files.

    Args:
        engine: The engine that was evaluated.
        data: The data folder.
        evaluation: What it gave.
        folder: Where the pictures are written.
        every: A picture of every image, named after the image, in a folder for each defect. If not, of those with the lowest
            and the highest scores; those of an earlier evaluation are deleted.

    Raises:
        AnosegError: The folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in () if every else tuple(folder.iterdir()):
            if EXTREME.fullmatch(old.name):
                old.unlink()
    except OSError as error:
        raise AnosegError(f"{folder}: cannot be written ({error.strerror})", hint="choose another folder") from error
    extremes = [(key, f"{n:02d}_{group}_") for n, (group, key) in enumerate(evaluation.extreme_images())]
    for key, place in [(key, "") for key in evaluation.images] if every else extremes:
        test, row = EvaluationImage.at(data, data / key), evaluation.images[key]
        inspected = inspect_file(engine, test.path)
        caption = f"{row['score']:.3f} {row['outcome']} {test.defect} {evaluation.bundle}"
        mask = test.read_mask(inspected.image)
        picture = overlay(inspected, mask, engine.thresholds.pixel, caption)
        name = test.path.name if test.path.suffix == ".png" else f"{test.path.name}.png"
        target = folder / test.defect / name if every else folder / f"{place}{test.defect}_{name}"
        try:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        except OSError as error:
            raise AnosegError(f"{target}: cannot be written ({error.strerror})") from error
        written.append(target)
    return written


def overlay(inspected: InspectedImage, mask: NDArray[np.bool_] | None, threshold: float, caption: str) -> Image:
    """Draw two pictures side by side: the image, and the image under its anomaly map.

    Both show the outline of the true defect (green); the second also shows that of the map at `threshold` (red).
    """
    both = np.hstack(marked(inspected.image, inspected.full_map(), mask, threshold))
    bar = np.zeros((CAPTION, both.shape[1], 3), np.uint8)
    cv2.putText(bar, caption, (4, CAPTION - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(np.vstack([bar, both]), np.uint8)


def marked(
    image: Image, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_] | None, threshold: float, width: int = 1
) -> tuple[Image, Image]:
    """Draw the image with the outline of the true defect, and the image under its map with both outlines.

    Args:
        image: uint8 [h, w, 3].
        anomaly_map: float32 [h, w].
        mask: The true defect, bool [h, w], or None.
        threshold: The map value from which a pixel belongs to a defect.
        width: Width of the outlines, pixels.
    """
    heat = cv2.applyColorMap(np.rint(np.clip(anomaly_map, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    strength = 0.75 * np.clip(anomaly_map, 0, 1)[:, :, None] + 0.05
    warm = np.rint(image * (1 - strength) + heat * strength).astype(np.uint8)
    truth = image.copy()
    if mask is not None:
        _outline(truth, mask, (0, 220, 0), width)
        _outline(warm, mask, (0, 220, 0), width)
    _outline(warm, anomaly_map >= threshold, (0, 0, 255), width)
    return truth, warm


def _outline(image: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int], width: int) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, width)
