"""Picture quality against golden images: real ones of the demo bundle."""

import cv2
import numpy as np
import pytest
from support.paths import DEMO

from anoseg_engines.bundle.read import Bundle, load_bundle
from anoseg_engines.golden import good_parts
from anoseg_engines.judgement.image_quality import QualityLimits, complaint, measure, reference


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(DEMO)


@pytest.fixture(scope="module")
def part(bundle: Bundle) -> np.ndarray:
    return next(s.image for s in bundle.golden_samples() if s.verdict == "PASS")


def said(bundle: Bundle, image: np.ndarray) -> str:
    return (
        complaint(measure(image), reference(bundle.manifest.input, good_parts(bundle.golden_samples())), QualityLimits()) or ""
    )


def test_golden_images_are_good_pictures(bundle: Bundle) -> None:
    """Each of them, defective parts too, is sharp and bright enough by its own measure."""
    assert [said(bundle, s.image) for s in bundle.golden_samples()] == [""] * len(bundle.golden_samples())


def test_what_cannot_be_judged_is_told(bundle: Bundle, part: np.ndarray) -> None:
    """Lamp off, lamp too strong, lens out of focus, lens covered: each by its name, with both values."""
    assert said(bundle, (part * 0.4).astype(np.uint8)).startswith("too dark: mean grey")
    assert said(bundle, np.clip(part.astype(float) * 2 + 60, 0, 255).astype(np.uint8)).startswith("too bright: mean grey")
    assert said(bundle, cv2.GaussianBlur(part, (0, 0), 4)).startswith("blurred: sharpness")
    assert said(bundle, np.full_like(part, int(part.mean()))).startswith("blurred: sharpness 0.000")


def test_ordinary_light_is_no_trouble(bundle: Bundle, part: np.ndarray) -> None:
    """A fifth brighter or darker is what the network was trained for."""
    for gain in (0.8, 1.2):
        assert said(bundle, np.clip(part.astype(float) * gain, 0, 255).astype(np.uint8)) == ""
