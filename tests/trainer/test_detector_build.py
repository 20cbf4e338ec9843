"""The views that compare parts with good ones: what they are built from, and what they then see."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.config import InputConfig, MemoryOptions, NetworkConfig, TrainConfig, VariationConfig, ViewsConfig
from anoseg_trainer.data.part_store import PartStoreWriter
from anoseg_trainer.data.split import Split
from anoseg_trainer.detector_build import (
    ANGLES,
    SAMPLE_INPUTS,
    _turned_parts,
    _varied_parts,
    features_of_good_parts,
    memory_config,
    whole_image_model,
    with_good_parts,
)
from anoseg_trainer.feature_reader import FeatureReader
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.encoder import CHANNELS, Encoder, load_encoder, packaged_weights
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.memory import Features
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.model.place_gaussians import PlaceGaussians
from anoseg_trainer.training.step import Arithmetic
from anoseg_trainer.training_record import Product
from anoseg_trainer.view_scales import fit_maps

SPEC = InputSpec(64, 64)
TILES = InputSpec(64, 64, mode="tile", scale=1.0, overlap=0)
NO_GOOD_PARTS = ViewsConfig(memory=0.0, whole_image=0.0, memory_map=0.0)


def small_detector() -> Detector:
    """A detector whose features come from a network with random weights."""
    torch.manual_seed(0)
    return Detector(AnoSegNetwork(NetworkConfig(widths=(8, 8, 8, 8, 8), encoder="scratch"))).eval()


def test_open_values_follow_the_background() -> None:
    """Small parts keep contrast and fine features, surfaces lose contrast and get coarse ones; what is given stays."""
    part, surface = (memory_config(MemoryOptions(), background=b) for b in (True, False))
    assert part.softness > surface.softness == 0
    assert max(surface.strides) > max(part.strides)
    given = memory_config(MemoryOptions(strides=(16, 4), grid=4, softness=1.0, whitening=0.3), background=True)
    assert (given.strides, given.grid, given.softness, given.whitening) == ((4, 16), 4, 1.0, 0.3)


def test_fixed_filters_ignore_the_direction_where_parts_are_turned() -> None:
    """Only there: parts that always have one pose keep it, and so do the features of a pretrained encoder."""
    turned, posed = (TrainConfig(variation=VariationConfig(rotation_deg=angle)) for angle in (180.0, 4.0))
    channels = FixedFilters().channels
    model = whole_image_model(turned, channels, background=True, fixed=True)
    assert model.without_direction is not None
    assert not model.even
    assert whole_image_model(posed, channels, background=True, fixed=True).without_direction is None
    pretrained = whole_image_model(turned, CHANNELS, background=True, fixed=False)
    assert pretrained.without_direction is None
    assert (pretrained.strides, pretrained.even) == ((8, 16), False)
    surface = whole_image_model(turned, CHANNELS, background=False, fixed=False)
    assert (surface.strides, surface.even) == ((4, 8, 16, 32), True)


def test_what_computes_the_features() -> None:
    """The pretrained encoder; without one, fixed filters on a plain background; nothing if no view needs features."""
    encoder = Encoder()
    assert features_of_good_parts(TrainConfig(), encoder, background=False) is encoder
    assert isinstance(features_of_good_parts(TrainConfig(), None, background=True), FixedFilters)
    assert features_of_good_parts(TrainConfig(), None, background=False) is None
    for config in (
        TrainConfig(detector=False),
        TrainConfig(views=NO_GOOD_PARTS),
    ):
        assert features_of_good_parts(config, encoder, background=True) is None
    without_filters = TrainConfig(network=NetworkConfig(encoder="scratch", fixed_filters=False))
    assert features_of_good_parts(without_filters, None, background=True) is None


def test_the_memory_learns_noise_and_compression(tmp_path: Path) -> None:
    """Each varied part gets noise, compression or both, and always the same; without either, no part is learned twice."""
    rng = np.random.default_rng(2)
    with PartStoreWriter(tmp_path / "parts", SPEC) as writer:
        for _ in range(40):
            writer.add(Path("part.png"), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        store = writer.finish()

    def features(noise: float, compression: float) -> torch.Tensor:
        reader = FeatureReader(
            detector=small_detector(),
            spec=SPEC,
            store=store,
            groups=np.arange(40),
            strides=(8,),
            arithmetic=Arithmetic(torch.device("cpu"), None),
            variation=VariationConfig(noise=noise, compression=compression),
            seed=1,
        )
        return torch.cat([batch.levels[2] for batch in reader.features(range(40))])

    plain = features(0.0, 0.0)
    for noise, compression in ((0.0, 0.3), (4.0, 0.0)):
        found = features(noise, compression)
        assert int((found != plain).flatten(1).any(dim=1).sum()) >= 36  # the weakest change is rounded away
        assert torch.equal(found, features(noise, compression))
    assert int((features(4.0, 0.3) != plain).flatten(1).any(dim=1).sum()) >= 36
    assert len(_varied_parts(range(40), VariationConfig(), seed=1)) == 12
    assert not _varied_parts(range(40), VariationConfig(noise=0.0, compression=0.0), seed=1)


def test_few_parts_that_appear_any_way_round_are_learned_at_more_angles(tmp_path: Path) -> None:
    """Each copy is turned by another angle, and always by the same; none is turned where parts appear one way round."""
    image = np.full((64, 64, 3), 90, np.uint8)
    image[8:56, 28:36] = 200  # a bar
    with PartStoreWriter(tmp_path / "parts", SPEC) as writer:
        for _ in range(7):
            writer.add(Path("part.png"), image)
        store = writer.finish()

    def copies(rotation: float) -> list[Image]:
        variation = VariationConfig(noise=0.0, compression=0.0, rotation_deg=rotation, flip_x=0.5)
        parts = _turned_parts(range(7), variation, already=2)
        reader = FeatureReader(
            detector=small_detector(),
            spec=SPEC,
            store=store,
            groups=np.arange(7),
            strides=(8,),
            arithmetic=Arithmetic(torch.device("cpu"), None),
            variation=variation,
            turn=True,
            seed=1,
        )
        return [reader._part(index, number) for number, index in enumerate(parts)]

    turned = copies(180.0)
    assert len(turned) == ANGLES - 9
    different = {part.tobytes() for part in turned}  # a bar turned by nearly equal angles may look the same
    assert len(different) > 0.95 * len(turned)
    assert all((a == b).all() for a, b in zip(turned, copies(180.0), strict=True))
    assert not copies(10.0)
    assert not _turned_parts(range(ANGLES), VariationConfig(rotation_deg=180.0), already=0)


def encoded_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch, side: int, train: int, validation: int
) -> tuple[list[weakref.ref[torch.Tensor]], list[int]]:
    """Build memory and whole-image model of square parts in tiles of 64²; return features of each batch, and how many lived."""
    rng = np.random.default_rng(3)
    with PartStoreWriter(folder / "parts", SPEC if side == 64 else TILES) as writer:
        for _ in range(train + validation):
            writer.add(Path("part.png"), rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
        store = writer.finish()
    made: list[weakref.ref[torch.Tensor]] = []
    alive = []
    encoded = FeatureReader._encoded

    def counted(self: FeatureReader, *batch: Any) -> Features:
        alive.append(sum(tensor() is not None for tensor in made))
        found = encoded(self, *batch)
        made.append(weakref.ref(found.levels[2]))
        return found

    monkeypatch.setattr(FeatureReader, "_encoded", counted)
    images: Any = None
    numbers = tuple(range(train + validation))
    product = Product(
        config=TrainConfig(
            input=InputConfig(height=64, width=64, mode="resize" if side == 64 else "tile", scale=1.0, overlap=0),
            memory=MemoryOptions(vectors=20),
        ),
        images=images,
        groups=np.array(numbers),
        split=Split(train=numbers[:train], validation=numbers[train:], calibration=(), calibration_parts=()),
        store=store,
        cases=[],
        background=True,
        origin=None,
        seed=0,
    )
    with_good_parts(Detector(None, encoder=Encoder()), product)
    return made, alive


def memory_of_lots(lots: int, held_out: int, store: Any, vectors: int = 20) -> Any:
    """Build memory and whole image of parts of some lots, each lot noisier than the one before; some lots are held out."""
    images: Any = None
    numbers = np.repeat(np.arange(lots + held_out), 4)
    product = Product(
        config=TrainConfig(
            input=InputConfig(height=64, width=64, mode="resize", scale=1.0, overlap=0), memory=MemoryOptions(vectors=vectors)
        ),
        images=images,
        groups=numbers,
        split=Split(
            train=tuple(np.flatnonzero(numbers < lots).tolist()),
            validation=tuple(np.flatnonzero(numbers >= lots).tolist()),
            calibration=(),
            calibration_parts=(),
        ),
        store=store,
        cases=[],
        background=True,
        origin=None,
        seed=0,
    )
    return with_good_parts(Detector(None, encoder=Encoder()), product)[0].memory


def detector_of(
    folder: Path,
    images: list[Image],
    *,
    side: int = 64,
    places: float = 3.0,
    detector: bool = True,
    rotation: float = 4.0,
    each: int = 1,
) -> Detector:
    """Build the views of some images of side×side, in tiles if that is more than 64; `each` of them show one part.

    The last quarter is held out.
    """
    with PartStoreWriter(folder, SPEC if side == 64 else TILES) as writer:
        for image in images:
            writer.add(Path("part.png"), image)
        store = writer.finish()
    none: Any = None
    learned = len(images) * 3 // 4
    product = Product(
        config=TrainConfig(
            input=InputConfig(height=64, width=64, mode="resize" if side == 64 else "tile", scale=1.0, overlap=0),
            memory=MemoryOptions(vectors=50),
            views=ViewsConfig(places=places),
            detector=detector,
            variation=VariationConfig(rotation_deg=rotation),
        ),
        images=none,
        groups=np.arange(len(images)) // each,
        split=Split(
            train=tuple(range(learned)), validation=tuple(range(learned, len(images))), calibration=(), calibration_parts=()
        ),
        store=store,
        cases=[],
        background=True,
        origin=None,
        seed=0,
    )
    return with_good_parts(Detector(None, encoder=load_encoder(packaged_weights())), product)[0]


def parts_with_a_pattern(side: int, aligned: bool, n: int = 24) -> list[Image]:
    """Noisy images of one pattern of squares, at one place or moved by any distance."""
    rng = np.random.default_rng(7)
    pattern = np.kron(rng.integers(30, 220, (side // 8, side // 8, 3)), np.ones((8, 8, 1)))
    found = []
    for _ in range(n):
        moved = pattern if aligned else np.roll(pattern, rng.integers(0, side, 2), axis=(0, 1))
        found.append(np.clip(moved + rng.normal(0, 4, moved.shape), 0, 255).astype(np.uint8))
    return found


def test_places_count_where_parts_always_lie_the_same_way(tmp_path: Path) -> None:
    """Not where parts are moved by any distance, where a part has several tiles, without a weight, or with the map alone."""
    aligned = detector_of(tmp_path / "a", parts_with_a_pattern(64, aligned=True))
    assert aligned.places is not None
    assert aligned.places.alignment > 0.7
    assert list(aligned.columns) == ["memory", "whole image", "places"]
    # A held-out part reads about 0, one with another square far more.
    good = parts_with_a_pattern(64, aligned=True, n=40)[24:]
    defective = [image.copy() for image in good]
    for image in defective:
        image[24:32, 16:24] = 255 - image[24:32, 16:24]
    values = []
    for images in (good, defective):
        frames = torch.from_numpy(np.stack(images))
        with torch.no_grad():
            values.append(aligned.inspect_unscaled(frames, torch.zeros(len(images), 2, 64, 64))[1][:, 2])
    assert float(values[1].min()) > float(values[0].max()) + 1
    assert float(values[0].median().abs()) < 3
    assert detector_of(tmp_path / "b", parts_with_a_pattern(64, aligned=False)).places is None
    assert detector_of(tmp_path / "c", parts_with_a_pattern(128, aligned=True, n=12), side=128).places is None
    assert detector_of(tmp_path / "d", parts_with_a_pattern(64, aligned=True), places=0.0).places is None
    assert detector_of(tmp_path / "e", parts_with_a_pattern(64, aligned=True), detector=False).places is None
    assert detector_of(tmp_path / "f", parts_with_a_pattern(64, aligned=True), rotation=180.0).places is None


def test_images_of_one_part_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images of one part do not show how parts differ, so the fit gets the number of parts, not that of images."""
    counted = []
    fit = PlaceGaussians.fit

    def counting(self: PlaceGaussians, vectors: Any, parts: int) -> None:
        counted.append(parts)
        fit(self, vectors, parts)

    monkeypatch.setattr(PlaceGaussians, "fit", counting)
    detector_of(tmp_path / "parts", parts_with_a_pattern(64, aligned=True), each=3)
    assert counted == [6]


