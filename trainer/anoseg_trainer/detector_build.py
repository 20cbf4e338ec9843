"""Adds to a detector what compares parts with good ones: the memory, the whole-image model and the Gaussians of places.

No step here takes a gradient. The views are standardised on held-out good parts, never on those of the calibration. Runs on the
main thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import msgspec
import numpy as np
import torch
from torch import Tensor

from anoseg_trainer.config import MemoryOptions, TrainConfig, VariationConfig
from anoseg_trainer.data.samples import ROTATED_DEG
from anoseg_trainer.data.split import Split
from anoseg_trainer.feature_reader import FeatureReader
from anoseg_trainer.model.detector import (
    Detector,
    most_prominent,
    most_unusual,
)
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.memory import Features, MemoryConfig, standardise, valid_places
from anoseg_trainer.model.memory_build import BuiltMemory, build_memory
from anoseg_trainer.model.place_gaussians import FEATURES_OF_PLACES, PlaceGaussians, TrainingVectors, fit_alignment
from anoseg_trainer.model.whole_image import WholeImage
from anoseg_trainer.training.step import Arithmetic
from anoseg_trainer.training_record import Product
from anoseg_trainer.validation import scaled_spec
from anoseg_trainer.view_scales import ALIGNED, aligned

SAMPLE_PARTS = 48
"""Training parts from which the memory's projection is computed, at most."""
SAMPLE_INPUTS = 144
"""Their inputs, at most: the features of 48 parts of 16 tiles each would take more than a gigabyte."""
SAMPLE_PIXELS = SAMPLE_INPUTS * 384**2
"""The network pixels of these inputs, at most: one input may be as large as six tiles."""
VARIED_PARTS = 0.3
"""Share of the training parts that memory and whole image learn a second time, with noise or compression."""
ANY_WAY = 180.0
"""Parts that are rotated by up to this many degrees appear any way round."""
ANGLES = 300
"""Least number of parts and copies, where parts appear any way round: few good images do not show the part at every angle, so
turned copies are added. With 20 images of mvtec_screw and no network, 33 to 81 instead of 114 to 116 of 119 defects then pass
where 2 % of the good parts are rejected. With 230 images they help nothing."""
FEW_HELD_OUT = 5
"""Fewer validation parts do not tell how far the memory's values vary between parts. Then training parts tell as well, each
compared with the others. On bsd_pitting, one of eleven places is held out for validation, and by that place alone the memory
would count 2.6 times as much (EXPERIMENTS.md)."""
FEWEST_LEFT_OUT = 3
"""With fewer training parts, too little is left to compare with."""
LEFT_OUT_IMAGES = 96
"""Images of the training parts that are compared so, at most."""


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

    Without pretrained weights, fixed filters do it for parts on a plain background. On surfaces a memory of them says next to
    nothing (magnetic_tile by tile: image AUROC 0.64), so they help the network alone.
    """
    views = config.views
    if not config.detector or not any((config.network.memory_input, views.memory, views.memory_map, views.whole_image)):
        return None
    if pretrained is None and background and config.network.fixed_filters:
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
    wanted = places_may_count(config) and not fixed and spec.mode == "resize"
    if wanted:
        reader = dataclasses.replace(reader, strides=_with_places(reader))
    sample = list(reader.features(_sample(train, reader)))
    if not wanted:
        return sample, None
    places = PlaceGaussians(spec.height, spec.width, reader.detector.channels)
    places.alignment = fit_alignment(places, sample, torch.Generator().manual_seed(product.seed))
    return sample, places if places.alignment > ALIGNED[0] else None


def places_may_count(config: TrainConfig) -> bool:
    """Return whether the configuration lets parts be compared place by place: they may not appear any way round."""
    views = config.views
    compared = any((config.network.memory_input, views.memory, views.memory_map, views.whole_image))
    return bool(config.detector and compared and views.places and (config.variation.rotation_deg or 0.0) < ANY_WAY)


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
    """Choose some of the parts at random, in order: names may alternate between two cameras or exposures."""
    inputs = reader.n_inputs(parts[:1])
    pixels = inputs * reader.spec.height * reader.spec.width
    most = max(1, min(SAMPLE_PARTS, SAMPLE_INPUTS // inputs, SAMPLE_PIXELS // pixels))
    return sorted(int(index) for index in np.random.default_rng(559).permutation(parts)[:most])
