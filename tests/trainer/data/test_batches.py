import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time

import msgspec
import numpy as np
import pytest

from anoseg_engines.errors import AnosegError
from anoseg_engines.images import read_image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.config import DefectConfig, VariationConfig
from anoseg_trainer.data.batches import BatchDataset, batches
from anoseg_trainer.data.good_images import find_good_images, read_good_images
from anoseg_trainer.data.part_store import PartStoreWriter, whole_placement
from anoseg_trainer.data.samples import SampleSettings, defective_part

STILL = VariationConfig(rotation_deg=0, shift=0, zoom=0, brightness=0, contrast=0, shading=0, noise=0, compression=0)


@pytest.fixture(scope="module")
def paths(product):
    return find_good_images(product)


def store_of(tmp_path, paths, spec):
    with PartStoreWriter(tmp_path / "parts", spec) as writer:
        read_good_images(paths, writer.add)
        return writer.finish()


def settings_of(tmp_path, paths, spec, **more):
    store = store_of(tmp_path, paths, spec)
    options = {"variation": STILL, "defects": DefectConfig(), "batch": 6, "seed": 4} | more
    return SampleSettings(store=store, indices=tuple(range(20)), input=spec, window=spec, unit=64, **options)


def test_a_good_sample_is_what_an_engine_would_see(paths, tmp_path):
    """Without variation and defects, frame and coordinates equal those of the placement, padding included."""
    spec = InputSpec(128, 96)  # the 128×96 part is letterboxed
    settings = settings_of(tmp_path, paths, spec, defects=DefectConfig(share=0))
    frames, coords, labels, _ = BatchDataset(settings)[0]
    seen = []
    for path in paths[:20]:
        placement = whole_placement(spec, read_image(path))
        frame = np.empty((1, 128, 96, 3), np.uint8)
        placement.fill(read_image(path), frame)
        seen.append(frame[0])
    assert all(any((frame == other).all() for other in seen) for frame in frames)
    assert (coords == placement.coords_N2HW).all()
    assert not labels.any()


def test_some_samples_are_compressed(paths, tmp_path):
    """The configured share of good samples differs from every good part, by no more than compression changes it."""
    spec = InputSpec(128, 96)
    variation = msgspec.structs.replace(STILL, compression=0.3)
    settings = settings_of(tmp_path, paths, spec, variation=variation, defects=DefectConfig(share=0), batch=100)
    frames = BatchDataset(settings)[0][0]
    parts = []
    for part in (settings.store[i] for i in settings.indices):
        frame = np.empty((1, 128, 96, 3), np.uint8)
        whole_placement(spec, part).fill(part, frame)
        parts.append(frame[0].astype(np.float32))
    differences = [min(float(np.abs(frame - part).mean()) for part in parts) for frame in frames]
    changed = [difference for difference in differences if difference > 0]
    assert 15 <= len(changed) <= 45
    assert max(changed) < 8


@pytest.mark.parametrize("spec", [InputSpec(128, 96), InputSpec(64, 64, "tile", 1.0, 16)], ids=["resize", "tile"])
def test_labels_lie_on_the_part_and_on_the_change(paths, tmp_path, spec):
    """The configured share of a batch is defective, labels stay off the padding, tiles know their place on the part."""
    settings = settings_of(tmp_path, paths, spec, defects=DefectConfig(share=0.5))
    for step in range(8):
        _, coords, labels, _ = BatchDataset(settings)[step]
        assert not labels[3:].any()
        assert (np.abs(coords.astype(np.float32)).max(axis=1)[labels > 0] <= 1).all()
        if spec.mode == "tile":
            centre_xy = coords.astype(np.float32).mean(axis=(2, 3))
            assert np.ptp(centre_xy[:, 0]) > 0
            assert (np.abs(centre_xy[:, 0]) <= 0.5 + 1e-3).all()  # 64 of 128 pixels wide


