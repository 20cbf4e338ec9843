"""Overlay pictures: image, anomaly map over it, true outline; one PNG an inspected image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError
from anoseg_engines.images import Image
from anoseg_trainer.commands.evaluate import GOOD, Evaluation, TestImage, inspect_image, noteworthy, read_mask

CAPTION = 22


def write_overlays(engine: Engine, data: Path, evaluation: Evaluation, folder: Path) -> list[Path]:
    """Inspect the noteworthy images once more and write a picture of each; returns the files.

    Raises:
        AnosegError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnosegError(f"{folder}: cannot be made ({error.strerror})", hint="give another --overlays") from error
    for n, (sort, key) in enumerate(noteworthy(evaluation)):
        path = data / key
        row = evaluation.images[key]
        defect = str(row["defect"])
        mask_file = None if defect == GOOD else data / "ground_truth" / defect / f"{path.stem}_mask.png"
        inspected = inspect_image(engine, path)
        mask = read_mask(TestImage(path, defect, mask_file), inspected.image)
        caption = f"{defect} {row['score']:.3f} {row['outcome']}"
        picture = overlay(inspected.image, inspected.full_map(), mask, engine.thresholds.pixel, caption)
        target = folder / f"{n:02d}_{sort}_{defect}_{path.stem}.png"
        encoded = cv2.imencode(".png", picture)[1].tobytes()
        try:
            target.write_bytes(encoded)
        except OSError as error:
            raise AnosegError(f"{target}: cannot be written ({error.strerror})") from error
        written.append(target)
    return written


def overlay(
    image: Image, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_] | None, threshold: float, caption: str
) -> Image:
    """Side by side: the image with the true outline (green), and with the map as heat and its outline at `threshold` (red)."""
    heat = cv2.applyColorMap(np.rint(np.clip(anomaly_map, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    strength = 0.75 * np.clip(anomaly_map, 0, 1)[:, :, None] + 0.05
    warm = np.rint(image * (1 - strength) + heat * strength).astype(np.uint8)
    truth = image.copy()
    if mask is not None and mask.any():
        _outline(truth, mask, (0, 220, 0))
        _outline(warm, mask, (0, 220, 0))
    _outline(warm, anomaly_map >= threshold, (0, 0, 255))
    both = np.hstack([truth, warm])
    bar = np.zeros((CAPTION, both.shape[1], 3), np.uint8)
    cv2.putText(bar, caption, (4, CAPTION - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(np.vstack([bar, both]), np.uint8)


def _outline(image: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, 1)
