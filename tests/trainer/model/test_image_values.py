"""The values that an image's score is made of."""

from __future__ import annotations

import torch

from anoseg_trainer.model.detector import LEVEL, level_of, most_prominent, network_level


def memory_map() -> torch.Tensor:
    """A map of 8×8 places that reads 1, with one spot of 3×3 places that reads 5."""
    found = torch.ones(1, 8, 8)
    found[0, 2:5, 3:6] = 5.0
    return found


def test_a_spot_stands_out_from_the_part() -> None:
    """A value is the spot's height above a share of the part's level, so a map that is raised everywhere changes little."""
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    plain, raised = memory_map(), memory_map() + 2
    value = most_prominent(plain, valid)
    torch.testing.assert_close(value, 5.0 - LEVEL * torch.tensor([1 + 4 * 4 / 9]))  # the seventh largest of 64 means
    torch.testing.assert_close(most_prominent(raised, valid) - value, torch.tensor([2 * (1 - LEVEL)]))


def test_a_defect_of_any_size_stands_out() -> None:
    """However much of a part is unlike good ones, a share of its height remains; a part that is odd everywhere, too."""
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    for rows in range(1, 9):
        found = torch.zeros(1, 8, 8)
        found[0, :rows] = 4.0
        assert float(most_prominent(found, valid)) >= 2.0 * (1 - LEVEL) - 1e-6  # one row alone has means of 2


def test_the_level_is_of_the_part_alone() -> None:
    """A tenth of the part's places exceed the level, in each image of a batch; it is 0 if no place shows the part."""
    found = torch.arange(200.0).reshape(2, 10, 10) % 100
    inside = torch.zeros(2, 10, 10)
    inside[0] = 1
    inside[1, :2] = 1  # it reads 0 to 19
    torch.testing.assert_close(level_of(found, inside), torch.tensor([89.0, 17.0]))
    torch.testing.assert_close(level_of(found, torch.zeros(2, 10, 10)), torch.zeros(2))


def test_padding_does_not_count() -> None:
    """What the map reads in padding changes neither the largest place nor the mean."""
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, 48:] = False
    disturbed = memory_map()
    disturbed[0, 6:] = 40.0
    torch.testing.assert_close(most_prominent(disturbed, valid), most_prominent(memory_map(), valid))


def test_the_networks_level_is_the_median_of_the_part() -> None:
    """Neither a defect on a few cells nor padding moves it; where the whole map is raised, it rises as much."""
    logits, valid = torch.full((1, 128, 160), -6.0), torch.ones(1, 128, 160, dtype=torch.bool)
    logits[0, :, 80:] = -4.0  # two of five columns of cells, and half of another
    disturbed = logits.clone()
    disturbed[0, 10:60, 100:150] = 9.0
    torch.testing.assert_close(network_level(logits, valid), torch.tensor([-5.0]))
    torch.testing.assert_close(network_level(disturbed, valid), torch.tensor([-5.0]))
    torch.testing.assert_close(network_level(disturbed + 2, valid), torch.tensor([-3.0]))
    slim = torch.zeros_like(valid)
    slim[0, :, 90:96] = True  # less than half of any cell
    torch.testing.assert_close(network_level(logits, slim), torch.tensor([-4.0]))
    valid[0, :, 80:] = False
    torch.testing.assert_close(network_level(logits, valid), torch.tensor([-6.0]))
