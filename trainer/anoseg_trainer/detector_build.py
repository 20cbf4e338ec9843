"""Builds the detector from good images: the memory and the whole-image model, and the scales that join the views.

No step here takes a gradient. Scales come from held-out good parts, never from those of the calibration. Runs on the main
thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from anoseg_engines.errors import ConfigError
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.config import MemoryOptions, TrainConfig, VariationConfig
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.data.samples import ROTATED_DEG
from anoseg_trainer.data.split import Split
from anoseg_trainer.feature_reader import FeatureReader
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
    most_prominent,
    most_unusual,
    network_level,
)
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.memory import Features, MemoryConfig, standardise, valid_places
from anoseg_trainer.model.memory_build import BuiltMemory, build_memory
from anoseg_trainer.model.network import valid_pixels
from anoseg_trainer.model.place_gaussians import FEATURES_OF_PLACES, PlaceGaussians, TrainingVectors, fit_alignment
from anoseg_trainer.model.whole_image import WholeImage
from anoseg_trainer.thresholds import score_scale
from anoseg_trainer.training.step import Arithmetic
from anoseg_trainer.training_record import Product
from anoseg_trainer.validation import Validation, scaled_spec, validate

SAMPLE_PARTS = 48
"""Training parts from which the memory's projection is computed, at most."""
SAMPLE_INPUTS = 144
"""Their inputs, at most: the features of 48 parts of 16 tiles each would take more than a gigabyte."""
VARIED_PARTS = 0.3
"""Share of the training parts that memory and whole image learn a second time, with noise or compression."""
ANY_WAY = 180.0
"""Parts that are rotated by up to this many degrees appear any way round."""
ANGLES = 300
"""Least number of parts and copies, where parts appear any way round: few good images do not show the part at every angle, so
turned copies are added. With 20 images of mvtec_screw and no network, 33 to 81 instead of 114 to 116 of 119 defects then pass
where 2 % of the good parts are rejected. With 230 images they help nothing."""
MOST_UNITS = {MEMORY: 3.75, WHOLE_IMAGE: 1.75}
"""Most that the memory and the whole-image model count beside a network, whatever the weights: in units of the network's spread
over good parts where its weight is 1. A good part that only they find odd then sets no threshold that most defects pass. With a
limit of 5 for both instead of none, 0.41 instead of 0.50 of the defects passed at the calibrated threshold on mvtec_screw, and
0.14 instead of 0.30 on the demo; image AUROC stayed."""
FEW_HELD_OUT = 5
"""Fewer validation parts do not tell how far the memory's values vary between parts. Then training parts tell as well, each
compared with the others. On bsd_pitting, one of eleven places is held out for validation, and by that place alone the memory
would count 2.6 times as much (EXPERIMENTS.md)."""
FEWEST_LEFT_OUT = 3
"""With fewer training parts, too little is left to compare with."""
LEFT_OUT_IMAGES = 96
"""Images of the training parts that are compared so, at most."""
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


def memory_config(options: MemoryOptions, *, background: bool, fixed: bool = False) -> MemoryConfig:
    """Choose the values that `options` leaves open.

    A small part on a plain background needs fine features with all their contrast: without contrast, the background is as
    loud as the part. On a surface that fills the image, contrast changes with the light, and defects such as uneven grinding
    show in coarse features alone (EXPERIMENTS.md, "Two views of a part").

    Args:
        options: The configured values.
        background: Whether parts are on a plain background.
        fixed: Whether the features are responses of fixed filters.
    """
    strides = options.strides or ((4, 8, 16) if fixed else (8, 16) if background else (8, 16, 32))
    return MemoryConfig(
        strides=tuple(sorted(strides)),
        grid=options.grid or (8 if background else 16),
        dims=options.dims,
        vectors=options.vectors,
        softness=(100.0 if background else 0.0) if options.softness is None else options.softness,
        whitening=(0.5 if background and not fixed else 0.0) if options.whitening is None else options.whitening,
    )


def whole_image_model(config: TrainConfig, channels: tuple[int, ...], *, background: bool, fixed: bool) -> WholeImage:
    """Make the whole-image model that suits the product.

    On surfaces the features are brought to even length, which takes out the contrast, because it changes with the light. If
    parts may be turned by any angle, responses of fixed filters are measured without their direction, because it changes more
    between good parts than between good and defective ones.

    Args:
        config: The configuration, with the poses chosen.
        channels: Channels of the features.
        background: Whether parts are on a plain background.
        fixed: Whether the features are responses of fixed filters.
    """
    turned = fixed and (config.variation.rotation_deg or 0) > ROTATED_DEG
    strides = (8, 16) if background and not fixed else (4, 8, 16, 32)
    return WholeImage(strides, even=not background or (fixed and not turned), channels=channels, turned=turned)


