"""The matrices by which a GPU scales give what `scale_part` gives on the processor."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anoseg_engines.scaling import Shrink, scale_part
from anoseg_engines.scaling_weights import scaling_weights

SIZES = [
    ((1024, 1280), (358, 448)),
    ((1024, 1280), (205, 256)),
    ((2048, 2448), (375, 448)),
    ((2048, 2448), (214, 256)),
    ((1031, 1279), (361, 448)),
    ((777, 1003), (198, 256)),
    ((2047, 2449), (374, 448)),
    ((100, 90), (256, 230)),
    ((512, 512), (256, 256)),
    ((431, 577), (335, 448)),
]


def scaled(image: np.ndarray, part: tuple[int, int], shrink: Shrink) -> np.ndarray:
    """A·X·Bᵀ, rounded."""
    found = scaling_weights(image.shape[:2], part, shrink)
    assert found is not None
    rows, columns = found.y.matrix, found.x.matrix
    half = np.einsum("yi,ixc->yxc", rows, image[: rows.shape[1]].astype(np.float32), optimize=True)
    whole = np.einsum("xi,yic->yxc", columns, half[:, : columns.shape[1]], optimize=True)
    return np.floor(whole + 0.5 + found.offset).astype(int)


@pytest.mark.parametrize("shrink", ["area", "blocks"])
@pytest.mark.parametrize(("region", "part"), SIZES)
def test_the_matrices_scale_as_the_processor_does(region: tuple[int, int], part: tuple[int, int], shrink: Shrink) -> None:
    """Noise, black and white pixels, and a blurred picture: at most one grey value differs, whatever the sizes."""
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (*region, 3), np.uint8)
    for image in (noise, np.where(noise > 127, np.uint8(255), np.uint8(0)), cv2.GaussianBlur(noise, (0, 0), 1.2)):
        difference = np.abs(scaled(image, part, shrink) - scale_part(image, part[1], part[0], shrink))
        assert difference.max() <= 1


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(1, 60), st.sampled_from(["area", "blocks"]))
def test_every_size_has_matrices_that_stay_in_the_region(h: int, w: int, ph: int, pw: int, shrink: Shrink) -> None:
    """Weights are not negative, add up to 1, and none is outside of the region. None if one axis grows and one shrinks."""
    found = scaling_weights((h, w), (ph, pw), shrink)
    if found is None:
        assert (h - ph) * (w - pw) < 0
        return
    for axis, camera, part in zip((found.y, found.x), (h, w), (ph, pw), strict=True):
        assert len(axis.starts_N) == len(axis.weights_NT) == part
        assert axis.starts_N.min() >= 0
        assert axis.starts_N.max() + axis.weights_NT.shape[1] <= camera
        assert axis.weights_NT.min() >= 0
        np.testing.assert_allclose(axis.weights_NT.sum(axis=1), 1, atol=1e-6)


def test_an_even_grey_stays_as_it_is() -> None:
    """The offset for the rounding of the processor does not change a picture of one grey."""
    for grey in (0, 1, 128, 254, 255):
        assert (scaled(np.full((1000, 1000, 1), grey, np.uint8), (50, 50), "blocks") == grey).all()
