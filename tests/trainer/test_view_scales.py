"""The detector's scales: each view counts in units of what good parts show, and the memory's map in units of the network's."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from anoseg_engines.placement import InputSpec
from anoseg_trainer.bundle_creation import describe_score
from anoseg_trainer.config import NetworkConfig, TrainConfig, ViewsConfig
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.model.detector import MEMORY, MEMORY_GAIN, Detector, network_level
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.memory import Memory, MemoryConfig
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.model.place_gaussians import PlaceGaussians
from anoseg_trainer.model.whole_image import WholeImage
from anoseg_trainer.view_scales import ALIGNED, CLEANER, LEAST_SPREADS, MOST_UNITS, PLACES_IN_MAP, fit_maps, fit_score

SPEC = InputSpec(64, 64)
CONFIG = NetworkConfig(widths=(8, 8, 8, 8, 8), encoder="scratch")
WEIGHTS = ViewsConfig(network=1.0, memory=1.0, whole_image=0.5)


def detector() -> Detector:
    """A detector of all views, with random weights."""
    torch.manual_seed(0)
    network = AnoSegNetwork(CONFIG).eval()
    channels = network.backbone.channels
    memory = Memory(MemoryConfig(strides=(8, 16), dims=4, vectors=5), channels)
    return Detector(network, memory=memory, whole_image=WholeImage((8, 16), channels=channels)).eval()


def values(rng: np.random.Generator, n: int) -> np.ndarray:
    """Values of good parts: the network's pools, memory and whole image, each with its own centre and spread."""
    return np.stack([rng.normal(m, s, n) for m, s in ((-3, 2.5), (-6, 0.5), (-5, 1), (-4, 1), (1, 0.2), (0, 1))], axis=1)


def logit(found: Detector, rows: np.ndarray) -> np.ndarray:
    score = found.score_of(torch.from_numpy(rows.astype(np.float32))).double().numpy()
    return np.log(score / (1 - score))


def rise_of(found: Detector, good: np.ndarray, *units: float) -> float:
    """How much the score's logit rises above the median good part's if each value rises by so many of its spreads."""
    middle, spread = np.median(good, axis=0), good.std(axis=0)
    return float(logit(found, (middle + np.array(units) * spread)[None])[0] - logit(found, middle[None])[0])


def test_each_value_counts_in_units_of_its_spread() -> None:
    """The same rise says little in a value that varies between good parts, and much in one that does not."""
    rng = np.random.default_rng(0)
    good, found = values(rng, 400), detector()
    fit_score(found, good, good + 8, TrainConfig(network=CONFIG, views=WEIGHTS))
    middle = np.median(good, axis=0)
    rise = [float(logit(found, (middle + step)[None])[0]) - float(logit(found, middle[None])[0]) for step in 0.5 * np.eye(6)]
    assert rise[0] == pytest.approx(rise[1] / 5, rel=0.2)
    assert rise[2] == pytest.approx(rise[3], rel=0.2)
    assert rise[5] == pytest.approx(rise[4] / 5 / 2, rel=0.2)  # five times the spread, and half the weight


def test_views_are_added_in_units_of_good_parts() -> None:
    """A rise of all pools by their spread counts as much as twice that of the memory, because four independent values do."""
    rng = np.random.default_rng(1)
    good, found = values(rng, 2000), detector()
    fit_score(found, good, good + 8, TrainConfig(network=CONFIG, views=WEIGHTS))
    rise = functools.partial(rise_of, found, good)
    assert rise(1, 1, 1, 1, 1, 0) == pytest.approx(rise(1, 1, 1, 1, 0, 0) + rise(0, 0, 0, 0, 1, 0), rel=0.02)
    assert rise(1, 1, 1, 1, 0, 0) == pytest.approx(2 * rise(0, 0, 0, 0, 1, 0), rel=0.1)


