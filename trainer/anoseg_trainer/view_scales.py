"""Sets the scales that join the views into one map and one score. They come from held-out good parts, never from those of the
calibration. Runs on the main thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from anoseg_engines.errors import ConfigError
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.model.detector import (
    FIRST_POOL,
    MEMORY,
    MEMORY_GAIN,
    NETWORK,
    NO_LEVEL,
    NO_LIMIT,
    PLACES,
    WHOLE_IMAGE,
    Detector,
    network_level,
)
from anoseg_trainer.model.inference import TILES_AT_ONCE
from anoseg_trainer.model.network import valid_pixels
from anoseg_trainer.model.place_gaussians import PlaceGaussians
from anoseg_trainer.thresholds import score_scale
from anoseg_trainer.training_record import Product
from anoseg_trainer.validation import Validation, scaled_spec, validate

MOST_UNITS = {MEMORY: 3.75, WHOLE_IMAGE: 1.75}
"""Most that the memory and the whole-image model count beside a network, whatever the weights: in units of the network's spread
over good parts where its weight is 1. A good part that only they find odd then sets no threshold that most defects pass. With a
limit of 5 for both instead of none, 0.41 instead of 0.50 of the defects passed at the calibrated threshold on mvtec_screw, and
0.14 instead of 0.30 on the demo; image AUROC stayed."""
LEVEL_INPUTS = 48
"""Tiles of training parts that tell the level of the network's map beside the held-out parts, at most. Where few parts are
held out, they may be odd: with 48 images of magnetic_tile, the one held-out tile's level would cost 0.015 of image AUROC."""
LEVEL_SPREADS = 1.0
"""The level of the network's map is taken off its pools up to this many standard deviations above the median of good parts.
With 3 instead of 1, defects that cover a part hide themselves: on magnetic_tile by tile, the network
alone has 0.866 instead of 0.878."""
ALIGNED = (0.3, 0.6)
"""The Gaussians of places do not count where the place alone tells less than the first share of the features of good parts, and
count fully from the second one on. On bsd_pitting it tells 0.71 to 0.83, and they are the best view. On rendered boards they
are better than the memory down to 0.31. On magnetic_tile by tile it tells 0.12, on mvtec_screw 0.17, and they say little."""
ALIGNED_WEIGHTS = {NETWORK: 0.5, MEMORY: 0.33}
"""What the weights of other views are multiplied by where the Gaussians of places count fully: on bsd_pitting, good parts show
dirt at places that both take for defects."""
CLEANER = 1.0
"""Standard deviations below the median of good parts from which the Gaussians of places count, beside a network. Parts that are
cleaner than usual are rarely defective, but that must not hide what the network sees."""
PLACES_IN_MAP = 0.75
"""The maps of memory and places are added to the network's. This is the places' share of what the two add, where the Gaussians
of places count fully. Without a network, AUPRO is 0.82 with 0, 0.92 with 0.75 and 0.93 with 1 on bsd_pitting; 0.93, 0.99 and
0.99 on the demo's parts."""
MAP_STRIDE = 4
"""Every fourth row and column of a map counts for the median."""
LEAST_SPREADS = {NETWORK: 0.3, MEMORY: 0.1, WHOLE_IMAGE: 0.5, PLACES: 1.0}
"""Least standard deviation of a view's values over good parts: on a very uniform product, a view would otherwise react to tiny
differences."""
STEEPEST = {NETWORK: 1.5, MEMORY: 4.0, WHOLE_IMAGE: 0.5, PLACES: 0.5}
"""Largest slope of the score's logit for each unit of a view's value. Rounding in half precision then moves the score by less
than 0.01."""

Values = NDArray[np.float64]


