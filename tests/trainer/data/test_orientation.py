"""One photo whose EXIF orientation turns it, in every place that reads images: each uses the stored pixels, and says so."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image
from support.anosegd_line import run_anosegd
from support.tiny_bundle import good_part, write_tiny_bundle

from anoseg_engines.images import orientation, read_image
from anoseg_trainer.data.evaluation_images import find_evaluation_images, left_out
from anoseg_trainer.data.good_images import read_good_images
from anoseg_trainer.data.masks import read_mask
from anosegd.cameras.presence import Presence
from anosegd.capture.config import CaptureConfig, FolderSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources.folder import Folder
from anosegd.config import PresenceConfig

FORMATS = ("png", "jpg", "tif", "webp")


def turned(path: Path, image: np.ndarray) -> np.ndarray:
    """Save an image with the tag of a photo taken upright, and return the pixels as they are stored."""
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = 6
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"lossless": True} if path.suffix == ".webp" else {"quality": 95} if path.suffix == ".jpg" else {}
    Image.fromarray(image[..., ::-1] if image.ndim == 3 else image).save(path, exif=tag, **options)
    stored = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.rot90(stored) if path.suffix == ".tif" else stored  # OpenCV turns a TIFF in any case


@pytest.fixture
def photo() -> np.ndarray:
    """A part with a mark in one corner, so that a turned image differs."""
    image = good_part()
    image[:12, :20] = 255
    return image


@pytest.mark.parametrize("suffix", FORMATS)
def test_trainer_line_and_presence_read_the_same_pixels(tmp_path: Path, photo: np.ndarray, suffix: str) -> None:
    """`fit` and `calibrate` read with `read_good_images`, `evaluate` with `read_image`, the line with `Folder`."""
    path = tmp_path / f"photo.{suffix}"
    stored = turned(path, photo)
    assert orientation(path) == 6
    seen = []
    notes = read_good_images([path], lambda _, image: seen.append(image)).notes
    source = FolderSource(path=str(tmp_path))
    folder = Folder(source, Job(camera=CaptureConfig(source=source), slots=1, frame_bytes=stored.nbytes))
    folder.open()
    shot = folder.read(0, None)
    assert shot is not None
    assert shot.image is not None
    for image in (seen[0], read_image(path), shot.image):
        assert np.array_equal(image, stored)
    assert Presence.load(PresenceConfig(empty=str(path)), None)(stored) is False
    assert any("EXIF orientation is ignored" in note and path.name in note for note in notes)


@pytest.mark.parametrize("suffix", FORMATS)
def test_masks_are_read_as_they_are_stored(tmp_path: Path, suffix: str) -> None:
    """A mask of a turned image covers the stored pixels, in every format."""
    mask = np.zeros((48, 80), np.uint8)
    mask[:12, :20] = 255
    turned(tmp_path / f"mask.{suffix}", mask)
    assert np.array_equal(read_mask(tmp_path / f"mask.{suffix}"), mask > 0)


def test_evaluate_names_turned_images(tmp_path: Path, photo: np.ndarray) -> None:
    """Good and defective test images alike."""
    turned(tmp_path / "test" / "good" / "a.png", photo)
    turned(tmp_path / "test" / "spot" / "b.png", photo)
    turned(tmp_path / "ground_truth" / "spot" / "b_mask.png", photo[:, :, 0])
    (note,) = left_out(tmp_path, find_evaluation_images(tmp_path))
    assert "EXIF orientation is ignored" in note
    assert "a.png, b.png" in note


def test_check_names_turned_images(tmp_path: Path, photo: np.ndarray) -> None:
    """Of a folder of images, and the image of the empty place."""
    for place in ("images/1.png", "images/2.jpg", "empty.png"):
        turned(tmp_path / place, photo)
    write_tiny_bundle(tmp_path / "store")
    camera = "{source: {kind: folder, path: images}, policy: wait, presence: {empty: empty.png}}"
    (tmp_path / "line.yaml").write_text(f"engine: {{bundle: store}}\ncameras: {{a: {camera}}}\n")
    done = run_anosegd("check", str(tmp_path / "line.yaml"))
    assert done.returncode == 0, done.stderr
    assert "warning: the EXIF orientation of 1.png and 2 of the other images that were looked at is ignored" in done.stdout
