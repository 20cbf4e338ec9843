"""The memory of good parts: distances are exact, no part finds itself, dirt stays out, and half precision keeps the map."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anoseg_trainer.model.encoder import CHANNELS, STRIDES
from anoseg_trainer.model.memory import Features, Memory, MemoryConfig, standardise
from anoseg_trainer.model.memory_build import (
    FEWEST_PARTS,
    BuiltMemory,
    Patches,
    build_memory,
    coreset,
    nearest_of_others,
    unlike_others,
)

CONFIG = MemoryConfig(strides=(4, 8, 16), dims=16, vectors=200)


def some_features(images: int, seed: int, offset: float = 4.0) -> Features:
    """Features of made-up parts: smooth fields far from zero, as those of a real encoder are."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for stride, channels in zip(STRIDES, CHANNELS, strict=True):
        base = torch.randn(images, channels, 6, 6, generator=generator)
        levels.append(functional.interpolate(base, size=(128 // stride, 96 // stride), mode="bilinear") + offset)
    valid = torch.ones(images, 128, 96, dtype=torch.bool)
    return Features(levels, torch.arange(images), valid)


def batches() -> Iterator[Features]:
    yield some_features(5, 1)
    later = some_features(4, 2)
    yield Features(later.levels, later.parts + 5, later.valid)


@pytest.fixture(scope="module")
def built() -> BuiltMemory:
    return build_memory(list(batches()), batches(), CONFIG, images=9, seed=0)


def brute_force(memory: Memory, embedded: Tensor) -> Tensor:
    """Distances by the definition, FP64, [N, h, w]."""
    vectors = memory.nearest.weight[:, :, 0, 0].double()
    places = embedded.double().permute(0, 2, 3, 1)
    return torch.stack([torch.cdist(image.reshape(-1, places.shape[-1]), vectors).amin(1) for image in places]).reshape(
        places.shape[:3]
    )


def test_distance_equals_brute_force(built: BuiltMemory) -> None:
    """Convolution, maximum and root give the Euclidean distance to the nearest vector."""
    embedded = built.memory.embed(some_features(3, 7).levels)
    torch.testing.assert_close(
        built.memory.distance(embedded).double(), brute_force(built.memory, embedded), rtol=1e-3, atol=2e-3
    )


def test_embedding_is_centred_and_scaled(built: BuiltMemory) -> None:
    """Vectors of good parts have mean 0 and mean square 1: nothing large is subtracted from something large."""
    embedded = torch.cat([built.memory.embed(batch.levels) for batch in batches()])
    assert embedded.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert embedded.square().sum(dim=1).mean() == pytest.approx(1.0, abs=0.1)


def test_projection_commutes_with_resizing(built: BuiltMemory) -> None:
    """Projecting every level before it is resized gives what resizing, joining and projecting gives."""
    levels = some_features(2, 3).levels
    memory = built.memory
    joined = torch.zeros(())
    for stride, project, floor in zip(CONFIG.strides, memory.projections, memory.floors, strict=True):
        x = functional.avg_pool2d(levels[STRIDES.index(stride)], 3, 1, 1, count_include_pad=False)
        x = x / (x.square().sum(dim=1, keepdim=True) + floor).sqrt()
        if stride == 4:
            x = functional.avg_pool2d(x, 2)
        if stride == 16:
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        joined = joined + project(x)
    torch.testing.assert_close(memory.embed(levels), joined, rtol=1e-3, atol=1e-3)


def test_a_training_part_is_at_distance_zero_of_its_own_vectors(built: BuiltMemory) -> None:
    """Without a ban a part finds its own vectors: the ban below is needed."""
    distances = built.memory.distance(built.memory.embed(next(batches()).levels))
    assert distances.flatten(1).amin(dim=1).max() < 5e-3


def test_a_part_never_finds_itself(built: BuiltMemory) -> None:
    """With its own vectors forbidden a part is measured against the other parts' vectors alone."""
    batch = next(batches())
    embedded = built.memory.embed(batch.levels)
    forbidden = batch.parts[:, None] == built.parts[None, :]
    distances = built.memory.distance(embedded, forbidden)
    vectors = built.memory.nearest.weight[:, :, 0, 0]
    for image, part, found in zip(embedded, batch.parts, distances, strict=True):
        others = vectors[built.parts != part]
        expected = torch.cdist(image.flatten(1).T.double(), others.double()).amin(dim=1).reshape(found.shape)
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=2e-3)
    assert (distances >= built.memory.distance(embedded) - 1e-5).all()


def test_standardised_map_reads_zero_and_one_on_good_parts(built: BuiltMemory) -> None:
    """On the parts it was standardised with, the median place reads 0 and the median part's largest place 1."""
    held_out = some_features(6, 11)
    standardise(built.memory, [held_out])
    found = built.memory(held_out.levels)
    assert found.median() == pytest.approx(0.0, abs=1e-5)
    assert found.flatten(1).amax(dim=1).median() == pytest.approx(1.0, abs=1e-5)


def test_padding_stays_out(built: BuiltMemory) -> None:
    """Places that are not the part give no vectors."""
    marked = some_features(5, 1)
    for level in marked.levels:
        level[:, :, :, level.shape[3] // 2 :] = 1e3
    valid = marked.valid.clone()
    valid[:, :, 40:] = False
    only = [Features(marked.levels, marked.parts, valid)]
    memory = build_memory(only, only, CONFIG, images=5, seed=0).memory
    assert torch.isfinite(memory.nearest.weight).all()
    assert memory.nearest.weight.flatten(1).norm(dim=1).max() < 10


def test_coreset_covers_what_is_rare() -> None:
    """Of 5,000 vectors at one place and 5 elsewhere, all 5 are chosen; no index comes twice."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(5000, 4, generator=generator) * 0.01
    rare = torch.eye(4).repeat(2, 1)[:5] * torch.tensor([3.0, 3, 3, 3, -3])[:, None]
    chosen = coreset(torch.cat([common, rare]), 50, generator)
    assert set(range(5000, 5005)) <= set(chosen.tolist())
    assert len(chosen.unique()) == 50


def test_coreset_of_few_vectors_is_all_of_them() -> None:
    """Fewer vectors than asked for are all kept, once each."""
    chosen = coreset(torch.eye(7), 100, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == list(range(7))


def test_nearest_of_others_skips_the_own_part() -> None:
    """The nearest vector of the same part is passed over."""
    patches = Patches(torch.tensor([[0.0, 0.0], [0.1, 0.0], [3.0, 0.0]]), torch.tensor([0, 0, 1]))
    distance, index = nearest_of_others(patches, patches)
    torch.testing.assert_close(distance, torch.tensor([3.0, 2.9, 2.9]))
    assert index.tolist() == [2, 2, 1]


def test_a_part_that_shows_what_no_other_shows_is_odd() -> None:
    """Dirt on one part makes it odd; what several parts show, however rare, makes none of them odd."""
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(4000, 8, generator=generator)
    parts = torch.arange(4000) % 40
    dirt, rare = torch.full((6, 8), 6.0), torch.full((20, 8), -6.0)

    def jittered(rows: Tensor) -> Tensor:
        return rows + 0.05 * torch.randn(rows.shape, generator=generator)

    noisy = Patches(
        torch.cat([vectors, jittered(dirt), jittered(rare)]), torch.cat([parts, torch.full((6,), 17), torch.arange(20)])
    )
    assert unlike_others(noisy, noisy) == (17,)
    clean = Patches(vectors, parts)
    assert unlike_others(clean, clean) == ()
    few = noisy.picked((noisy.parts >= 15) & (noisy.parts < 15 + FEWEST_PARTS - 1))
    assert unlike_others(few, few) == ()


def test_varied_copies_are_learned_and_make_no_part_odd() -> None:
    """What only varied copies show becomes near, and the part that they are copies of is not called odd."""
    config = MemoryConfig(strides=(4, 8, 16), dims=16, vectors=1500)
    some = [some_features(FEWEST_PARTS, 3)]
    copies = some_features(FEWEST_PARTS, 3)
    changed = Features([6 * (level[:1] - 4) + 4 for level in copies.levels], copies.parts[:1], copies.valid[:1])
    plain = build_memory(some, some, config, images=FEWEST_PARTS, seed=0)
    learned = build_memory(some, some, config, images=FEWEST_PARTS, seed=0, varied=[changed])
    distances = [built.memory.distance(built.memory.embed(changed.levels)).mean() for built in (plain, learned)]
    assert distances[1] < distances[0] / 2
    assert learned.odd == plain.odd
    as_good = build_memory(some, [*some, changed], config, images=FEWEST_PARTS + 1, seed=0)
    assert as_good.odd == (0,)


def test_half_precision_keeps_the_map(built: BuiltMemory) -> None:
    """Features, weights and products in FP16, as exported: the standardised map moves by less than 0.03."""
    held_out = some_features(6, 11)
    standardise(built.memory, [held_out])
    exact = built.memory(held_out.levels)
    halved = copy.deepcopy(built.memory).half()
    found = halved([level.half() for level in held_out.levels])
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.03


def test_large_features_do_not_overflow_half_precision(built: BuiltMemory) -> None:
    """Squares of features of 300 leave FP16's range; the map stays finite."""
    halved = copy.deepcopy(built.memory).half()
    assert torch.isfinite(halved([(level + 300).half() for level in some_features(2, 11).levels])).all()


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_export_gives_the_same_map(built: BuiltMemory, tmp_path: Path) -> None:
    """ONNX Runtime computes PyTorch's distances, at another batch size than the one that was traced."""
    levels = some_features(3, 4).levels
    target = tmp_path / "memory.onnx"
    batch = torch.export.Dim("batch", min=1, max=16)
    torch.onnx.export(
        built.memory.eval(),
        ([level[:2] for level in levels],),
        target,
        dynamic_shapes={"levels": [{0: batch} for _ in levels]},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    names = [i.name for i in session.get_inputs()]
    by_shape = {level.shape[1]: level.numpy() for level in levels}
    given = {i.name: by_shape[i.shape[1]] for i in session.get_inputs()}
    assert wanted == set(names)
    np.testing.assert_allclose(session.run(None, given)[0], built.memory(levels).numpy(), rtol=1e-3, atol=5e-3)


def test_strides_that_the_encoder_lacks_are_refused() -> None:
    """The configuration names what it takes."""
    with pytest.raises(ValueError, match=r"memory\.strides"):
        MemoryConfig(strides=(8, 64))
