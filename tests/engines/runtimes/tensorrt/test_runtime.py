"""The TensorRT runtime on a device layer without a GPU: buffers, coordinates, one launch a part, freeing everything."""

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from support.host_device import HostDevice, TinyNetwork
from support.tiny_bundle import bad_part, good_part, write_tiny_bundle

from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError
from anoseg_engines.golden import self_test
from anoseg_engines.judgement import judge
from anoseg_engines.placement import InputSpec, Region
from anoseg_engines.runtimes.tensorrt.coordinates import MAX_PLACEMENTS
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime

TILES = InputSpec(32, 32, "tile", 1.0, 8)


@pytest.fixture
def device() -> HostDevice:
    return HostDevice()


@pytest.fixture
def engine(tmp_path: Path, device: HostDevice) -> Engine:
    """Tile mode: a part of 80×48 is six tiles."""
    bundle = write_tiny_bundle(tmp_path / "tiny", TILES)
    return Engine(bundle, TensorRTRuntime(bundle.manifest.input, device, TinyNetwork(device, 6), "host"))


def test_it_passes_the_self_test_and_judges(engine: Engine) -> None:
    """Frames, coordinates, maps and scores go through the runtime's buffers to the right places."""
    self_test(engine)
    placement = engine.place(Region(0, 0, 80, 48))
    outcomes = [
        judge(engine.inspect(part, placement), engine.thresholds, placement).outcome for part in (good_part(), bad_part())
    ]
    assert outcomes == ["PASS", "FAIL"]
    engine.close()


def test_a_part_sends_its_pixels_and_nothing_else(engine: Engine, device: HostDevice) -> None:
    """Each part is one launch and N·H·W·3 bytes to the device. Nothing is allocated, and nothing else is sent."""
    placement = engine.place(Region(0, 0, 80, 48))
    before, steps = engine.traffic, len(device.steps)
    for _ in range(10):
        engine.inspect(bad_part(), placement)
    assert device.steps[steps:] == ["launch"] * 10
    sent = engine.traffic.since(before)
    assert sent.to_device == 10 * 6 * 32 * 32 * 3
    maps, scores = 6 * 32 * 32 * 4, 6 * 4
    assert sent.from_device == 10 * (maps + scores)  # the maps' size is a multiple of the alignment here
    engine.close()


def test_coordinates_are_uploaded_once_for_each_placement(engine: Engine, device: HostDevice) -> None:
    """Cameras in turn, with different and with equal tile counts: uploaded once, later only copied within the device."""
    places = [engine.place(Region(0, 0, 80, 48)), engine.place(Region(0, 0, 40, 48)), engine.place(Region(0, 0, 80, 40))]
    before, steps = engine.traffic, len(device.steps)
    images = [bad_part(), bad_part()[:, :40], bad_part()[:40]]
    for _ in range(3):
        for placement, image in zip(places, images, strict=True):
            found = engine.inspect(image, placement)
            assert found.anomaly_map[15, 25] == pytest.approx(127 / 128, abs=1e-3)
            assert found.anomaly_map[2, 2] == pytest.approx(8 / 128, abs=1e-3)
    assert set(device.steps[steps:]) == {"copy", "launch"}
    assert engine.traffic.since(before).to_device == 3 * sum(len(p.tiles) for p in places) * 32 * 32 * 3
    engine.close()


def test_padding_of_one_camera_does_not_leak_into_the_next(engine: Engine) -> None:
    """The padding of a small part is masked, although the same memory held the coordinates of a larger one before."""
    large, small = engine.place(Region(0, 0, 32, 32)), engine.place(Region(0, 0, 20, 20))
    white = np.full((32, 32, 3), 255, np.uint8)
    engine.inspect(white, large)
    found = engine.inspect(white, small)
    assert found.anomaly_map.shape == (20, 20)
    assert (found.anomaly_map > 0.9).all()
    engine.close()


def test_a_part_with_too_many_tiles_is_refused(engine: Engine) -> None:
    """A part with more tiles than the profile allows is an error with the number to build for."""
    with pytest.raises(EngineError, match=r"(?s)12 tiles.*at most 6.*--max-batch 12"):
        engine.place(Region(0, 0, 100, 80))
    engine.place(Region(0, 0, 80, 48))  # the runtime still works
    engine.close()