def describe_comparison(config: TrainConfig, features: Encoder | FixedFilters | None, *, background: bool) -> str:
    """Say in a note for the user what parts are compared by."""
    if features is None:
        return "parts are not compared with good ones: the network alone judges them"
    fixed = isinstance(features, FixedFilters)
    chosen = memory_config(config.memory, background=background, fixed=fixed)
    strides = ", ".join(str(stride) for stride in chosen.strides)
    what = "responses of fixed filters" if fixed else "features of the pretrained encoder"
    return f"parts are compared with good ones by {what} at strides {strides} (memory.softness {chosen.softness:g})"


def describe_places(places: PlaceGaussians) -> str:
    """Say in a note for the user that the Gaussians of places count, how much, and why."""
    count = aligned(places)
    return (
        f"different good parts look alike at the same place of the image ({places.alignment:.0%}, 100% if all looked the same "
        "there), so each place is also compared with the same place of good parts (views.places"
        + (")" if count == 1 else f", which counts {count:.0%} of its weight)")
    )


def features_of_good_parts(
    config: TrainConfig, pretrained: Encoder | None, *, background: bool
) -> Encoder | FixedFilters | None:
    """Return what computes the features that parts are compared by; None if parts are not compared with good ones.

    Without pretrained weights, fixed filters do it for parts on a plain background. On surfaces they say next to nothing
    (magnetic_tile by tile: image AUROC 0.64).
    """
    views = config.views
    if not config.detector or not any((config.network.memory_input, views.memory, views.memory_map, views.whole_image)):
        return None
    if pretrained is None and background:
        return FixedFilters()
    return pretrained


def with_good_parts(detector: Detector, product: Product) -> tuple[Detector, BuiltMemory]:
    """Add a memory and a whole-image model of the training parts to a detector; where parts are aligned, Gaussians of places.

    All are standardised on the validation parts. The features come from the network or the encoder of `detector`.

    Returns:
        The new detector, and what the construction of its memory showed.
    """
    config, split = product.config, product.split
    encoder = detector.encoder if detector.network is None else detector.network.backbone.encoder
    fixed = isinstance(encoder, FixedFilters)
    chosen = memory_config(config.memory, background=product.background, fixed=fixed)
    whole = whole_image_model(config, detector.channels, background=product.background, fixed=fixed)
    reader = FeatureReader(
        detector=detector,
        spec=scaled_spec(config.input.spec),
        store=product.store,
        groups=product.groups,
        strides=tuple({*chosen.strides, *whole.strides}),
        # As the bundle computes them: bf16 would move the features of every part.
        arithmetic=Arithmetic.of(msgspec.structs.replace(config.training, device="cpu", precision="fp32")),
    )
    sample, places = _sample_and_places(reader, product, fixed=fixed)
    if places is not None:
        reader = dataclasses.replace(reader, strides=_with_places(reader))
    varied = dataclasses.replace(reader, variation=config.variation, seed=product.seed)
    varied_parts = _varied_parts(split.train, config.variation, product.seed)
    turned_parts = _turned_parts(split.train, config.variation, len(varied_parts))
    copies = chain(varied.features(varied_parts), dataclasses.replace(varied, turn=True).features(turned_parts))
    kept = None if places is None else TrainingVectors(places, len(split.train) + len(varied_parts))
    measures: list[Tensor] = []
    measures_held_out: list[Tensor] = []
    unusual: list[Tensor] = []
    of_places: list[Tensor] = []

    def measured(batches: Iterable[Features], found: list[Tensor]) -> Iterator[Features]:
        """Measure each batch for the other models on its way to the memory: parts are encoded once, and not kept."""
        for batch in batches:
            found.append(whole.measures(batch.levels, batch.valid))
            if kept is not None:
                kept.add(batch)
            yield batch

    def measured_held_out(batches: Iterable[Features]) -> Iterator[Features]:
        for batch in batches:
            measures_held_out.append(whole.measures(batch.levels, batch.valid))
            if places is not None:
                distances = places(batch.levels)
                unusual.append(most_unusual(distances, batch.valid))
                of_places.extend(d[on] for d, on in zip(distances, valid_places(batch.valid, distances.shape[1:]), strict=True))
            yield batch

    built = build_memory(
        sample,
        measured(reader.features(split.train), measures),
        chosen,
        images=reader.n_inputs(split.train),
        seed=product.seed,
        varied=measured(copies, measures),
        channels=detector.channels,
    )
    if places is not None and kept is not None:
        places.fit(kept.vectors, len(np.unique(product.groups[list(split.train)])))
    standardise(built.memory, measured_held_out(reader.features(split.validation)))
    if places is not None:
        places.standardise(torch.cat(unusual), torch.cat(of_places))
    whole.fit(torch.cat(measures), torch.cat(measures_held_out))
    built.memory.left_out = left_out_values(built, reader, split)
    joined = Detector(detector.network, encoder=detector.encoder, memory=built.memory, whole_image=whole, places=places).eval()
    return joined, built