def test_what_is_at_the_wrong_place_is_marked_in_the_map(tmp_path: Path) -> None:
    """A good part's largest place reads 0.5 at most, because memory and places seldom agree on it; squares that belong to
    another place of the part read more, and more than in the memory's map alone."""
    found = detector_of(tmp_path / "parts", parts_with_a_pattern(64, aligned=True))
    good = parts_with_a_pattern(64, aligned=True, n=40)[24:]
    wrong = [image.copy() for image in good]
    for image in wrong:
        image[16:40, 16:40] = image[40:64, 32:56]
    by_memory = maps_of(found, wrong)
    fit_maps(found, SPEC, good, (), share=0.5, level=True)
    assert 0.1 < float(maps_of(found, good).amax(dim=(1, 2)).median()) < 0.55
    by_place = maps_of(found, wrong)
    rows, columns = divmod(by_place.flatten(1).argmax(dim=1).numpy(), 64)
    assert (abs(rows - 28) <= 12).all()
    assert (abs(columns - 28) <= 12).all()
    marked = slice(None), slice(24, 32), slice(24, 32)
    assert float(by_place[marked].mean()) > 0.75 > 0.1 > float(maps_of(found, good)[marked].mean())
    assert float(by_place[marked].mean()) > float(by_memory[marked].mean())