def test_windows_of_a_larger_input_lie_anywhere_on_the_part(paths, tmp_path):
    """Windows smaller than the part show its own pixels and know their place on the whole."""
    store = store_of(tmp_path, paths, InputSpec(96, 128))
    settings = SampleSettings(
        store=store,
        indices=(3,),
        input=InputSpec(96, 128),
        window=InputSpec(64, 64),
        variation=STILL,
        defects=DefectConfig(share=0),
        batch=8,
        seed=1,
    )
    frames, coords, _, _ = BatchDataset(settings)[0]
    left = np.rint((coords[:, 0, 0, 0].astype(np.float64) + 1) / 2 * 128 - 0.5).astype(int)
    top = np.rint((coords[:, 1, 0, 0].astype(np.float64) + 1) / 2 * 96 - 0.5).astype(int)
    assert len(set(zip(left, top, strict=True))) > 4
    for frame, x, y in zip(frames, left, top, strict=True):
        assert (frame == store[3][y : y + 64, x : x + 64]).all()


def test_batches_depend_on_seed_and_step_alone(paths, tmp_path):
    """A worker process makes the same batch as this one, and training that begins at step 2 sees step 2's batch."""
    settings = settings_of(tmp_path, paths, InputSpec(64, 64), variation=VariationConfig())
    here = BatchDataset(settings)[2]
    with contextlib.closing(batches(settings, range(2, 1000), workers=1)) as stream:
        there = next(stream)
    assert (there.frames.numpy() == here[0]).all()
    assert (there.labels.numpy() == here[2]).all()
    other = BatchDataset(SampleSettings(**{k: getattr(settings, k) for k in settings.__dataclass_fields__} | {"seed": 5}))[2]
    assert (other[0] != here[0]).any()


def test_a_signal_to_all_processes_leaves_the_workers_to_the_main_process(paths, tmp_path):
    """systemd and `timeout` signal every process: the step under way must still get its batch, and the end is in order."""
    settings = settings_of(tmp_path, paths, InputSpec(64, 64), variation=VariationConfig())
    before = set(multiprocessing.active_children())
    with contextlib.closing(batches(settings, range(1000), workers=2)) as stream:
        for _ in range(3):  # each worker has made one
            next(stream)
        workers = set(multiprocessing.active_children()) - before
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
        time.sleep(0.5)
        for _ in range(12):
            next(stream)
        assert len(workers) == 2
        assert all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "memory ran out"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "system's log"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", "/dev/shm"),
        ("Caught RuntimeError in DataLoader worker process 0.\nunable to write: No space left on device (28)", "/dev/shm"),
        ("Caught RuntimeError in DataLoader worker process 0.\nmmap: Cannot allocate memory (12)", "not enough memory"),
        ("Caught RuntimeError in DataLoader worker process 0.\nshape mismatch", None),
        ("shape mismatch", None),
    ],
)
def test_only_what_is_known_to_be_memory_is_called_so(paths, tmp_path, monkeypatch, said, hint):
    """A worker that died gets a hint where to look. An unexpected error stays what it is."""

    def fail(*_):
        raise RuntimeError(said)

    monkeypatch.setattr("anoseg_trainer.data.batches.make_sample", fail)
    settings = settings_of(tmp_path, paths, InputSpec(64, 64))
    with pytest.raises(RuntimeError if hint is None else AnosegError) as caught:
        next(batches(settings, range(1), workers=0))
    if hint is None:
        assert str(caught.value) == said
    else:
        assert said.splitlines()[0] in caught.value.what
        assert hint in caught.value.hint


def test_defective_parts_keep_the_parts_size(paths, tmp_path):
    """Held-out parts get their defects at full size, whatever the tile, and stay in their own light."""
    settings = settings_of(tmp_path, paths, InputSpec(64, 64, "tile", 1.0, 16), variation=VariationConfig(brightness=0.5))
    image, label = defective_part(np.random.default_rng(0), settings, 3)
    assert image.shape == (96, 128, 3)
    assert label.shape == (96, 128)
    assert (image[label == 0] == settings.store[3][label == 0]).all()


def test_processes_share_a_batch(paths, tmp_path):
    """The shares of two processes together are the whole batch, sample for sample; each has as many defects as the other."""
    settings = settings_of(tmp_path, paths, InputSpec(64, 64), batch=8, defects=DefectConfig(share=0.5))
    whole = BatchDataset(settings)[3]
    shares = [BatchDataset(dataclasses.replace(settings, share=(k, 2)))[3] for k in range(2)]
    for all_samples, *parts in zip(whole, *shares, strict=True):
        for k, part in enumerate(parts):
            assert (all_samples[k::2] == part).all()
    assert [sum(bool(label.any()) for label in labels) for _, _, labels, _ in shares] == [2, 2]
