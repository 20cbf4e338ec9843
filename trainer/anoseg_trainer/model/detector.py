"""The detector: joins what the views say of a part into one anomaly map and one image score. This is what is exported.

There are up to four views. The network says what looks like a defect. The memory of good parts says which places look unlike
good ones. The whole-image model says how far the picture as a whole is from good ones. Where parts always lie the same way,
Gaussians say what is unusual at each place. Each view has values for an image: the network one for each pool of its map, the
others one. Each value is scaled by what held-out good parts show, and all are added.
Real defects that one view misses are often seen by another. The module runs where it is called.
"""

from __future__ import annotations

import functools
import operator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from anoseg_trainer.model.encoder import STRIDES, Encoder, encoder_input
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.memory import Memory
from anoseg_trainer.model.network import LOGIT_LIMIT, AnoSegNetwork, valid_pixels
from anoseg_trainer.model.place_gaussians import PlaceGaussians
from anoseg_trainer.model.whole_image import WholeImage

NETWORK, MEMORY, WHOLE_IMAGE, PLACES = "network", "memory", "whole image", "places"
"""Names of the views."""
SCORE_LIMIT = 8.0
"""The logit of the score is held within ±8, so a score is between 0.0003 and 0.9997."""
NO_LIMIT = 1e6
"""A logit that no view reaches."""
Pools = tuple[tuple[int, int], ...]
POOLS: Pools = ((2, 16), (8, 4), (16, 2), (32, 1))
"""The network's values are means of its map's largest logits: side in pixels of the cells that are averaged first, and how many
of them are taken. Small and thin defects show in the first, faint and wide ones in the last."""
FIRST_POOL = 0
"""The pool that alone is the score until the detector is fitted."""
LEVEL = 0.75
"""Share of the memory's level on a part that is taken off its largest place. On magnetic_tile by tile, more is better. Where
the test shows the tiles of the training, and for defects that cover much of a part, less is better (EXPERIMENTS.md)."""
ABOVE_LEVEL = 0.1
"""The level is the value that this share of the part's places exceeds."""
LEVEL_CELL = 32
"""Side in pixels of the cells of the network's map whose median is its level."""
NO_LEVEL = -LOGIT_LIMIT
"""A limit with which the level does not count: no map is below it."""
NOWHERE = 0.0
"""Value of the memory and of the places for an input that shows no part."""
NO_PLACE = -1e4
"""Lower than any place of the memory's map."""
MEMORY_GAIN = 4.0
"""Logits of the map for each unit of the memory's map, where there is no network: a good part's largest value is 0.5. The map
of places, if there is one, takes its share of them."""


