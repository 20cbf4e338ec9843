import cv2
import numpy as np
import pytest

from anoseg_trainer.config import DefectConfig
from anoseg_trainer.synthesis.background import bare_mask, has_background, part_mask, point_on, within
from anoseg_trainer.synthesis.canvas import Canvas
from anoseg_trainer.synthesis.defects import add_defects
from anoseg_trainer.synthesis.kinds import KINDS
from anoseg_trainer.synthesis.variation import littered


def disc_on_table(rng):
    """A textured disc on a plain table with a soft light across; and where the disc is."""
    image = np.full((240, 320, 3), 190, np.float32) + np.linspace(-15, 15, 320, dtype=np.float32)[None, :, None]
    where = np.zeros((240, 320), np.uint8)
    cv2.circle(where, (int(rng.integers(90, 230)), 120), 60, 1, -1)
    image[where > 0] = 90 + rng.normal(0, 12, (int(where.sum()), 1))
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8), where > 0


def test_a_part_on_a_table_is_found():
    """The mask covers the part and nearly nothing of a plain, unevenly lit background."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(5):
        image, where = disc_on_table(rng)
        mask = cv2.resize(part_mask(image).astype(np.uint8), (320, 240), interpolation=cv2.INTER_NEAREST) > 0
        assert (mask & where).sum() > 0.95 * where.sum()
        assert (mask & ~where).sum() < 0.25 * where.sum()
        images.append(image)
    assert has_background(images)


def test_a_soft_shadow_is_not_the_part():
    """A dark, blurred shadow beside the disc belongs to the table."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        image, where = disc_on_table(rng)
        shadow = cv2.GaussianBlur(np.roll(where, 20, axis=0).astype(np.float32), (0, 0), 12.0)
        lit = np.where(where[:, :, None], image, image - 45 * shadow[:, :, None]).astype(np.uint8)
        mask = cv2.resize(part_mask(lit).astype(np.uint8), (320, 240), interpolation=cv2.INTER_NEAREST) > 0
        assert (mask & where).sum() > 0.95 * where.sum()
        assert (mask & ~where).sum() < 0.25 * where.sum()


def test_litter_is_beside_the_part():
    """Dust changes the table and leaves the disc unchanged."""
    rng = np.random.default_rng(4)
    changed = 0
    for _ in range(20):
        image, where = disc_on_table(rng)
        other = littered(rng, image, bare_mask(image), 256)
        differs = (other != image).any(axis=2)
        assert not differs[where].any()
        changed += bool(differs.any())
    assert changed > 15


def test_the_outline_is_bent_or_broken():
    """Where the part's outline is known, chips and bends are on it."""
    rng = np.random.default_rng(5)
    on_edge = 0
    for kind in ["chip", "bend"] * 20:
        image, where = disc_on_table(rng)
        canvas = Canvas(image, lambda _, image=image: image, unit=128, grey=True, on_part=part_mask(image))
        label = add_defects(rng, canvas, DefectConfig(**{**dict.fromkeys(KINDS, 0.0), kind: 1.0}, more=0))[1]
        edge = cv2.morphologyEx(where.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((9, 9), np.uint8)) > 0
        on_edge += bool((label[edge] > 0.3).any())
    assert on_edge > 28  # small bends along the outline hardly change anything


def test_a_surface_that_fills_the_picture_has_no_background(plate):
    """Brushed metal up to the rim is all part."""
    rng = np.random.default_rng(0)
    assert not has_background([plate(rng, 240, 320) for _ in range(5)])


@pytest.mark.parametrize("fall", [0.1, 0.15, 0.2])
def test_a_smooth_surface_that_is_brighter_in_the_middle_has_no_background(fall):
    """A painted plate under a lamp: its middle differs from its rim, but nothing has an outline."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:358j, -1:1:448j]
    lit = 170 * (1 - fall * (x * x + y * y) / 2)[:, :, None]
    images = [np.clip(lit + rng.normal(0, 4, (*lit.shape[:2], 3)), 0, 255).astype(np.uint8) for _ in range(5)]
    assert not has_background(images)


@pytest.mark.parametrize("darker", [18, 60])
def test_a_faint_part_with_a_soft_outline_is_on_a_background(darker):
    rng = np.random.default_rng(0)
    disc = np.zeros((240, 320), np.float32)
    cv2.circle(disc, (160, 120), 60, 1, -1)
    part = 150 - darker * cv2.GaussianBlur(disc, (0, 0), 4)[:, :, None]
    images = [np.clip(part + rng.normal(0, 3, (240, 320, 3)), 0, 255).astype(np.uint8) for _ in range(5)]
    assert has_background(images)


def test_defects_are_put_on_the_part():
    """With a mask given, most defects touch the part."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        image, where = disc_on_table(rng)
        canvas = Canvas(image, lambda _, image=image: image, unit=128, grey=True, on_part=where)
        label = add_defects(rng, canvas, DefectConfig(more=0, shade=0, chip=0))[1]
        hits += bool((label[where] > 0).any())
    assert hits > 45


def test_a_piece_broken_off_shows_the_background():
    """On a background, a chip is at the part's edge and has the background's brightness."""
    rng = np.random.default_rng(2)
    at_edge, pieces = 0, []
    for _ in range(30):
        image, where = disc_on_table(rng)
        canvas = Canvas(image, lambda _, image=image: image, unit=128, grey=True, on_part=where)
        changed, label = add_defects(rng, canvas, DefectConfig(**dict.fromkeys(set(KINDS) - {"chip"}, 0.0), chip=1, more=0))
        gone = (label > 0.9) & where
        pieces.append(changed[gone])
        edge = cv2.morphologyEx(where.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((9, 9), np.uint8)) > 0
        at_edge += bool((label[edge] > 0.5).any())
    assert at_edge > 24
    assert abs(float(np.median(np.concatenate(pieces))) - 190) < 15


def test_a_windows_mask_is_cut_out_of_the_whole_pictures():
    """A window on the part's flat surface is all part, one beside it none; one across the edge shows the edge where it is."""
    mask = np.zeros((48, 64), bool)
    mask[12:36, 16:48] = True  # of a picture of 240 × 320: rows 60…180, columns 80…240
    assert within(mask, 240, 320, (90, 70, 100, 100)).all()
    assert not within(mask, 240, 320, (0, 0, 70, 240)).any()
    across = within(mask, 240, 320, (40, 60, 80, 120))
    assert across.shape == (24, 16)
    assert not across[:, :8].any()
    assert across[:, 8:].all()


def test_print_on_a_faint_part_is_not_taken_for_all_of_it():
    """A disc little darker than the table, with black print: the mask covers the disc."""
    image = np.full((256, 256, 3), 200, np.uint8)
    where = np.zeros((256, 256), np.uint8)
    cv2.circle(where, (128, 128), 80, 1, -1)
    image[where > 0] = 170
    cv2.putText(image, "A7", (95, 145), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (10, 10, 10), 4)
    mask = cv2.resize(part_mask(image).astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST) > 0
    assert mask[where > 0].mean() > 0.95
    assert not (littered(np.random.default_rng(0), image, bare_mask(image), 256) != image)[where > 0].any()


def test_points_are_on_the_mask():
    """A drawn point is in a marked cell; an empty mask gives no point."""
    mask = np.zeros((12, 16), bool)
    mask[3, 5] = True
    x, y = point_on(np.random.default_rng(0), mask, 240, 320)
    assert (x // 20, y // 20) == (5, 3)
    assert point_on(np.random.default_rng(0), np.zeros((4, 4), bool), 40, 40) is None