def test_placements_do_not_fill_the_device(engine: Engine, device: HostDevice) -> None:
    """With ever new image sizes, the coordinates of at most `MAX_PLACEMENTS` placements stay in device memory."""
    for width in range(8, 8 + 2 * MAX_PLACEMENTS):
        placement = engine.place(Region(0, 0, width, 16))
        engine.inspect(np.full((16, width, 3), 120, np.uint8), placement)
    assert len(device.memory) <= 4 + MAX_PLACEMENTS
    engine.close()


def loaded_and_used(device: HostDevice, network: TinyNetwork) -> None:
    """Load a runtime, bind two sizes in all lanes, run, and close it whatever happens."""
    runtime = TensorRTRuntime(TILES, device, network, "host")
    try:
        for lane in runtime.parallel:
            for n in (1, 3):
                lane.bind(np.zeros((n, 2, 32, 32), np.float16))
                lane.infer()
    finally:
        runtime.close()


def test_everything_is_freed_whatever_fails(device: HostDevice) -> None:
    """Each step of loading and running fails once: the error is raised, everything is closed once, and no memory stays."""
    loaded_and_used(device, TinyNetwork(device, 3))
    total = len(device.steps)
    assert total > 40
    for fail_at in range(total):
        failing = HostDevice(fail_at)
        network = TinyNetwork(failing, 3)
        with pytest.raises(EngineError, match=f"step {fail_at} "):
            loaded_and_used(failing, network)
        assert (failing.closed, network.closed, failing.memory, failing.page_locked) == (1, 1, {}, 0)


def test_a_failed_size_can_be_tried_again(device: HostDevice) -> None:
    """If the memory for a lane is missing, nothing of it stays, and the lane works as soon as there is memory."""
    runtime = TensorRTRuntime(TILES, device, TinyNetwork(device, 3), "host")
    coords = np.zeros((1, 2, 32, 32), np.float16)
    device._fail_at = 3
    with pytest.raises(EngineError, match="step 3"):
        runtime.bind(coords)
    assert (device.memory, device.page_locked) == ({}, 0)
    device._fail_at = None
    runtime.bind(coords)
    runtime.infer()
    runtime.close()
    assert (device.memory, device.page_locked) == ({}, 0)


def test_a_call_on_another_thread_ends_before_the_runtime_closes(device: HostDevice) -> None:
    """A stop during a reload: nothing is freed that `keep_ready` is using, and what it would do afterwards is an error."""
    runtime = TensorRTRuntime(TILES, device, TinyNetwork(device, 3), "host")
    runtime.bind(np.zeros((1, 2, 32, 32), np.float16))
    with ThreadPoolExecutor(1) as pool:
        with runtime._lanes[0].use():  # as `keep_ready` does
            closing = pool.submit(runtime.close)
            assert not wait([closing], 0.3).done
            assert (device.closed, bool(device.memory), bool(device.page_locked)) == (0, True, True)
        closing.result()
    for call in (lambda: runtime.keep_ready([1]), lambda: runtime.bind(np.zeros((1, 2, 32, 32), np.float16)), runtime.infer):
        with pytest.raises(EngineError):
            call()
    assert (device.closed, device.memory, device.page_locked) == (1, {}, 0)


def test_an_error_at_a_part_leaves_a_runtime_that_closes(tmp_path: Path) -> None:
    """If a launch fails, the part is an error, and closing still frees everything."""
    device = HostDevice()
    bundle = write_tiny_bundle(tmp_path / "tiny", TILES)
    network = TinyNetwork(device, 6)
    engine = Engine(bundle, TensorRTRuntime(bundle.manifest.input, device, network, "host"))
    placement = engine.place(Region(0, 0, 80, 48))
    device._fail_at = len(device.steps)
    with pytest.raises(EngineError, match="launch"):
        engine.inspect(bad_part(), placement)
    engine.close()
    assert (device.closed, network.closed, device.memory) == (1, 1, {})