def test_one_view_counts_up_to_a_limit() -> None:
    """However odd the memory finds a part, another view still raises the score. What the network says has no limit."""
    rng = np.random.default_rng(5)
    good, found = values(rng, 2000), detector()
    fit_score(found, good, good + 8, TrainConfig(network=CONFIG, views=WEIGHTS))
    rise = functools.partial(rise_of, found, good)
    assert rise(0, 0, 0, 0, 4, 0) > rise(0, 0, 0, 0, 3, 0)
    most = MOST_UNITS[MEMORY]
    assert rise(0, 0, 0, 0, most + 9, 0) == pytest.approx(rise(0, 0, 0, 0, most + 2, 0))
    assert rise(0, 0, 0, 0, 99, 0) == pytest.approx(rise(0, 0, 0, 0, 1, 0) * most, rel=0.05)
    assert rise(0, 0, 0, 0, 99, 1) > rise(0, 0, 0, 0, 99, 0)
    assert rise(20, 20, 20, 20, 0, 0) > 3 * rise(0, 0, 0, 0, 20, 0)
    fit_score(found, good, good + 8, TrainConfig(network=CONFIG, views=ViewsConfig(network=0.0)))
    assert rise(0, 0, 0, 0, 20, 0) > 3 * rise(0, 0, 0, 0, most, 0)


def test_a_limit_does_not_grow_with_the_view_s_weight() -> None:
    """With more weight, a view reaches its limit sooner: one odd good part pushes the threshold no further."""
    rng = np.random.default_rng(6)
    good, rises = values(rng, 2000), []
    for weight in (0.5, 1.0):
        found = detector()
        fit_score(
            found,
            good,
            good + 8,
            TrainConfig(network=CONFIG, views=ViewsConfig(memory=weight, whole_image=weight)),
        )
        of_network = rise_of(found, good, 1, 1, 1, 1, 0, 0)
        rises.append([rise_of(found, good, *odd) / of_network for odd in ((0, 0, 0, 0, 99, 0), (0, 0, 0, 0, 0, 99))])
    np.testing.assert_allclose(rises[0], rises[1], rtol=0.05)


def test_beside_a_network_the_memory_counts_only_above_its_median() -> None:
    """A part that the memory finds very usual gets no lower score than the median good part. Without a network it does."""
    rng = np.random.default_rng(6)
    good, found = values(rng, 2000), detector()
    fit_score(found, good, good + 8, TrainConfig(network=CONFIG, views=WEIGHTS))
    rise = functools.partial(rise_of, found, good)
    assert rise(0, 0, 0, 0, -3, 0) == pytest.approx(0, abs=1e-4)
    assert rise(0, 0, 0, 0, -3, 2) == pytest.approx(rise(0, 0, 0, 0, 0, 2), abs=1e-4)
    assert rise(0, 0, 0, 0, 0, -3) < -0.1
    assert rise(0, 0, 0, 0, 0.5, 0) > 0.05
    fit_score(found, good, good + 8, TrainConfig(network=CONFIG, views=ViewsConfig(network=0.0)))
    assert rise(0, 0, 0, 0, -3, 0) < -0.1


def test_good_parts_score_low_and_defects_high() -> None:
    """The median good part scores about 0.1 and the median defect 0.9, or more if it is far away."""
    rng = np.random.default_rng(2)
    good = values(rng, 200)
    for away, least, most in ((2, 0.88, 0.92), (30, 0.99, 1.0)):
        found = detector()
        fit_score(found, good, good + away, TrainConfig(network=CONFIG, views=WEIGHTS))
        scores = [float(found.score_of(torch.from_numpy(v.astype(np.float32))).median()) for v in (good, good + away)]
        assert scores[0] == pytest.approx(0.1, abs=0.02)
        assert least < scores[1] < most


def test_equal_good_parts_divide_by_no_zero() -> None:
    """A view that reads the same on all good parts counts in units of the least spread."""
    good, found = np.tile([-9.0, -9.0, -9.0, -9.0, 0.0, 0.0], (20, 1)), detector()
    fit_score(found, good, good + 1, TrainConfig(network=CONFIG, views=WEIGHTS))
    assert torch.isfinite(found.score_scale).all()
    assert found.score_scale[0] / found.score_scale[4] == pytest.approx(LEAST_SPREADS["memory"] / LEAST_SPREADS["network"])


def test_the_memory_counts_less_where_training_parts_vary_more() -> None:
    """Where few parts are held out, training parts that were compared with the others tell its spread, too."""
    rng = np.random.default_rng(5)
    good = values(rng, 400)
    scales = []
    for left_out in (torch.zeros(0), torch.from_numpy(rng.normal(1, 1.0, 100)).float()):
        found = detector()
        assert found.memory is not None
        found.memory.left_out = left_out
        fit_score(found, good, good + 8, TrainConfig(network=CONFIG, views=WEIGHTS))
        scales.append(float(found.score_scale[4] / found.score_scale[0]))
    assert scales[1] < 0.6 * scales[0]