def fit_views(detector: Detector, product: Product) -> tuple[Validation, Values]:
    """Set the scales that join the views, of map and score, on the held-out parts.

    Returns:
        The validation with these scales, and the largest values of each good case, [n, V].
    """
    spec, config = product.config.input.spec, product.config
    good_parts = [case.image for case in product.cases if case.label is None]
    fit_maps(
        detector,
        scaled_spec(spec),
        good_parts,
        _some_learned(product) if config.detector else (),
        share=config.views.memory_map,
        level=config.detector,
    )
    found = validate(detector, spec, product.cases)
    good, defective = (
        np.stack([tiles.max(axis=0) for tiles in values]) for values in (found.good_values, found.defective_values)
    )
    fit_score(detector, good, defective, config)
    return found.rescored(detector), good


def _some_learned(product: Product) -> list[Image]:
    """Return scaled training parts for the level of the network's map, with `LEVEL_INPUTS` tiles at most, but one at least."""
    train, spec = product.split.train, scaled_spec(product.config.input.spec)
    most = max(1, LEVEL_INPUTS // len(whole_placement(spec, product.store[train[0]]).tiles))
    chosen = np.random.default_rng(560).permutation(train)[:most]  # names may alternate between two cameras or exposures
    return [product.store[int(i)] for i in chosen]


@torch.no_grad()
def fit_maps(
    detector: Detector, spec: InputSpec, held_out: Iterable[Image], learned: Iterable[Image], *, share: float, level: bool
) -> None:
    """Set up to which level the network's map is taken off its pools, and how much the other maps add to it.

    The level is taken off as far as good parts show. Held-out and training parts tell it alike, because the network has the
    same level on both. The maps are brought to one scale, on which the median good pixel is 0 and the median of the good
    parts' largest pixels is 1; that takes held-out parts.

    Args:
        detector: The detector.
        spec: The input, for parts that are scaled already.
        held_out: Held-out good parts.
        learned: Training parts, for the level alone.
        share: The weight of the memory's map, or of the memory's and the places' together, on the scale of the maps; the
            network's is 1. Without a network, there is nothing to weigh it against.
        level: Whether the level is taken off.
    """
    detector.level_limit.fill_(NO_LEVEL)
    if detector.network is None:
        _weigh_comparing_maps(detector, MEMORY_GAIN, -MEMORY_GAIN)
        return
    if detector.memory is None and not level:
        return
    pixels, largest, levels = [], [], []
    for part, is_held_out in chain(zip(held_out, repeat(True)), zip(learned, repeat(False))):
        placement = whole_placement(spec, part)
        frames = np.empty((len(placement.tiles), spec.height, spec.width, 3), np.uint8)
        placement.fill(part, frames)
        peaks = []
        for start in range(0, len(frames), TILES_AT_ONCE):
            some = slice(start, start + TILES_AT_ONCE)
            coords = torch.from_numpy(placement.coords_N2HW[some].astype(np.float32))
            valid = valid_pixels(coords)
            logits = detector.parts(torch.from_numpy(frames[some]), coords, valid)[0]
            assert logits is not None
            levels.append(network_level(logits, valid))
            if is_held_out:
                halved = functional.avg_pool2d(logits[:, None].float(), 2)[:, 0]
                inside = functional.avg_pool2d(valid.float()[:, None], 2)[:, 0] == 1
                pixels.append(halved[:, ::MAP_STRIDE, ::MAP_STRIDE][inside[:, ::MAP_STRIDE, ::MAP_STRIDE]])
                peaks += [tile[within].max() for tile, within in zip(halved, inside, strict=True) if within.any()]
        if is_held_out:
            largest.append(torch.stack(peaks).max())
    if detector.memory is not None:
        span = torch.stack(largest).median() - torch.cat(pixels).median()
        _weigh_comparing_maps(detector, share * float(span.clamp(min=0.5)), 0.0)
    if level:
        usual = torch.cat(levels)
        detector.level_limit.fill_(float(usual.median() + LEVEL_SPREADS * usual.std(correction=0)))


def _weigh_comparing_maps(detector: Detector, gain: float, offset: float) -> None:
    """Set how much the maps of memory and places add to the map.

    Args:
        detector: The detector.
        gain: Logits between a usual place and a good part's most unusual one. Both maps share them.
        offset: Logit where all maps read 0 on the scale of `fit_maps`.
    """
    of_places = 0.0
    if (places := detector.places) is not None:
        of_places = gain * PLACES_IN_MAP * aligned(places)
        detector.places_gain.fill_(of_places / (float(places.scale) * places.above_usual))
    detector.map_gain.fill_(gain - of_places)
    # The places' map is 0 at a good part's most unusual place, not at a usual place.
    detector.map_offset.fill_(offset + of_places)


def aligned(places: PlaceGaussians) -> float:
    """Return how much the Gaussians of places count, 0…1, see `ALIGNED`."""
    low, high = ALIGNED
    return min(1.0, max(0.0, (places.alignment - low) / (high - low)))


def fit_score(detector: Detector, good: Values, defective: Values, config: TrainConfig) -> None:
    """Set the score's scales from the views' values of held-out good parts, [n, V], and of synthetic defects, [m, V].

    Each value counts in units of its spread over good parts, from their median. The memory's `left_out` values count as well. A
    view's values are added and counted in the same way, and the views are added with their weights. Beside a network, memory
    and whole image count up to `MOST_UNITS` above their median. The memory counts only above it: a part that resembles good
    parts more than half of them do is not better for it. Places count from `CLEANER` below it. The more the parts are aligned,
    the more the Gaussians of places count, and the less network and memory. Synthetic defects only set the slope of the score,
    because real defects differ from them.

    Raises:
        ConfigError: No view of the detector has a weight.
    """
    weights = {
        NETWORK: config.views.network if config.detector else 1.0,
        MEMORY: config.views.memory,
        WHOLE_IMAGE: config.views.whole_image,
    }
    if detector.places is not None:
        counts = aligned(detector.places)
        weights |= {name: weights[name] * (1 - counts * (1 - share)) for name, share in ALIGNED_WEIGHTS.items()}
        weights[PLACES] = config.views.places * counts
    scale, floors, limits, steepest = np.zeros(good.shape[1]), [], [], np.inf
    for name, columns in detector.columns.items():
        used = list(columns)
        if name == NETWORK and not config.detector:
            used = used[: FIRST_POOL + 1]
        usual = good[:, used]
        if name == MEMORY and detector.memory is not None:
            usual = np.concatenate([usual, detector.memory.left_out.double().cpu().numpy()[:, None]])
        of_value = 1 / np.maximum(usual.std(axis=0), LEAST_SPREADS[name])
        together = usual @ of_value
        scale[used] = weights[name] * of_value / max(float(together.std()), 1.0)
        alone = name == NETWORK or not weights[NETWORK] or NETWORK not in detector.columns
        median = float(np.median(usual @ scale[used]))
        least = {MEMORY: 0.0, PLACES: weights[name] * CLEANER}
        floors.append(median - least[name] if name in least and not alone else -NO_LIMIT)
        limits.append(NO_LIMIT if alone or name == PLACES else median + MOST_UNITS[name])
        if weights[name]:
            steepest = min(steepest, STEEPEST[name] / float(scale[used].sum()))
    if not scale.any():
        raise ConfigError(
            "no view that this bundle has counts in the score",
            hint="set views.network, views.memory or views.whole_image above 0",
        )

    def joined(values: Values) -> Values:
        """Return the scores before the slope, [n]."""
        of_views = [values[:, c.start : c.stop] @ scale[c.start : c.stop] for c in detector.columns.values()]
        found: Values = np.clip(np.stack(of_views, axis=1), floors, limits).sum(axis=1)
        return found

    slope, shift = score_scale(joined(good), joined(defective), steepest)
    detector.score_scale.copy_(torch.from_numpy(slope * scale))
    detector.view_floors.copy_(slope * torch.tensor(floors))
    detector.view_limits.copy_(slope * torch.tensor(limits))
    detector.score_offset.fill_(shift)
