import numpy as np
import pytest

from anoseg_trainer.config import DefectConfig, VariationConfig
from anoseg_trainer.synthesis.canvas import Canvas
from anoseg_trainer.synthesis.defects import add_defects, apply, grade
from anoseg_trainer.synthesis.kinds import KINDS
from anoseg_trainer.synthesis.variation import compressed, noisy, relit, varied_window


@pytest.fixture(name="canvas_of")
def canvas_fixture(plate):
    def canvas_of(rng, height, width):
        image, other = plate(rng, height, width), plate(rng, height + 7, width + 3)
        return Canvas(image, lambda _: other, unit=128, grey=False)

    return canvas_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(96, 128), (33, 200), (9, 11)])
def test_masks_are_exact(kind, size, canvas_of):
    """Every pixel that a defect changed has a label above 0, and every pixel it left alone has exactly 0."""
    rng = np.random.default_rng(3)
    for _ in range(25):
        canvas = canvas_of(rng, *size)
        image, touched = canvas.image.copy(), np.zeros(size, bool)
        apply(image, touched, KINDS[kind](rng, canvas))
        label = grade(canvas.image, image, touched, visible=8)
        changed = (image != canvas.image).any(axis=2)
        assert (label[changed] > 0).all()
        assert (label[~touched] == 0).all()
        assert (image[~touched] == canvas.image[~touched]).all()
        assert label.min() >= 0
        assert label.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seen", ["nothing but the part", "its edge", "a speck of it", "nothing of it"])