@pytest.mark.parametrize(
    ("config", "silent"),
    [
        (TrainConfig(network=CONFIG, detector=False, views=ViewsConfig(memory=0.0, whole_image=0.0)), [1, 2, 3, 4, 5]),
        (TrainConfig(network=CONFIG, views=ViewsConfig(memory=0.0)), [4]),
        (TrainConfig(network=CONFIG, views=ViewsConfig(network=0.0, whole_image=0.0)), [0, 1, 2, 3, 5]),
    ],
)
def test_a_view_without_weight_has_no_influence(config: TrainConfig, silent: list[int]) -> None:
    """However high its value is, the score stays the same."""
    rng = np.random.default_rng(3)
    good, found = values(rng, 100), detector()
    fit_score(found, good, good + 8, config)
    row = np.median(good, axis=0)
    loud = row.copy()
    loud[silent] += 50
    assert logit(found, loud[None]) == pytest.approx(logit(found, row[None]), abs=1e-4)


def test_the_memory_adds_to_the_map_in_units_of_the_network() -> None:
    """The gain is the share of the distance from the median good pixel to the good parts' largest pixels."""
    found = detector()
    assert found.network is not None
    rng = np.random.default_rng(4)
    parts = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(6)]
    fit_maps(found, SPEC, parts, (), share=0.5, level=True)
    frames, coords = torch.from_numpy(np.stack(parts)), torch.zeros(6, 2, 64, 64)
    with torch.no_grad():
        logits = found.network(frames, coords).logits
    halved = torch.nn.functional.avg_pool2d(logits[:, None], 2)[:, 0]
    span = halved.flatten(1).amax(dim=1).median() - halved[:, ::4, ::4].median()
    assert float(found.map_gain) == pytest.approx(0.5 * max(float(span), 0.5), rel=1e-4)


def test_the_level_of_the_networks_map_is_taken_off_as_far_as_good_parts_show() -> None:
    """A map that another lot raises gives the same pools, up to one standard deviation above the median of good parts."""
    found = detector()
    assert found.network is not None
    rng = np.random.default_rng(4)
    parts = [rng.integers(0, 20 * i + 20, (64, 64, 3), dtype=np.uint8) for i in range(6)]
    coordinates = np.concatenate([whole_placement(SPEC, part).coords_N2HW for part in parts])
    frames, coords = torch.from_numpy(np.stack(parts)), torch.from_numpy(coordinates.astype(np.float32))
    valid = torch.ones(6, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        before = found.inspect_unscaled(frames, coords)[1]
        levels = network_level(found.network(frames, coords).logits, valid)
        fit_maps(found, SPEC, parts[::2], parts[1::2], share=0.5, level=True)
        after = found.inspect_unscaled(frames, coords)[1]
    limit = float(levels.median() + levels.std(correction=0))
    assert 0 < int((levels > limit).sum()) < 6
    assert float(found.level_limit) == pytest.approx(limit, rel=1e-5)
    pools = len(found.pools)
    torch.testing.assert_close(after[:, :pools], before[:, :pools] + (limit - levels).clamp(min=0)[:, None])
    torch.testing.assert_close(after[:, pools:], before[:, pools:])
    assert "above the level of its map" in describe_score(found)
    fit_maps(found, SPEC, parts, (), share=0.5, level=False)
    with torch.no_grad():
        torch.testing.assert_close(found.inspect_unscaled(frames, coords)[1], before)
    assert "above the level of its map" not in describe_score(found)


def test_the_manifest_names_the_views_that_count() -> None:
    """A view that the bundle does not have, or that has no weight, is not part of its score."""
    found = detector()
    found.score_scale.copy_(torch.tensor([0.3, 0.3, 0.3, 0.3, 1.0, 0.2]))
    every = describe_score(found)
    for words in ("16 of 2×2 cells", "1 of 32×32 cells", "memory", "whole-image", "up to a limit"):
        assert words in every
    found.score_scale.copy_(torch.tensor([0.3, 0.0, 0.0, 0.0, 0.0, 0.0]))
    network = describe_score(found)
    assert "(16 of 2×2 cells)" in network
    for words in ("memory", "whole-image", "up to a limit"):
        assert words not in network
    compared = Detector(None, encoder=Encoder(), memory=Memory(MemoryConfig(vectors=3)), whole_image=WholeImage())
    compared.score_scale.copy_(torch.tensor([1.0, 0.5]))
    without_network = describe_score(compared)
    assert "network" not in without_network
    assert "memory" in without_network
    assert "whole-image" in without_network


def test_the_more_parts_are_aligned_the_more_their_places_show_in_the_map() -> None:
    """The memory's map shows less by as much: together, a good part's largest places add the same."""
    for alignment, share in ((ALIGNED[0], 0.0), (sum(ALIGNED) / 2, PLACES_IN_MAP / 2), (0.95, PLACES_IN_MAP)):
        before = detector()
        places = PlaceGaussians(64, 64, before.channels)
        places.alignment = alignment
        places.standardise(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0]))
        found = Detector(None, encoder=Encoder(), memory=before.memory, whole_image=before.whole_image, places=places).eval()
        fit_maps(found, SPEC, (), (), share=0.5, level=True)
        assert float(found.map_gain) == pytest.approx(MEMORY_GAIN * (1 - share))
        # Two units of distance lie between the usual place and a good part's largest one, which the places' map calls 0.
        assert float(found.places_gain * 2 * places.scale) == pytest.approx(MEMORY_GAIN * share)
        assert float(found.map_offset) == pytest.approx(MEMORY_GAIN * (share - 1))

        parts = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8) for i in range(4)]
        fit_maps(before, SPEC, parts, (), share=0.5, level=True)
        beside = Detector(before.network, memory=before.memory, whole_image=before.whole_image, places=places).eval()
        fit_maps(beside, SPEC, parts, (), share=0.5, level=True)
        assert float(beside.map_gain) == pytest.approx(float(before.map_gain) * (1 - share))
        assert float(beside.places_gain * 2 * places.scale) == pytest.approx(float(before.map_gain) * share)
        assert float(beside.map_offset) == pytest.approx(float(before.map_gain) * share)
        fit_maps(beside, SPEC, parts, (), share=0.0, level=True)
        assert [float(number) for number in (beside.map_gain, beside.places_gain, beside.map_offset)] == [0, 0, 0]


