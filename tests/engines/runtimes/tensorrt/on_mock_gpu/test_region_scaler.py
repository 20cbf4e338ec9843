"""Scaling a camera's region on the GPU: the kernels themselves, compiled for the mock GPU, in the runtime."""

import contextlib
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.mock_gpu import KERNELS, Driver, failing_allocations
from support.mock_network import MockNetwork
from support.tiny_bundle import bad_part, good_part, write_tiny_bundle

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine, Inference
from anoseg_engines.errors import GpuMemoryError
from anoseg_engines.golden import self_test
from anoseg_engines.judgement import judge
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.runtimes.tensorrt.coordinates import MAX_PLACEMENTS
from anoseg_engines.runtimes.tensorrt.device import PycudaDevice
from anoseg_engines.runtimes.tensorrt.region_scaler import RegionBuffers, RegionScaler, ScaledPlacement
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime


@pytest.fixture
def device() -> Iterator[PycudaDevice]:
    device = PycudaDevice()
    yield device
    device.close()


def loaded(driver: Driver, bundle: Bundle, network: MockNetwork | None = None) -> Engine:
    """An engine whose regions the GPU scales. If there is no memory for the kernels, the processor scales."""
    spec = bundle.manifest.input
    device = PycudaDevice()
    try:
        with device.current():
            scaler = RegionScaler.open(device, spec)
    except BaseException:
        device.close()
        raise
    return Engine(bundle, TensorRTRuntime(spec, device, network or MockNetwork(driver, 6), "mock", scaler=scaler))


def frames_on_gpu(device: PycudaDevice, placement: Placement, region: np.ndarray) -> np.ndarray:
    """The network's inputs that the kernels make of a region."""
    spec, channels = placement.spec, region.shape[2]
    shape = (len(placement.tiles), spec.height, spec.width, 3)
    with device.current():
        scaler = RegionScaler.open(device, spec)
        assert scaler is not None
        stream = device.open_stream()
        needs = ScaledPlacement.needs(placement, channels)
        assert needs is not None
        buffers = RegionBuffers(scaler, device, *needs)
        scaled = ScaledPlacement(buffers, placement, channels=channels, stream=stream)
        frames, back = device.allocate(int(np.prod(shape))), device.pinned(int(np.prod(shape)), np.uint8)
        scaled.region_HWC[:] = region
        scaled.put(stream, frames)
        stream.download(back, frames)
        stream.synchronize()
        return back.reshape(shape).copy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shrink", ["area", "blocks"])