class Detector(nn.Module):
    """Maps frames [N, H, W, 3] (0…255) and coordinates [N, 2, H, W] to an anomaly map and an image score.

    Attributes:
        network: AnoSeg's network; None before one is trained.
        encoder: Computes the features that are compared with good parts, where the network's backbone does not.
        memory: The memory of good parts, or None.
        whole_image: The whole-image model, or None.
        places: The Gaussians of places, or None.
        pools: The pools of the network's map, as `POOLS`.
        score_scale: Scale of each value, [number of values].
        score_offset: Logit of the score where all values are 0.
        level_limit: Level of the network's map up to which it is taken off the pools. Other lots, places and parts raise or
            lower the whole map, good or not. Beyond the limit, which good parts set, a raised map is a sign of a defect.
        view_floors: Least logit that each view may add to the score, [number of views], in the order of `columns`.
        view_limits: Largest logit that each view may add, in the same way.
        columns: The values of each view, by its name.
        map_gain: Logits that one unit of the memory's map adds to the map.
        places_gain: Logits that one unit of the places' map adds to the map.
        map_offset: Logit of the map where the network, the memory and the places read 0.
    """

    score_scale: Tensor
    score_offset: Tensor
    level_limit: Tensor
    view_floors: Tensor
    view_limits: Tensor
    map_gain: Tensor
    places_gain: Tensor
    map_offset: Tensor

    def __init__(
        self,
        network: AnoSegNetwork | None,
        *,
        encoder: Encoder | FixedFilters | None = None,
        memory: Memory | None = None,
        whole_image: WholeImage | None = None,
        places: PlaceGaussians | None = None,
        pools: Pools = POOLS,
    ) -> None:
        super().__init__()
        """Join the views that are given. The features come from `encoder` if it is given, else from the network's backbone."""
        assert network is not None or encoder is not None
        self.network, self.encoder, self.memory, self.whole_image = network, encoder, memory, whole_image
        self.places = places
        self.pools = pools
        count = 0 if network is None else len(pools)
        self.columns: dict[str, range] = {NETWORK: range(count)} if count else {}
        for name, view in ((MEMORY, memory), (WHOLE_IMAGE, whole_image), (PLACES, places)):
            if view is not None:
                self.columns[name] = range(count, count + 1)
                count += 1
        self.register_buffer("score_scale", (torch.arange(count) == FIRST_POOL).float(), persistent=False)
        self.register_buffer("score_offset", torch.zeros(()), persistent=False)
        self.register_buffer("level_limit", torch.tensor(NO_LEVEL), persistent=False)
        self.register_buffer("view_floors", torch.full((len(self.columns),), -NO_LIMIT), persistent=False)
        self.register_buffer("view_limits", torch.full((len(self.columns),), NO_LIMIT), persistent=False)
        self.register_buffer("map_gain", torch.tensor(MEMORY_GAIN if network is None else 0.0), persistent=False)
        self.register_buffer("places_gain", torch.zeros(()), persistent=False)
        self.register_buffer("map_offset", torch.tensor(-MEMORY_GAIN if network is None else 0.0), persistent=False)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the levels that the memory reads."""
        source = self.encoder if self.encoder is not None else self.network.backbone  # type: ignore[union-attr]
        return source.channels

    def inspect(self, frames_NHWC: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return the anomaly map [N, H, W] in 0…1, exactly 0 in padding, and the score [N] in 0…1, FP32."""
        anomaly_map, values = self.inspect_unscaled(frames_NHWC, coords)
        return anomaly_map, self.score_of(values)

    def score_of(self, values: Tensor) -> Tensor:
        """Return the score [N] of values [N, V], never quite 0 or 1. A threshold of 1 therefore rejects nothing."""
        weighted = values * self.score_scale
        of_views = torch.stack([weighted[:, c.start : c.stop].sum(dim=1) for c in self.columns.values()], dim=1)
        bounded = torch.minimum(torch.maximum(of_views, self.view_floors), self.view_limits)
        logit = bounded.sum(dim=1) + self.score_offset
        return torch.sigmoid(logit.clamp(-SCORE_LIMIT, SCORE_LIMIT))

    def inspect_unscaled(self, frames_NHWC: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return the anomaly map [N, H, W] and the values of all views [N, V], FP32."""
        valid = valid_pixels(coords)
        logits, memory_map, whole, places_map = self.parts(frames_NHWC, coords, valid)
        values = []
        if logits is not None:
            below = (self.level_limit - network_level(logits, valid)).clamp(min=0)
            values.append(pooled(logits, valid, self.pools) + below[:, None])
        if memory_map is not None:
            values.append(most_prominent(memory_map, valid)[:, None])
        if whole is not None:
            values.append(whole[:, None])
        if places_map is not None:
            values.append(most_unusual(places_map, valid)[:, None])
        joined = self._joined(logits, memory_map, places_map)
        anomaly_map = torch.sigmoid(joined.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)).to(coords.dtype) * valid.to(coords.dtype)
        return anomaly_map, torch.cat(values, dim=1)

    def parts(self, frames_NHWC: Tensor, coords: Tensor, valid: Tensor) -> tuple[Tensor | None, ...]:
        """Return what each view says, None where it does not exist.

        Returns:
            Logits of the network [N, H, W], map of the memory [N, h, w], whole-image values [N], and map of the places
            [N, h, w].
        """
        seen = None if self.network is None else self.network.seen(frames_NHWC, coords)
        levels = [] if seen is None else seen.levels
        if self.encoder is not None:
            levels = self.encoded(frames_NHWC, coords, self.deepest)
        memory_map = None if self.memory is None else self.memory(levels)
        logits = None if self.network is None or seen is None else self.network.logits(seen.skips, memory_map)
        whole = None if self.whole_image is None else self.whole_image(levels, valid.to(levels[0].dtype))
        places_map = None if self.places is None else self.places(levels)
        return logits, memory_map, whole, places_map

    @property
    def deepest(self) -> int:
        """The largest stride whose features are compared with good parts."""
        compared = [view.config.strides for view in (self.memory, self.places) if view is not None]
        whole = () if self.whole_image is None else self.whole_image.strides
        return max((*whole, *(stride for strides in compared for stride in strides)), default=STRIDES[-1])

    def encoded(self, frames_NHWC: Tensor, coords: Tensor, deepest: int = STRIDES[-1]) -> list[Tensor]:
        """Return the levels that the memory reads, at least those down to the stride `deepest`."""
        if self.encoder is not None:
            levels: list[Tensor] = self.encoder(encoder_input(frames_NHWC, coords.dtype), deepest)
            return levels
        assert self.network is not None
        return self.network.seen(frames_NHWC, coords).levels

    def _joined(self, logits: Tensor | None, memory_map: Tensor | None, places_map: Tensor | None) -> Tensor:
        """Return the logits of the map [N, H, W]: those of the network plus the maps of the memory and of the places."""
        maps = [] if logits is None else [logits]
        for view, its_map, gain in (
            (self.memory, memory_map, self.map_gain),
            (self.places, places_map, self.places_gain),
        ):
            if view is not None and its_map is not None:
                scale = float(view.config.grid)
                maps.append(functional.interpolate((its_map * gain)[:, None], scale_factor=scale, mode="bilinear")[:, 0])
        joined = functools.reduce(operator.add, maps)
        return joined if joined is logits else joined + self.map_offset


def pooled(logits: Tensor, valid: Tensor, pools: Pools = POOLS) -> Tensor:
    """Return the pooled logits [N, len(pools)], FP32, see `POOLS`; padding counts as surely normal."""
    masked = torch.where(valid, logits.float(), -LOGIT_LIMIT)[:, None]
    means: dict[tuple[int, int], Tensor] = {}
    for cell in sorted({cell for cell, _ in pools}):
        averages = functional.avg_pool2d(masked, cell).flatten(1)
        counts = [k for side, k in pools if side == cell]
        largest = torch.topk(averages, min(max(counts), averages.shape[1]), dim=1).values
        means |= {(cell, k): largest[:, :k].mean(dim=1) for k in counts}
    return torch.stack([means[pool] for pool in pools], dim=1)


def network_level(logits: Tensor, valid: Tensor) -> Tensor:
    """Return the level of the network's map [N, H, W] on each input, FP32 [N]: the median over cells of the part.

    A defect fills few cells, or is so large that it raises the level beyond what good parts show (`Detector.level_limit`).
    """
    means, inside = _means_over_part(logits, valid, LEVEL_CELL)
    return level_of(means, inside, above=0.5)


def most_prominent(memory_map: Tensor, valid: Tensor) -> Tensor:
    """Return how far the largest 3×3 mean of a map [N, h, w] rises above the part's level, FP32 [N].

    Another lot, light or texture raises the whole map. `LEVEL` of the part's level is therefore taken off. See `_part_of` for
    the places that count.

    Args:
        memory_map: The map.
        valid: Where the input shows the part, bool [N, H, W].
    """
    share = functional.avg_pool2d(valid.float()[:, None], valid.shape[1] // memory_map.shape[1])
    inside = _part_of(share)
    counts = functional.avg_pool2d(inside, 3, 1, 1)
    means = functional.avg_pool2d(memory_map.float()[:, None] * inside, 3, 1, 1) / counts.clamp(min=0.05)
    largest = torch.where(inside > 0, means, NOWHERE).amax(dim=(1, 2, 3))
    return largest - LEVEL * level_of(means[:, 0], inside[:, 0])


def most_unusual(places_map: Tensor, valid: Tensor) -> Tensor:
    """Return the largest value of a map [N, h, w] on the part, FP32 [N]. See `_part_of` for the places that count.

    Args:
        places_map: The map.
        valid: Where the input shows the part, bool [N, H, W].
    """
    share = functional.avg_pool2d(valid.float()[:, None], valid.shape[1] // places_map.shape[1])
    highest = torch.where(_part_of(share)[:, 0] > 0, places_map.float(), NO_PLACE).amax(dim=(1, 2))
    return torch.where(valid.any(dim=2).any(dim=1), highest, NOWHERE)


def level_of(places_map: Tensor, inside: Tensor, above: float = ABOVE_LEVEL) -> Tensor:
    """Return the value that the share `above` of the places of a map [N, h, w] exceed, [N]; places with `inside` 1 count."""
    candidates = int(above * places_map[0].numel()) + 1
    highest = torch.topk(torch.where(inside > 0, places_map, NO_PLACE).flatten(1), candidates, dim=1).values
    places = inside.sum(dim=(1, 2))
    rank = (above * places).long().clamp(max=candidates - 1)
    return torch.where(places > 0, torch.gather(highest, 1, rank[:, None])[:, 0], NOWHERE)


def _means_over_part(logits: Tensor, valid: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Return the mean of a map [N, H, W] over the part in each cell, FP32 [N, h, w], and which cells count, [N, h, w]."""
    shown = valid.float()[:, None]
    share = functional.avg_pool2d(shown, cell)
    means = functional.avg_pool2d(logits.float()[:, None] * shown, cell) / share.clamp(min=0.05)
    return means[:, 0], _part_of(share)[:, 0]


def _part_of(share: Tensor) -> Tensor:
    """Return which places show the part, FP32 0 or 1, from the share of each place that does, [N, 1, h, w].

    A place counts if most of it shows the part. If no place does, because the part is slim, those that show most of it count.
    """
    return (share > (share.amax(dim=(1, 2, 3), keepdim=True) / 2).clamp(max=0.5)).float()


@torch.no_grad()
def count_macs(detector: Detector, height: int, width: int) -> int:
    """Count the multiply-accumulates of one inspection at batch 1."""
    device = detector.score_scale.device
    frames = torch.zeros(1, height, width, 3, device=device)
    training = detector.training
    detector.eval()
    with FlopCounterMode(display=False) as counter:
        detector.inspect(frames, torch.zeros(1, 2, height, width, device=device))
    detector.train(training)
    return int(counter.get_total_flops()) // 2
