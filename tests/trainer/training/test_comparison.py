"""The memory's map that the network sees in training."""

from __future__ import annotations

import torch

from anoseg_trainer.data.batches import Batch
from anoseg_trainer.model.encoder import STRIDES
from anoseg_trainer.model.memory import Memory, MemoryConfig
from anoseg_trainer.training.comparison import DROPPED, Comparison

CHANNELS = (4,) * len(STRIDES)


def comparison() -> Comparison:
    """A memory of six vectors: the first three are of part 0, the others of part 1."""
    torch.manual_seed(0)
    memory = Memory(MemoryConfig(strides=(8,), grid=8, dims=4, vectors=6), CHANNELS)
    memory.keep(torch.randn(6, 4))
    return Comparison(memory, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 1]))


def batch(images: list[int]) -> Batch:
    """Windows of 32×32 pixels from the given images."""
    n = len(images)
    return Batch(
        torch.zeros(n, 32, 32, 3, dtype=torch.uint8),
        torch.zeros(n, 2, 32, 32, dtype=torch.float16),
        torch.zeros(n, 32, 32, dtype=torch.uint8),
        torch.tensor(images),
    )


def levels(n: int) -> list[torch.Tensor]:
    """Features of n equal windows."""
    return [torch.linspace(-1, 1, 4)[None, :, None, None].expand(n, 4, 32 // s, 32 // s).contiguous() for s in STRIDES]


def test_a_window_is_compared_with_other_parts_alone() -> None:
    """Windows of the two parts find different vectors; windows of one part find the same."""
    compared = comparison()
    found = compared.memory_map(batch([0, 1, 2, 0]), 1, levels(4))  # at step 1, window 2 is without a map
    memory = compared.memory
    embedded = memory.embed(levels(1))
    of = [memory.standardised(memory.distance(embedded, (compared.vector_parts == part)[None])) for part in (0, 1)]
    torch.testing.assert_close(found[0], of[0][0])
    torch.testing.assert_close(found[1], of[1][0])
    torch.testing.assert_close(found[3], of[0][0])
    assert not torch.allclose(of[0], of[1])


def test_a_third_of_the_windows_is_without_a_map() -> None:
    """Which windows these are changes with the step, so defective ones are among them."""
    compared = comparison()
    empty = torch.stack(
        [(compared.memory_map(batch([0] * 6), step, levels(6)).flatten(1) == 0).all(dim=1) for step in range(DROPPED)]
    )
    assert (empty.sum(dim=0) == 1).all()
    assert (empty.sum(dim=1) == 2).all()


def test_a_single_part_is_compared_with_itself() -> None:
    """Otherwise nothing would be left to compare with, and the map would be infinite."""
    alone = comparison()
    alone = Comparison(alone.memory, torch.zeros(6, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert torch.isfinite(alone.memory_map(batch([0, 1, 2]), 1, levels(3))).all()