@pytest.mark.parametrize(
    ("spec", "region"),
    [
        (InputSpec(64, 64), Region(0, 0, 301, 203)),
        (InputSpec(64, 64), Region(0, 0, 640, 480)),
        (InputSpec(64, 64), Region(0, 0, 40, 30)),
        (InputSpec(48, 48, "tile", 0.4, 16), Region(0, 0, 311, 203)),
    ],
)
def test_the_kernels_make_the_inputs_that_the_processor_makes(
    device: PycudaDevice, spec: InputSpec, region: Region, shrink: str, channels: int
) -> None:
    """Scaling, tiles, mirrored padding, and grey in three channels: at most one grey value differs."""
    spec = InputSpec(spec.height, spec.width, spec.mode, spec.scale, spec.overlap, shrink)  # type: ignore[arg-type]
    placement = Placement.of(spec, region)
    noise = np.random.default_rng(1).integers(0, 256, (region.height, region.width, channels), np.uint8)
    expected = np.empty((len(placement.tiles), spec.height, spec.width, 3), np.uint8)
    placement.fill(noise, expected)
    assert np.abs(frames_on_gpu(device, placement, noise).astype(int) - expected).max() <= 1


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The network sees parts of 80×48 pixels as 64×38, so each has to be scaled."""
    return write_tiny_bundle(tmp_path / "tiny")


def test_a_part_is_sent_as_it_is_and_judged_the_same(driver: Driver, bundle: Bundle) -> None:
    """The self-test passes in all lanes; a part is one launch, sends the pixels of its region, and nothing is allocated."""
    engine = loaded(driver, bundle)
    assert engine._runtime.scales_regions  # type: ignore[attr-defined]
    self_test(engine)
    placement = engine.place(Region(0, 0, 80, 48))
    engine.inspect(good_part(), placement)
    before, sent = driver.ledger, engine.traffic
    outcomes = [
        judge(engine.inspect(part, placement), engine.thresholds, placement).outcome for part in (good_part(), bad_part())
    ]
    assert outcomes == ["PASS", "FAIL"]
    assert engine.traffic.since(sent).to_device == 2 * 80 * 48 * 3
    after = driver.ledger
    assert (after.launches - before.launches, after.allocations - before.allocations) == (2, 0)
    assert after.pageable_copies == 0
    grey = engine.inspect(bad_part()[:, :, :1].copy(), placement)
    assert judge(grey, engine.thresholds, placement).outcome == "FAIL"
    engine.close()


def test_cameras_of_all_sizes_take_turns(driver: Driver, bundle: Bundle) -> None:
    """Small, large and unscaled regions in three lanes at once: each part gets its own score, and old graphs are destroyed."""
    engine = loaded(driver, bundle)
    sizes = [(80, 48), (300, 200), (64, 64), (33, 70), *((200 + i, 100) for i in range(MAX_PLACEMENTS + 3))]
    places = [engine.place(Region(0, 0, *size)) for size in sizes]
    for turn in range(0, 2 * len(places), 3):
        some = [places[(turn + i) % len(places)] for i in range(3)]
        greys = [(17 * turn + 50 * i) % 256 for i in range(3)]
        running = [
            engine.start(np.full((p.region.height, p.region.width, 3), grey, np.uint8), p)
            for grey, p in zip(greys, some, strict=True)
        ]
        scores = [engine.finish(inference).score for inference in running]
        assert scores == pytest.approx([abs(grey - 128) / 128 for grey in greys], abs=0.01)
    assert driver.ledger.executables <= 3 * (1 + MAX_PLACEMENTS)
    engine.close()


def test_the_region_memory_holds_the_largest_of_every_camera(driver: Driver, bundle: Bundle) -> None:
    """A camera with more pixels and one with more scaled rows take turns: once both have had a part, nothing is allocated."""
    engine = loaded(driver, bundle)
    places = [engine.place(Region(0, 0, *size)) for size in ((400, 200), (210, 210))]
    needs = [ScaledPlacement.needs(place, 3) for place in places]
    assert needs[0] is not None
    assert needs[1] is not None
    assert needs[0][0] > needs[1][0]
    assert needs[0][1] < needs[1][1]

    def inspect() -> list[float]:
        images = [np.full((p.region.height, p.region.width, 3), 255, np.uint8) for p in places]
        return [engine.inspect(image, place).score for image, place in zip(images, places, strict=True)]

    inspect()
    before = driver.ledger
    assert inspect() == pytest.approx([127 / 128] * 2, abs=0.01)
    after = driver.ledger
    assert (after.launches - before.launches, after.allocations - before.allocations) == (2, 0)
    engine.close()


def test_parts_that_are_started_do_not_wait_for_a_busy_lane(driver: Driver, bundle: Bundle) -> None:
    """While a lane runs a part, three parts of two cameras are started for it. Then they run together."""
    engine = loaded(driver, bundle)
    places = [engine.place(Region(0, 0, 80, 48)), engine.place(Region(0, 0, 300, 200))]
    engine.keep_ready([places[0].region])

    def started(turn: int) -> list[Inference]:
        cameras = [places[(i // 3 + turn) % 2] for i in range(9)]
        images = [np.full((p.region.height, p.region.width, 3), 28 * i, np.uint8) for i, p in enumerate(cameras)]
        return [engine.start(image, place) for image, place in zip(images, cameras, strict=True)]

    def scores(running: list[Inference]) -> list[float]:
        return [engine.finish(inference).score for inference in running]

    expected = pytest.approx([abs(28 * i - 128) / 128 for i in range(9)], abs=0.01)
    for turn in range(4):  # each request has had both cameras' parts since its memory holds the larger ones
        assert scores(started(turn)) == expected
    lane = engine._runtime._lanes[0]  # type: ignore[attr-defined]
    queue = engine._runtime._requests[0]._queue  # type: ignore[attr-defined]
    with contextlib.closing(engine), ThreadPoolExecutor(1) as pool:
        with lane._lock:  # as if it ran another part
            running = pool.submit(started, 0).result(10)
            while len(queue._waiting) < 3 or sum(inference.done for inference in running) < 6:
                time.sleep(0.001)
            launches = driver.ledger.launches
        assert scores(running) == expected
        assert driver.ledger.launches == launches + 1


def test_without_graphs_regions_are_scaled_too(driver: Driver, bundle: Bundle) -> None:
    """A network that refuses to be captured gets scaled inputs as well."""
    network = MockNetwork(driver, 6)
    network.capturable = False
    engine = loaded(driver, bundle, network)
    self_test(engine)
    assert driver.ledger.executables == 0
    engine.close()


def use(engine: Engine) -> None:
    """Run two regions, the second one larger, in all lanes, and close the engine whatever happens."""
    try:
        for region in (Region(0, 0, 80, 48), Region(0, 0, 160, 100)):
            placement = engine.place(region)
            image = np.full((region.height, region.width, 3), 255, np.uint8)
            running = []
            try:
                running += [engine.start(image, placement) for _ in range(3)]
            finally:
                for inference in running:
                    assert engine.finish(inference).score > 0.9
    finally:
        engine.close()


def test_memory_that_is_missing_at_any_moment(driver: Driver, bundle: Bundle) -> None:
    """Every allocation fails: a clear error, and nothing leaked."""
    failed = failing_allocations(driver, lambda: use(loaded(driver, bundle)), GpuMemoryError)
    assert len(failed) > 40
    assert all("memory is full" in error.what or "out of memory" in error.what for error in failed)


@pytest.mark.parametrize(
    ("how", "spec"),
    [
        (1, InputSpec(64, 64)),
        (2, InputSpec(64, 64)),
        (3, InputSpec(128, 128)),
        (3, InputSpec(128, 128, shrink="blocks")),
        (4, InputSpec(128, 128)),
        (5, InputSpec(128, 128)),
        (6, InputSpec(48, 48, "tile", 0.4, 16)),
    ],
)
def test_kernels_that_do_not_work_are_not_used(driver: Driver, device: PycudaDevice, how: int, spec: InputSpec) -> None:
    """If the driver refuses the kernels, or they give other grey values for some regions, the processor scales."""
    with device.current():
        assert RegionScaler.open(device, spec) is not None
        driver.library.mock_spoil_kernels(how)
        try:
            assert RegionScaler.open(device, spec) is None
        finally:
            driver.library.mock_spoil_kernels(0)


def test_kernels_that_could_not_be_checked_are_not_used(device: PycudaDevice) -> None:
    """This scale changes only large regions, and the check has none. At scale 1 the kernels are never used."""
    with device.current():
        assert RegionScaler.open(device, InputSpec(48, 48, "tile", 1.0001, 16)) is None
        assert RegionScaler.open(device, InputSpec(48, 48, "tile", 1.0, 16)) is not None


def test_the_compiled_kernels_are_those_of_the_source() -> None:
    """`scale.ptx` was made of this `scale.cu`, for GPUs from Turing on and drivers from CUDA 11 on."""
    ptx = (KERNELS / "scale.ptx").read_text()
    assert ptx.startswith(f"// scale.cu {hashlib.sha256((KERNELS / 'scale.cu').read_bytes()).hexdigest()}"), "run build.sh"
    assert ".version 7.0" in ptx
    assert ".target sm_75" in ptx


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="CUDA's assembler is not here")
@pytest.mark.parametrize("gpu", ["sm_75", "sm_80", "sm_87", "sm_90", "sm_120"])
def test_gpus_accept_the_kernels(tmp_path: Path, gpu: str) -> None:
    """CUDA's assembler makes machine code of `scale.ptx`, from Turing to Blackwell."""
    subprocess.run(["ptxas", f"-arch={gpu}", str(KERNELS / "scale.ptx"), "-o", str(tmp_path / "kernels")], check=True)
