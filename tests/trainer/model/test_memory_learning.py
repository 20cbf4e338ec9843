"""A finished memory learns places: those it knows least first, no more than asked for, and none that are common."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anoseg_trainer.model.detector import LEVEL, most_prominent
from anoseg_trainer.model.memory import Memory, MemoryConfig
from anoseg_trainer.model.memory_learning import extend, far_vectors

HEIGHT, WIDTH, DIMS = 12, 8, 4


@pytest.fixture
def memory() -> Memory:
    """A memory of 50 vectors about the origin, whose median good place has the distance 0.5."""
    memory = Memory(MemoryConfig(strides=(8,), grid=8, dims=DIMS, vectors=50))
    memory.keep(torch.randn(50, DIMS, generator=torch.Generator().manual_seed(0)))
    memory.centre.fill_(0.5)
    return memory


@pytest.fixture
def embedded() -> Tensor:
    """The vectors of two tiles, farther from the origin than the memory's."""
    return 2 * torch.randn(2, DIMS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


VALID = torch.ones(2, HEIGHT * 8, WIDTH * 8, dtype=torch.bool)


def distances(vectors: Tensor, known: Tensor) -> Tensor:
    return torch.cdist(vectors, known).amin(dim=1)


def test_the_farthest_place_comes_first(memory: Memory, embedded: Tensor) -> None:
    """Each chosen vector is the farthest from the memory and from those chosen before it, by brute force."""
    chosen = far_vectors(memory, embedded, VALID, 6)
    rows = embedded.permute(0, 2, 3, 1).reshape(-1, DIMS)
    known = memory.nearest.weight[:, :, 0, 0]
    assert len(chosen) == 6
    for vector in chosen:
        farthest = distances(rows, known)
        assert distances(vector[None], known)[0] == pytest.approx(float(farthest.max()), abs=1e-3)
        known = torch.cat([known, vector[None]])


def test_common_places_are_not_learned(memory: Memory, embedded: Tensor) -> None:
    """The choice ends where every place is as near as the median place of a good part; a known image adds none."""
    chosen = far_vectors(memory, embedded, VALID, 10_000)
    assert 0 < len(chosen) < 2 * HEIGHT * WIDTH
    extend(memory, chosen)
    assert memory.distance(embedded).max() <= 0.5 + 1e-2
    assert memory.distance(embedded).max() > 0.4
    memory.centre.fill_(0.52)
    assert len(far_vectors(memory, embedded, VALID, 10_000)) == 0


def test_enough_is_where_no_place_is_prominent(memory: Memory, embedded: Tensor) -> None:
    """The choice ends as soon as the memory's value is that of a typical good part, and not before."""
    value = float(most_prominent(memory.standardised(memory.distance(embedded)), VALID).max())
    chosen = far_vectors(memory, embedded, VALID, 100, enough=value - 0.3)
    assert 0 < len(chosen) < len(far_vectors(memory, embedded, VALID, 100))
    extend(memory, chosen[:-1])
    assert float(most_prominent(memory.standardised(memory.distance(embedded)), VALID).max()) > value - 0.3
    extend(memory, chosen[-1:])
    assert float(most_prominent(memory.standardised(memory.distance(embedded)), VALID).max()) <= value - 0.3 + 0.01


def test_padding_is_not_learned(memory: Memory, embedded: Tensor) -> None:
    """Places where the input does not show the part are left out, however far they are."""
    embedded[:, :, HEIGHT // 2 :] += 50
    valid = VALID.clone()
    valid[:, HEIGHT * 4 :] = False
    assert far_vectors(memory, embedded, valid, 20).abs().max() < 20


def test_distances_only_fall(memory: Memory, embedded: Tensor) -> None:
    """What was kept is still kept, so the distance of no place grows."""
    other = 2 * torch.randn(3, DIMS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    before, kept = memory.distance(other), memory.nearest.weight[:, :, 0, 0].clone()
    extend(memory, far_vectors(memory, embedded, VALID, 40))
    assert (memory.distance(other) <= before).all()
    assert (memory.distance(other) < before).any()
    assert torch.equal(memory.nearest.weight[:50, :, 0, 0], kept)
    assert len(memory.nearest.weight) == 90


def test_a_score_may_rise_although_distances_fall() -> None:
    """Where the rest of a part becomes more common, its largest place rises above it: by `LEVEL` of what the level falls."""
    valid = torch.ones(1, 128, 128, dtype=torch.bool)
    before = torch.full((1, 16, 16), 0.4)
    before[:, :3, :3] = 1.0
    after = torch.where(before < 1, 0.2, before)
    rise = most_prominent(after, valid) - most_prominent(before, valid)
    assert float(rise) == pytest.approx(LEVEL * 0.2, abs=1e-5)
    assert rise > 0