def test_the_more_parts_are_aligned_the_more_places_count() -> None:
    """And the less network and memory do; below the least alignment, nothing changes."""
    torch.manual_seed(0)
    rng = np.random.default_rng(8)
    good = np.concatenate([values(rng, 2000), rng.normal(0, 1, (2000, 1))], axis=1)
    config = TrainConfig(network=CONFIG, views=ViewsConfig(network=1.0, memory=1.0, whole_image=0.5, places=3.0))
    weights = []
    for alignment in (ALIGNED[0], sum(ALIGNED) / 2, 0.95):
        before = detector()
        assert before.network is not None
        places = PlaceGaussians(64, 64, before.channels)
        places.alignment = alignment
        found = Detector(before.network, memory=before.memory, whole_image=before.whole_image, places=places).eval()
        fit_score(found, good, good + 8, config)
        one = rise_of(found, good, 0, 0, 0, 0, 0, 1, 0)
        others = ((1, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0, 1))
        weights.append([rise_of(found, good, *units) / one for units in others])
    network, memory, of_places = np.array(weights).T
    assert of_places == pytest.approx([0, 3, 6], rel=0.1, abs=1e-3)
    assert network / network[0] == pytest.approx([1, 0.75, 0.5], rel=0.05)
    assert memory / memory[0] == pytest.approx([1, 0.665, 0.33], rel=0.05)
    # Unusual places raise the score without a limit. A part that is cleaner than usual lowers it a little at most.
    assert rise_of(found, good, 0, 0, 0, 0, 0, 0, 9) == pytest.approx(9 * rise_of(found, good, 0, 0, 0, 0, 0, 0, 1), rel=0.05)
    one = rise_of(found, good, 0, 0, 0, 0, 0, 0, 1)
    assert rise_of(found, good, 0, 0, 0, 0, 0, 0, -0.5) == pytest.approx(-0.5 * one, rel=0.05)
    assert rise_of(found, good, 0, 0, 0, 0, 0, 0, -9) == pytest.approx(-CLEANER * one, rel=0.05)
    assert "Gaussian" in describe_score(found)