def _sample_and_places(reader: FeatureReader, product: Product, *, fixed: bool) -> tuple[list[Features], PlaceGaussians | None]:
    """Read some training parts, and make the Gaussians of places, still without means; None where they would not count.

    They count where a part is brought to one input, so that its places are those of the part, where it does not appear any
    way round, and where the place tells much of the features, see `ALIGNED`. The features must be those of a pretrained
    encoder (`fixed` is false).
    """
    config, train, spec = product.config, product.split.train, reader.spec
    posed = (config.variation.rotation_deg or 0.0) < ANY_WAY
    wanted = config.detector and config.views.places and posed and not fixed and spec.mode == "resize"
    if wanted:
        reader = dataclasses.replace(reader, strides=_with_places(reader))
    sample = list(reader.features(_sample(train, reader)))
    if not wanted:
        return sample, None
    places = PlaceGaussians(spec.height, spec.width, reader.detector.channels)
    places.alignment = fit_alignment(places, sample, torch.Generator().manual_seed(product.seed))
    return sample, places if places.alignment > ALIGNED[0] else None


def _with_places(reader: FeatureReader) -> tuple[int, ...]:
    """Return the strides that a reader needs if there are Gaussians of places."""
    return tuple({*reader.strides, *FEATURES_OF_PLACES.strides})


@torch.no_grad()
def left_out_values(built: BuiltMemory, reader: FeatureReader, split: Split) -> Tensor:
    """Compare training parts with the memory of the other parts, where few parts are held out for validation.

    Returns:
        The memory's value of each image compared, FP32 [n], n at most `LEFT_OUT_IMAGES`: as many of each part. Empty if
        the validation's parts are enough, or the training's too few.
    """
    parts = np.unique(reader.groups[list(split.train)])
    if len(np.unique(reader.groups[list(split.validation)])) >= FEW_HELD_OUT or len(parts) < FEWEST_LEFT_OUT:
        return torch.zeros(0)
    each = max(1, LEFT_OUT_IMAGES // len(parts))
    values = []
    for part in parts[:: -(-len(parts) // LEFT_OUT_IMAGES)]:
        images = [i for i in split.train if reader.groups[i] == part]
        for image in images[:: -(-len(images) // each)]:
            tiles = []
            for batch in reader.features([image]):
                own = batch.parts[:, None] == built.parts[None, :]
                own &= ~own.all(dim=1, keepdim=True)  # if all vectors are of one part, it is compared with them
                distances = built.memory.distance(built.memory.embed(batch.levels), own)
                tiles.append(most_prominent(built.memory.standardised(distances), batch.valid))
            values.append(torch.cat(tiles).max())
    return torch.stack(values)


def _varied_parts(parts: Sequence[int], variation: VariationConfig, seed: int) -> Sequence[int]:
    """Choose the parts that are learned a second time, in order; none if neither noise nor compression counts as normal."""
    if not variation.noise and not variation.compression:
        return ()
    chosen = np.random.default_rng([seed, 558]).permutation(parts)[: round(VARIED_PARTS * len(parts))]
    return sorted(int(index) for index in chosen)


def _turned_parts(parts: Sequence[int], variation: VariationConfig, already: int) -> Sequence[int]:
    """Choose the parts that are learned turned, one after the other until parts and copies are `ANGLES`.

    Args:
        parts: The training parts.
        variation: What counts as normal; unless parts appear any way round, none is turned.
        already: How many copies there are.
    """
    if (variation.rotation_deg or 0.0) < ANY_WAY:
        return ()
    return [parts[i % len(parts)] for i in range(ANGLES - len(parts) - already)]


def _sample(parts: Sequence[int], reader: FeatureReader) -> Sequence[int]:
    """Choose some of the parts, spread over all of them."""
    most = max(1, min(SAMPLE_PARTS, SAMPLE_INPUTS // reader.n_inputs(parts[:1])))
    return parts[:: -(-len(parts) // most)]


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
    return [product.store[i] for i in train[:: -(-len(train) // most)]]


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
        coords = torch.from_numpy(placement.coords_N2HW.astype(np.float32))
        valid = valid_pixels(coords)
        logits = detector.parts(torch.from_numpy(frames), coords, valid)[0]
        assert logits is not None
        levels.append(network_level(logits, valid))
        if is_held_out:
            halved = functional.avg_pool2d(logits[:, None].float(), 2)[:, 0]
            inside = functional.avg_pool2d(valid.float()[:, None], 2)[:, 0] == 1
            pixels.append(halved[:, ::MAP_STRIDE, ::MAP_STRIDE][inside[:, ::MAP_STRIDE, ::MAP_STRIDE]])
            largest.append(halved[inside].max())
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
