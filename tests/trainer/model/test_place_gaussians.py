"""The Gaussians of places: distances are Mahalanobis's at each place, and the alignment says where they can serve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from anoseg_trainer.model import place_gaussians
from anoseg_trainer.model.encoder import CHANNELS, STRIDES, encoder_input, load_encoder, packaged_weights
from anoseg_trainer.model.memory import EmbeddingConfig, Features
from anoseg_trainer.model.place_gaussians import (
    FEWEST_IMAGES,
    LEAST_VARIANCE,
    PlaceGaussians,
    TrainingVectors,
    fit_alignment,
    in_blocks,
)

DIMS = 6
CONFIG = EmbeddingConfig(strides=(4, 8, 16), grid=8, dims=DIMS, softness=0.0, whitening=0.0)
HEIGHT, WIDTH = 64, 96
ROWS, COLUMNS = 8, 12


def vectors_of_parts(n: int, seed: int = 0) -> list[Tensor]:
    """Embedded parts that look alike at each place; the right half varies ten times as much as the left one."""
    generator = torch.Generator().manual_seed(seed)
    usual = torch.linspace(-1, 1, ROWS)[None, :, None] * torch.ones(DIMS, 1, COLUMNS) / 4
    spread = torch.where(torch.arange(COLUMNS) < COLUMNS // 2, 0.1, 1.0)
    return [usual + spread * torch.randn(DIMS, ROWS, COLUMNS, generator=generator) for _ in range(n)]


@pytest.fixture(scope="module")
def fitted() -> PlaceGaussians:
    gaussians = PlaceGaussians(HEIGHT, WIDTH, CHANNELS, CONFIG)
    gaussians.fit(vectors_of_parts(60), 60)
    return gaussians


@pytest.mark.parametrize(("parts", "share"), [(60, 0.25), (16, 0.25), (10, 0.64), (3, 1.0)])
def test_distance_is_mahalanobis_at_each_place(parts: int, share: float) -> None:
    """Computed again with NumPy for some places: what parts and next places show, averaged with the neighbouring blocks."""
    gaussians = PlaceGaussians(HEIGHT, WIDTH, CHANNELS, CONFIG)
    gaussians.fit(vectors_of_parts(60), parts)
    vectors = torch.stack(vectors_of_parts(60)).double().numpy()
    mean = vectors.mean(axis=0)
    assert np.abs(gaussians.means.numpy() - mean).max() < 1e-5
    around = np.pad(mean, ((0, 0), (1, 1), (1, 1)), mode="edge")
    steps = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    next_places = np.stack([around[:, y : y + ROWS, x : x + COLUMNS] - mean for y, x in steps])

    def covariance(row: int, column: int) -> np.ndarray:
        block = np.s_[:, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        rows, steps = ((d[block]).transpose(0, 2, 3, 1).reshape(-1, DIMS) for d in (vectors - mean, next_places))
        return rows.T @ rows / len(rows) + share * steps.T @ steps / len(steps)

    own = np.array([[covariance(r, c) for c in range(COLUMNS // 4)] for r in range(ROWS // 4)])
    across = np.stack([own[:, max(0, c - 1)] / 4 + own[:, c] / 2 + own[:, min(2, c + 1)] / 4 for c in range(3)], axis=1)
    both = np.stack([across[0] * 3 / 4 + across[1] / 4, across[1] * 3 / 4 + across[0] / 4])
    other = vectors_of_parts(1, seed=5)[0]
    found = gaussians.distance(other[None])[0]
    for y, x in ((0, 0), (3, 4), (7, 11), (5, 7)):
        shrunk = both[y // 4, x // 4] + LEAST_VARIANCE * np.trace(both[y // 4, x // 4]) / DIMS * np.eye(DIMS)
        away = other.double().numpy()[:, y, x] - mean[:, y, x]
        expected = np.sqrt(away @ np.linalg.solve(shrunk, away) / DIMS)
        assert float(found[y, x]) == pytest.approx(expected, rel=1e-4)


def test_an_edge_hides_no_change_on_parts_that_lie_alike() -> None:
    """Half of a sharp edge's contrast, at the edge, is farther away than anything on new good parts."""
    edge = torch.zeros(DIMS, ROWS, COLUMNS)
    edge[:, :, COLUMNS // 2 :] = 1.0
    gaussians = PlaceGaussians(HEIGHT, WIDTH, CHANNELS, CONFIG)
    generator = torch.Generator().manual_seed(1)
    gaussians.fit([edge + 0.02 * torch.randn(edge.shape, generator=generator) for _ in range(60)], 60)
    good = torch.stack([edge + 0.02 * torch.randn(edge.shape, generator=generator) for _ in range(20)])
    changed = good.clone()
    changed[:, 0, 4, COLUMNS // 2] -= 0.5
    assert float(gaussians.distance(changed).flatten(1).amax(dim=1).min()) > 3 * float(gaussians.distance(good).max())


def test_the_same_change_counts_more_where_parts_vary_less(fitted: PlaceGaussians) -> None:
    """That is what the memory cannot know: it compares with what is usual anywhere."""
    usual = fitted.means.clone()
    changed = usual.clone()
    changed[0, 2, 1] += 2
    changed[0, 2, 10] += 2
    distances = fitted.distance(torch.stack([usual, changed]))
    assert float(distances[0].max()) == 0
    assert float(distances[1, 2, 1]) > 2 * float(distances[1, 2, 10]) > 0
    assert int((distances[1] > 0).sum()) == 2


def test_blocks_keep_every_place() -> None:
    """A vector stays in the block of its place."""
    numbers = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(1, 1, ROWS, COLUMNS)
    blocks = in_blocks(numbers)[0, :, :, 0]
    assert blocks.shape == (6, 16)
    assert blocks[0, :5].tolist() == [0, 1, 2, 3, 12]
    assert blocks[1, 0] == 4
    assert blocks[3, 0] == 48
    assert sorted(blocks.flatten().tolist()) == list(range(ROWS * COLUMNS))


def test_held_out_parts_read_zero_in_the_middle(fitted: PlaceGaussians) -> None:
    """And have a standard deviation of 1; equal parts divide by no zero."""
    distances = fitted.distance(torch.stack(vectors_of_parts(21, seed=1)))
    held_out = distances.flatten(1).amax(dim=1)
    fitted.standardise(held_out, distances.flatten())
    standardised = (held_out - fitted.centre) * fitted.scale
    assert float(standardised.median()) == 0
    assert float(standardised.std(correction=0)) == pytest.approx(1, rel=1e-4)
    assert fitted.above_usual == pytest.approx(float(held_out.median() - distances.median()))
    fitted.standardise(torch.full((5,), 1.5), torch.full((50,), 1.5))
    assert float(fitted.scale) == pytest.approx(1 / (0.05 * 1.5))
    assert fitted.above_usual == pytest.approx(0.05 * 1.5)
    fitted.standardise(torch.zeros(5), torch.zeros(50))
    assert torch.isfinite(fitted.scale)
    assert fitted.above_usual > 0


def test_places_that_never_change_divide_by_no_zero() -> None:
    """Such as a picture's black border."""
    gaussians = PlaceGaussians(HEIGHT, WIDTH, CHANNELS, CONFIG)
    gaussians.fit([torch.ones(DIMS, ROWS, COLUMNS)] * 9, 9)
    assert bool(torch.isfinite(gaussians.whitening).all())
    assert float(gaussians.distance(torch.ones(1, DIMS, ROWS, COLUMNS)).max()) == 0


def features(images: list[Tensor], first: int = 0) -> Features:
    """Features whose levels are resized pictures [1, HEIGHT, WIDTH] times a direction of each channel."""
    levels = []
    for stride, channels in zip(STRIDES, CHANNELS, strict=True):
        directions = torch.randn(2, channels, generator=torch.Generator().manual_seed(channels))
        stack = torch.nn.functional.avg_pool2d(torch.stack(images), stride)
        levels.append(torch.einsum("npyx,pc->ncyx", torch.cat([stack, torch.ones_like(stack)], dim=1), directions))
    valid = torch.ones(len(images), HEIGHT, WIDTH, dtype=torch.bool)
    return Features(levels, torch.arange(first, first + len(images)), valid)


def pictures(n: int, aligned: bool) -> list[Tensor]:
    """Pictures of one pattern, at one place or moved by any distance, with some noise."""
    generator = torch.Generator().manual_seed(3)
    pattern = torch.kron(torch.randn(8, 12, generator=generator), torch.ones(8, 8))[None]
    shifts = torch.randint(0, WIDTH, (n, 2), generator=generator).tolist()
    moved = [pattern if aligned else pattern.roll(tuple(shift), dims=(1, 2)) for shift in shifts]
    return [image + 0.2 * torch.randn(image.shape, generator=generator) for image in moved]


def test_alignment() -> None:
    """Near 1 where each place shows the same on all parts, near 0 where it shows anything, and 0 for a few images."""

    def alignment(images: list[Tensor], each: int = 1) -> float:
        gaussians = PlaceGaussians(HEIGHT, WIDTH, CHANNELS, CONFIG)
        found = features(images)
        found = Features(found.levels, found.parts // each, found.valid)
        return fit_alignment(gaussians, [found], torch.Generator().manual_seed(0))

    assert alignment(pictures(30, aligned=True)) > 0.8
    assert alignment(pictures(30, aligned=False)) < 0.2
    assert alignment(pictures(FEWEST_IMAGES - 1, aligned=True)) == 0
    # Ten images of each of three parts, which lie anywhere: a part's own images are alike, and do not count.
    repeated = [image for image in pictures(3, aligned=False) for _ in range(10)]
    assert alignment(repeated) > 0.1 + alignment(repeated, each=10)
    assert alignment(repeated, each=10) < 0.2
    assert alignment(pictures(30, aligned=True), each=5) > 0.8
    assert alignment(pictures(30, aligned=True), each=15) == 0


@pytest.mark.parametrize("side", [128, 256])
def test_plain_surfaces_are_not_aligned(side: int) -> None:
    """They look alike at every place, and near the border the encoder's padding gives each place features of its own."""
    rng = np.random.default_rng(0)
    light = rng.normal(110, 15, (10, 1, 1, 1))
    frames = np.clip(light + rng.normal(0, 3, (10, side, side, 1)), 0, 255).astype(np.uint8).repeat(3, axis=3)
    with torch.no_grad():
        levels = load_encoder(packaged_weights())(encoder_input(torch.from_numpy(frames), torch.float32), 16)
    valid = torch.ones(10, side, side, dtype=torch.bool)
    sample = [Features(levels, torch.arange(10), valid)]
    assert fit_alignment(PlaceGaussians(side, side), sample, torch.Generator().manual_seed(0)) < 0.2


def test_of_many_images_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 images would take more than a gigabyte. They are drawn from all that are offered, in batches of any size, so
    cameras that take turns are all among them."""
    gaussians = PlaceGaussians(HEIGHT, WIDTH, CHANNELS, CONFIG)
    images = pictures(20, aligned=True)
    monkeypatch.setattr(place_gaussians, "KEPT_BYTES", 10 * gaussians.means.numel() * 2)
    kept = TrainingVectors(gaussians, len(images))
    for start, stop in ((0, 8), (8, 9), (9, 20)):
        kept.add(features(images[start:stop], start))
    assert len(kept.vectors) == 10
    every = gaussians.embed(features(images).levels)
    distances = (torch.stack(kept.vectors).float()[:, None] - every[None]).flatten(2).norm(dim=2)
    assert float(distances.amin(dim=1).max()) < 0.1
    chosen = distances.argmin(dim=1)
    assert len(set(chosen.tolist())) == 10
    assert 2 <= int((chosen % 2).sum()) <= 8
    assert 2 <= int((chosen >= 10).sum()) <= 8
    monkeypatch.setattr(place_gaussians, "KEPT_BYTES", 10**9)
    kept = TrainingVectors(gaussians, len(images))
    kept.add(features(images))
    assert len(kept.vectors) == 20


def test_what_a_good_part_shows_becomes_usual_in_its_direction_alone() -> None:
    """Its places come down to the wanted distance, next to them too; another change there is as unusual as before."""
    gaussians = PlaceGaussians(HEIGHT, WIDTH, CHANNELS, CONFIG)
    gaussians.fit(vectors_of_parts(60), 60)
    distances = gaussians.distance(torch.stack(vectors_of_parts(21, seed=1)))
    gaussians.standardise(distances.flatten(1).amax(dim=1), distances.flatten())
    label, other = gaussians.means.clone(), gaussians.means.clone()
    label[0, 1:3, 1:3] += 3
    other[1, 1:3, 1:3] += 3
    inside = torch.ones(ROWS, COLUMNS, dtype=torch.bool)

    def most(vectors: Tensor) -> float:
        return float(((gaussians.distance(vectors[None]) - gaussians.centre) * gaussians.scale).max())

    before, unusual = most(other), most(label)
    assert gaussians.widen(label, inside & False, usual=0.5, most=50) == 0
    assert gaussians.widen(label, inside, usual=0.5, most=50) in (1, 2, 3, 4)
    assert unusual > 3 > 0.6 > most(label) > 0.4
    assert most(other) == pytest.approx(before, rel=0.1)
    moved = label.roll(1, dims=2) - gaussians.means.roll(1, dims=2) + gaussians.means
    assert most(moved) < 1
    assert gaussians.widen(other, inside, usual=0.5, most=1) == 1