def test_masks_are_exact_wherever_the_part_is(kind, seen, plate):
    """On a plain background too, whatever a window shows of the part: real numbers, and labels exact."""
    rng = np.random.default_rng(6)
    on_part = np.zeros((12, 16), bool)
    on_part[{"nothing but the part": np.s_[:], "its edge": np.s_[:, 5:], "a speck of it": np.s_[3, 4]}.get(seen, np.s_[:0])] = (
        True
    )
    for _ in range(25):
        image, other = plate(rng, 96, 128), plate(rng, 96, 128)
        canvas = Canvas(image, lambda _, other=other: other, unit=128, grey=False, on_part=on_part)
        change = KINDS[kind](rng, canvas)
        assert np.isfinite(change.content).all()
        after, touched = image.copy(), np.zeros(image.shape[:2], bool)
        apply(after, touched, change)
        label = grade(image, after, touched, visible=8)
        assert (label[(after != image).any(axis=2)] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_make_visible_defects(kind, canvas_of):
    """Each kind makes defects that count as such, often enough to learn from, and leaves most of the part alone."""
    rng = np.random.default_rng(4)
    config = DefectConfig(**{name: float(name == kind) for name in KINDS}, more=0)
    labels = [add_defects(rng, canvas_of(rng, 96, 128), config)[1] for _ in range(40)]
    assert np.mean([label.max() >= 0.5 for label in labels]) > 0.3
    assert np.mean([(label > 0.5).mean() for label in labels]) < 0.3


def test_same_seed_same_defect(canvas_of):
    """Training data is a function of the seed."""
    made = [add_defects(np.random.default_rng(9), canvas_of(np.random.default_rng(1), 96, 128), DefectConfig()) for _ in "ab"]
    assert (made[0][0] == made[1][0]).all()
    assert (made[0][1] == made[1][1]).all()


def test_the_good_image_is_not_written_to(canvas_of):
    """Defects go on a copy: the part in the store stays good."""
    canvas = canvas_of(np.random.default_rng(1), 96, 128)
    before = canvas.image.copy()
    for seed in range(30):
        add_defects(np.random.default_rng(seed), canvas, DefectConfig(more=0.9))
    assert (canvas.image == before).all()


def test_labels_grow_with_the_change():
    """A faint change on a flat canvas is labelled below half, a strong one near 1."""
    good = np.full((40, 40, 3), 120, np.uint8)
    touched = np.zeros((40, 40), bool)
    touched[10:30, 10:30] = True

    def label(difference):
        changed = good.copy()
        changed[touched] += np.uint8(difference)
        return grade(good, changed, touched, visible=8)[20, 20]

    assert label(2) < 0.1
    assert label(8) == pytest.approx(0.5, abs=0.02)
    assert label(60) > 0.95


def unlabelled(part):
    return np.zeros(part.shape[:2], np.float32)


def test_labels_move_with_their_defects(plate):
    """Turned, shifted and enlarged, the label still covers the white area on a black part."""
    part = np.zeros((200, 200, 3), np.uint8)
    label = np.zeros((200, 200), np.float32)
    part[90:110, 60:150], label[90:110, 60:150] = 255, 1
    config = VariationConfig(rotation_deg=180, brightness=0, contrast=0, shading=0, noise=0, flip_x=0.5, flip_y=0.5)
    for i in range(20):
        window, moved = varied_window(np.random.default_rng(i), part, label, (40, 40, 128, 128), config)
        assert np.abs(window[:, :, 0] / 255 - moved).max() < 0.05


def test_without_variation_a_window_is_cut_unchanged(plate):
    """All variation off: the window's pixels, untouched."""
    part = plate(np.random.default_rng(2), 200, 300)
    off = VariationConfig(rotation_deg=0, shift=0, zoom=0, brightness=0, contrast=0, shading=0, noise=0)
    window = varied_window(np.random.default_rng(0), part, unlabelled(part), (40, 30, 128, 96), off)[0]
    assert (window == part[30:126, 40:168]).all()


def test_some_windows_keep_every_pixel(plate):
    """A share of the windows of parts that appear any way round are quarter turns without interpolation."""
    part = plate(np.random.default_rng(2), 96, 96)
    config = VariationConfig(rotation_deg=180, shift=0, zoom=0, brightness=0, contrast=0, shading=0, noise=0)
    turned = [np.rot90(part, k) for k in range(4)]
    made = [varied_window(np.random.default_rng(i), part, unlabelled(part), (0, 0, 96, 96), config)[0] for i in range(60)]
    assert 8 < sum(any((window == t).all() for t in turned) for window in made) < 30


def test_mirrored_variation_mirrors(plate):
    """flip_x of 1 mirrors the window left to right about its centre."""
    part = plate(np.random.default_rng(2), 96, 128)
    config = VariationConfig(rotation_deg=0, shift=0, zoom=0, brightness=0, contrast=0, shading=0, noise=0, flip_x=1)
    label = np.zeros(part.shape[:2], np.float32)
    label[:, :20] = 1
    window, moved = varied_window(np.random.default_rng(0), part, label, (0, 0, 128, 96), config)
    assert (window == part[:, ::-1]).all()
    assert (moved == label[:, ::-1]).all()


def test_light_varies_but_stays_in_range(plate):
    """Another light moves the mean both ways and never wraps around."""
    part = plate(np.random.default_rng(2))
    means = [relit(np.random.default_rng(i), part, VariationConfig(brightness=0.3)).mean() - part.mean() for i in range(40)]
    assert min(means) < -5
    assert max(means) > 5


def test_compression_changes_less_where_the_image_is_made_smaller(plate):
    part = plate(np.random.default_rng(2))
    full, quarter = (
        np.mean([np.abs(compressed(np.random.default_rng(i), part, scale).astype(float) - part).mean() for i in range(20)])
        for scale in (1.0, 0.25)
    )
    assert 0.2 < full < 10
    assert quarter < full / 2


def test_compression_keeps_grey_images_grey(plate):
    part = np.repeat(plate(np.random.default_rng(2))[:, :, :1], 3, axis=2)
    image = compressed(np.random.default_rng(1), part, 1.0)
    assert (image != part).any()
    assert (image == image[:, :, :1]).all()


def test_noise_is_of_each_channel_on_colour_images_alone(plate):
    """Half of the colour images get noise in each channel; grey images stay grey."""
    part = plate(np.random.default_rng(2))
    part[:, :, 0] //= 2
    grey = np.repeat(part[:, :, 1:2], 3, axis=2)
    changes = [noisy(np.random.default_rng(i), part, 4.0).astype(int) - part for i in range(60)]
    coloured = sum((change[:, :, 1] != change[:, :, 2]).any() for change in changes)
    assert 15 <= coloured <= 45
    for i in range(20):
        image = noisy(np.random.default_rng(i), grey, 4.0)
        assert (image == image[:, :, :1]).all()