def maps_of(found: Detector, images: list[Image]) -> torch.Tensor:
    """Anomaly maps of images of 64×64."""
    with torch.no_grad():
        return found.inspect(torch.from_numpy(np.stack(images)), torch.zeros(len(images), 2, 64, 64))[0]


def test_where_few_lots_are_held_out_the_training_lots_tell_the_memorys_spread(tmp_path: Path) -> None:
    """Each training lot looks unlike the others, so its values are above what the memory says of its own lots."""
    torch.manual_seed(0)
    rng = np.random.default_rng(4)
    with PartStoreWriter(tmp_path / "parts", SPEC) as writer:
        for lot in range(8):
            for _ in range(4):
                noise = rng.normal(0, 5 + 10 * lot, (64, 64, 3))
                writer.add(Path("part.png"), np.clip(128 + noise, 0, 255).astype(np.uint8))
        store = writer.finish()
    one_held_out = memory_of_lots(7, 1, store)
    assert one_held_out.left_out.shape == (28,)
    assert bool(torch.isfinite(one_held_out.left_out).all())
    assert memory_of_lots(3, 5, store).left_out.shape == (0,)
    assert memory_of_lots(2, 1, store).left_out.shape == (0,)
    assert bool(torch.isfinite(memory_of_lots(7, 1, store, vectors=1).left_out).all())  # the only vector is of one lot


def test_features_of_held_out_parts_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch after the other is measured: with 5,000 large images, all of them would take gigabytes."""
    made, alive = encoded_batches(tmp_path, monkeypatch, side=64, train=8, validation=64)
    assert len(made) == 11  # one batch for the projection, two for the memory (of varied parts, too), eight of held-out parts
    assert max(alive) <= 2


def test_the_projection_is_computed_from_few_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its features are kept meanwhile: of large parts, which have many tiles, fewer parts count."""
    made, alive = encoded_batches(tmp_path, monkeypatch, side=256, train=27, validation=2)
    assert max(alive) <= SAMPLE_INPUTS // 8 + 2
    # 8 parts are varied; the training parts are read again, because two parts held out do not tell the memory's spread.
    assert len(made) == 9 * 16 // 8 + (27 + 8 + 2) * 16 // 8 + 27 * 16 // 8
