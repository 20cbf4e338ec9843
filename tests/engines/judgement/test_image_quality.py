"""Image quality compared with the golden images of the demo bundle."""

import cv2
import numpy as np
import pytest
from support.paths import DEMO

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.golden import good_parts
from anoseg_engines.judgement import QualityLimits, complaint, measure, reference


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(DEMO)


@pytest.fixture(scope="module")
def part(bundle: Bundle) -> np.ndarray:
    return next(s.image for s in bundle.golden_samples() if s.verdict == "PASS")


def message(bundle: Bundle, image: np.ndarray) -> str:
    return (
        complaint(measure(image), reference(bundle.manifest.input, good_parts(bundle.golden_samples())), QualityLimits()) or ""
    )


def test_golden_images_have_good_quality(bundle: Bundle) -> None:
    """Each golden image, also of a defective part, is sharp and bright enough."""
    assert [message(bundle, s.image) for s in bundle.golden_samples()] == [""] * len(bundle.golden_samples())


def test_an_image_that_cannot_be_judged_is_refused(bundle: Bundle, part: np.ndarray) -> None:
    """Lamp off, lamp too strong, lens out of focus and lens covered each get their own message with both values."""
    assert message(bundle, (part * 0.4).astype(np.uint8)).startswith("too dark: mean grey")
    assert message(bundle, np.clip(part.astype(float) * 2 + 60, 0, 255).astype(np.uint8)).startswith("too bright: mean grey")
    assert message(bundle, cv2.GaussianBlur(part, (0, 0), 4)).startswith("blurred: sharpness")
    assert message(bundle, np.full_like(part, int(part.mean()))).startswith("blurred: sharpness 0.000")


def test_ordinary_changes_of_light_are_accepted(bundle: Bundle, part: np.ndarray) -> None:
    """A fifth brighter or darker is within the range of training."""
    for gain in (0.8, 1.2):
        assert message(bundle, np.clip(part.astype(float) * gain, 0, 255).astype(np.uint8)) == ""
