"""The values that an image's score is made of."""

from __future__ import annotations

import torch

from anoseg_trainer.model.detector import LEVEL, most_prominent


def memory_map() -> torch.Tensor:
    """A map of 8×8 places that reads 1, with one spot of 3×3 places that reads 5."""
    found = torch.ones(1, 8, 8)
    found[0, 2:5, 3:6] = 5.0
    return found


def test_a_spot_stands_out_from_the_part() -> None:
    """A value is the spot's height above a share of the part's mean, so a map that is raised everywhere changes little."""
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    plain, raised = memory_map(), memory_map() + 2
    value = most_prominent(plain, valid)
    torch.testing.assert_close(value, 5.0 - LEVEL * plain.mean()[None])
    torch.testing.assert_close(most_prominent(raised, valid) - value, torch.tensor([2 * (1 - LEVEL)]))


def test_padding_does_not_count() -> None:
    """What the map reads in padding changes neither the largest place nor the mean."""
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, 48:] = False
    disturbed = memory_map()
    disturbed[0, 6:] = 40.0
    torch.testing.assert_close(most_prominent(disturbed, valid), most_prominent(memory_map(), valid))
