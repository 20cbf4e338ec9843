import cv2
import numpy as np
import pytest

from anoseg_trainer.config import VariationConfig
from anoseg_trainer.data.good_images import find_good_images, read_good_images
from anoseg_trainer.data.split import Split
from anoseg_trainer.data.variation_choice import choose_light, choose_variation


def save(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)
    return read_good_images(find_good_images(folder))


def pin(angle):
    """A pin with a head on a plain canvas, turned."""
    image = np.full((128, 128), 200, np.uint8)
    cv2.line(image, (64, 20), (64, 100), 60, 8)
    cv2.circle(image, (64, 100), 16, 40, -1)
    turn = cv2.getRotationMatrix2D((63.5, 63.5), angle, 1.0)
    return cv2.warpAffine(image, turn, (128, 128), borderMode=cv2.BORDER_REPLICATE)


def split_of(n, calibration=()):
    """All of n images to train, but for these."""
    return Split(tuple(i for i in range(n) if i not in calibration), (), tuple(calibration), len(calibration))


def poses(folder, images):
    found = save(folder, images)
    return choose_variation(VariationConfig(), found, np.arange(len(found.paths)), split_of(len(found.paths)), seed=0)


def test_parts_that_lie_any_way_round_are_turned(tmp_path):
    """Images at every angle: full turns and mirror images are normal, and a note says so."""
    variation, notes = poses(tmp_path / "pins", [pin(6 * i) for i in range(60)])
    assert variation.rotation_deg == 180
    assert variation.flip_x == variation.flip_y == 0.5
    assert any("any way round" in note for note in notes)


@pytest.mark.parametrize("wide", [True, False])
def test_parts_in_wide_and_tall_images_are_turned(tmp_path, wide):
    """Thumbnails are square, and a part that is turned in a wide image is not simply turned in its thumbnail."""
    images = [cv2.copyMakeBorder(pin(2 * i), 0, 0, 128, 128, cv2.BORDER_REPLICATE) for i in range(180)]
    variation, notes = poses(tmp_path / "pins", images if wide else [image.T.copy() for image in images])
    assert variation.rotation_deg == 180, notes


@pytest.mark.parametrize("n", [40, 300])
@pytest.mark.parametrize("aspect", [1, 4, 8])
def test_surfaces_are_not_turned(tmp_path, n, aspect):
    """Surfaces without a direction look alike at any angle to nobody, however narrow their images are."""
    rng = np.random.default_rng(0)
    images = [
        cv2.GaussianBlur(rng.normal(128, 200, (48, 48 * aspect)), (0, 0), 2).clip(0, 255).astype(np.uint8) for _ in range(n)
    ]
    assert poses(tmp_path / "surfaces", images)[0].rotation_deg <= 4


def test_few_parts_that_lie_any_way_round_are_turned(tmp_path):
    """A dozen images have no near neighbours at most angles, and still show that every angle is normal."""
    angles = np.random.default_rng(3).uniform(0, 360, 12)
    variation, _ = poses(tmp_path / "pins", [pin(float(angle)) for angle in angles])
    assert variation.rotation_deg == 180


def test_parts_that_always_lie_the_same_way_are_not_turned(tmp_path):
    """A fixed part keeps its pose: a small turn only, no mirror images."""
    variation, notes = poses(tmp_path / "pins", [pin(float(a)) for a in np.random.default_rng(0).normal(0, 0.5, 40)])
    assert variation.rotation_deg <= 2
    assert variation.flip_x == variation.flip_y == 0
    assert any("one way" in note for note in notes)


def test_the_note_says_what_counts(tmp_path):
    """A configured rotation is named as one, whatever the images show."""
    images = save(tmp_path / "pins", [pin(6 * i) for i in range(60)])
    for given, words in (
        (3.0, "rotations up to 3° count as normal, as configured; so do parts mirrored"),
        (None, "any way round"),
    ):
        note = choose_variation(VariationConfig(rotation_deg=given), images, np.arange(60), split_of(60), seed=0)[1][0]
        assert words in note


def test_given_poses_are_kept(tmp_path):
    """What the configuration says of poses is not overruled."""
    given = VariationConfig(rotation_deg=10, flip_x=0.2, flip_y=0.0)
    images = save(tmp_path / "pins", [pin(6 * i) for i in range(40)])
    found = choose_variation(given, images, np.arange(40), split_of(40), seed=0)[0]
    assert (found.rotation_deg, found.flip_x, found.flip_y) == (10, 0.2, 0.0)


def test_light_is_as_different_as_it_was_seen(tmp_path):
    """Several exposures of a part teach strong changes of brightness, one exposure only a small one."""
    same = save(tmp_path / "same", [pin(0)] * 20)
    exposed = save(tmp_path / "exposed", [(pin(0) * (0.3 + 0.035 * i)).astype(np.uint8) for i in range(20)])
    found = [choose_light(VariationConfig(rotation_deg=4), images) for images in (same, exposed)]
    assert found[0].brightness == found[0].contrast == found[0].shading == 0.1
    assert found[1].brightness == 0.4
    assert choose_light(VariationConfig(brightness=0.25), same).brightness == 0.25
    assert found[0].tint == found[1].tint == 0  # grey images stay grey
    tinted = save(
        tmp_path / "tinted", [np.dstack([pin(0), pin(0), pin(0) * (0.5 + 0.02 * i)]).astype(np.uint8) for i in range(20)]
    )
    assert choose_light(VariationConfig(rotation_deg=4), tinted).tint > 0.1


def test_what_only_calibration_images_show_is_not_taught(tmp_path):
    """An image with a colour cast that is held out for the threshold leaves the choices as they are; to train, it counts."""
    images = [np.repeat(pin(0)[:, :, None], 3, axis=2) for _ in range(20)]
    images[7] = np.clip(images[7] * np.array([0.7, 1.3, 0.8]), 0, 255).astype(np.uint8)
    found = save(tmp_path / "pins", images)

    def tint(calibration):
        return choose_variation(VariationConfig(), found, np.arange(20), split_of(20, calibration), seed=0)[0].tint

    assert tint((7, 8)) == tint((5, 7)) < tint((5, 8))
