"""The TensorRT runtime: lanes, placements, several engines, threads, and memory that is missing at any moment."""

import dataclasses
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.mock_gpu import Driver, failing_allocations
from support.mock_network import MockNetwork
from support.tiny_bundle import bad_part, good_part, write_tiny_bundle

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, GpuMemoryError, RuntimeFailedError
from anoseg_engines.golden import self_test
from anoseg_engines.judgement import judge
from anoseg_engines.placement import InputSpec, Region
from anoseg_engines.runtimes.tensorrt.coordinates import MAX_PLACEMENTS
from anoseg_engines.runtimes.tensorrt.device import PycudaDevice
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime

TILES = InputSpec(32, 32, "tile", 1.0, 8)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "tiny", TILES)


def loaded(driver: Driver, bundle: Bundle, max_batch: int = 6, network: MockNetwork | None = None) -> Engine:
    """An engine on the mock GPU. In tile mode a part of 80×48 is six tiles."""
    runtime = TensorRTRuntime(bundle.manifest.input, PycudaDevice(), network or MockNetwork(driver, max_batch), "mock")
    return Engine(bundle, runtime)


def on_another_thread(run: Callable[[], object]) -> None:
    """Run on a thread that ends, and raise its error here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()


def test_it_passes_the_self_test_and_judges(driver: Driver, bundle: Bundle) -> None:
    """Frames, coordinates, maps and scores go through the buffers of all lanes; each part is one launch."""
    engine = loaded(driver, bundle)
    self_test(engine)
    placement = engine.place(Region(0, 0, 80, 48))
    launches = driver.ledger.launches
    parts = (good_part(), bad_part())
    outcomes = [judge(engine.inspect(part, placement), engine.thresholds, placement).outcome for part in parts]
    assert outcomes == ["PASS", "FAIL"]
    assert driver.ledger.launches == launches + 2
    assert driver.ledger.pageable_copies == 0
    engine.close()


def test_contexts_and_graphs_are_made_at_first_use(driver: Driver, bundle: Bundle) -> None:
    """Loading makes none, the first part of a size makes one, and `keep_ready` what all lanes need."""
    network = MockNetwork(driver, 6)
    engine = loaded(driver, bundle, network=network)
    assert (network.sizes, driver.ledger.streams, driver.ledger.executables) == ([], 0, 0)
    engine.place(Region(0, 0, 80, 48))
    engine.place(Region(0, 0, 80, 40))
    assert (network.sizes, driver.ledger.streams, driver.ledger.executables) == ([6], 1, 1)
    engine.keep_ready([Region(0, 0, 80, 48)])
    engine.keep_ready([Region(0, 0, 80, 48)])
    assert (network.sizes, driver.ledger.streams) == ([6, 6, 6], 3)
    engine.keep_ready([Region(0, 0, 30, 30)])
    assert network.sizes == [6, 6, 6, *([1, 2, 3] * 3)]
    engine.close()
    assert network.closed == 1


def test_parts_that_wait_for_a_lane_run_together(driver: Driver, bundle: Bundle) -> None:
    """While a lane runs one part, two of other cameras wait, and then are one launch. Each gets its own map and score."""
    network = MockNetwork(driver, 6)
    engine = loaded(driver, bundle, network=network)
    places = [engine.place(Region(0, 0, size, 30)) for size in (30, 20, 32)]
    engine.keep_ready([places[0].region])
    engine.place(places[0].region)
    lane, greys = engine._runtime._lanes[0], (200, 20, 90)  # type: ignore[attr-defined]
    images = [np.full((30, place.region.width, 3), grey, np.uint8) for grey, place in zip(greys, places, strict=True)]
    requests = [engine._free[i] for i in (0, 3, 6)]  # of the first lane
    for request, image, place in zip(requests, images, places, strict=True):
        request.fill(image, place)
    launches = driver.ledger.launches
    with ThreadPoolExecutor(3) as pool:
        with lane._lock:  # as if it ran another part
            running = [pool.submit(request.infer) for request in requests]
            while len(engine._runtime._requests[0]._queue._waiting) < 3:  # type: ignore[attr-defined]
                time.sleep(0.001)
        results = [one.result() for one in running]
    assert driver.ledger.launches == launches + 1
    for grey, place, result in zip(greys, places, results, strict=True):
        expected = abs(grey - 128) / 128
        assert float(result.scores_N[0]) == pytest.approx(expected, abs=1e-3)
        np.testing.assert_allclose(place.stitch(result.maps_NHW), expected, atol=1e-3)
    again = engine.inspect(images[1], places[1])  # alone, with its own coordinates again
    assert again.score == pytest.approx(abs(20 - 128) / 128, abs=1e-3)
    engine.close()


def test_an_error_of_parts_that_ran_together_is_an_error_of_each(driver: Driver, bundle: Bundle) -> None:
    """If their launch fails, no part gets the result of an earlier one, and the next parts work."""
    engine = loaded(driver, bundle)
    place = engine.place(Region(0, 0, 30, 30))
    engine.keep_ready([place.region])
    lane = engine._runtime._lanes[0]  # type: ignore[attr-defined]
    requests = [engine._free[i] for i in (0, 3)]
    for request in requests:
        request.fill(bad_part()[:30, :30], place)
    broken = lane._together.pop(2)
    lane._together[2] = dataclasses.replace(broken, graph=None, put=_failing)
    with ThreadPoolExecutor(2) as pool:
        with lane._lock:
            running = [pool.submit(request.infer) for request in requests]
            while len(engine._runtime._requests[0]._queue._waiting) < 2:  # type: ignore[attr-defined]
                time.sleep(0.001)
        for one in running:
            with pytest.raises(RuntimeFailedError, match="the launch fails"):
                one.result()
    lane._together[2] = broken
    assert engine.inspect(bad_part()[:30, :30], place).score > 0.9
    engine.close()


def _failing() -> None:
    raise RuntimeFailedError("the launch fails")


def test_one_thread_loads_one_inspects_one_closes(driver: Driver, bundle: Bundle) -> None:
    """Each thread has the context only while it uses the engine."""
    engine = loaded(driver, bundle)
    placement = engine.place(Region(0, 0, 80, 48))
    scores: list[float] = []
    on_another_thread(lambda: scores.extend(engine.inspect(bad_part(), placement).score for _ in range(20)))
    assert scores == [pytest.approx(127 / 128)] * 20
    on_another_thread(engine.close)


def test_parts_that_run_at_the_same_time_keep_their_results(driver: Driver, bundle: Bundle) -> None:
    """Nine parts of three cameras are in the lanes at once, on the engine's threads, and each gets its own score."""
    engine = loaded(driver, bundle)
    places = [engine.place(Region(0, 0, 80, 48)), engine.place(Region(0, 0, 40, 48)), engine.place(Region(0, 0, 80, 40))]
    assert engine.parallel == 9
    for turn in range(20):
        greys = [(17 * turn + 50 * i) % 256 for i in range(9)]
        running = [
            engine.start(np.full((p.region.height, p.region.width, 3), grey, np.uint8), p)
            for grey, p in zip(greys, places * 3, strict=True)
        ]
        scores = [engine.finish(inference).score for inference in running]
        assert scores == pytest.approx([abs(grey - 128) / 128 for grey in greys], abs=1e-3)
    engine.close()


def test_placements_do_not_fill_the_device(driver: Driver, bundle: Bundle) -> None:
    """With ever new image sizes, only `MAX_PLACEMENTS` coordinates stay, and none is freed while a lane copies it."""
    engine = loaded(driver, bundle)
    for width in range(8, 8 + 2 * MAX_PLACEMENTS):
        placement = engine.place(Region(0, 0, width, 16))
        white = np.full((16, width, 3), 255, np.uint8)
        running = [engine.start(white, placement) for _ in range(3)]
        for inference in running:
            assert (engine.finish(inference).anomaly_map > 0.9).all()
    assert driver.ledger.device_blocks <= 3 * 4 + MAX_PLACEMENTS
    engine.close()


def test_new_sizes_are_made_ready_while_parts_are_inspected(driver: Driver, bundle: Bundle) -> None:
    """A reload prepares other sizes on its own thread. No stream is captured while a part runs on it."""

    def prepare(engine: Engine) -> None:
        for width in range(32, 256, 24):
            engine.keep_ready([Region(0, 0, width, 30)])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            engine = loaded(driver, bundle, 12)
            placement = engine.place(Region(0, 0, 80, 48))
            with ThreadPoolExecutor(1) as pool:
                ready = pool.submit(prepare, engine)
                while not ready.done():
                    running = [engine.start(bad_part(), placement) for _ in range(engine.parallel)]
                    assert [engine.finish(inference).score for inference in running] == [pytest.approx(127 / 128)] * 9
                ready.result()
            engine.close()
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("first", [0, 1])
def test_two_engines_at_a_time(driver: Driver, bundle: Bundle, first: int) -> None:
    """Two engines share the GPU. Closing one leaves the other working, whichever is closed first."""
    engines = [loaded(driver, bundle, 2), loaded(driver, bundle, 2)]
    places = [engine.place(Region(0, 0, 30, 30)) for engine in engines]
    for engine, placement in zip(engines, places, strict=True):
        assert engine.inspect(bad_part(), placement).score == pytest.approx(127 / 128)
    engines[first].close()
    other = 1 - first
    assert engines[other].inspect(bad_part(), places[other]).score == pytest.approx(127 / 128)
    engines[other].close()


@pytest.mark.parametrize("refusal", ["asked", "at the capture"])
def test_a_network_that_cannot_be_captured_runs_without_a_graph(driver: Driver, bundle: Bundle, refusal: str) -> None:
    """Its parts are judged the same, every lane works, and the description says that it runs without graphs."""
    network = MockNetwork(driver, 6)
    network.capturable = refusal != "asked"
    network.spoils_capture = refusal == "at the capture"
    engine = loaded(driver, bundle, network=network)
    self_test(engine)
    placement = engine.place(Region(0, 0, 80, 48))
    assert engine.inspect(bad_part(), placement).score == pytest.approx(127 / 128)
    assert engine.runtime_description == "mock without CUDA graphs"
    assert (driver.ledger.launches, driver.ledger.executables) == (0, 0)
    engine.close()


def use(engine: Engine) -> None:
    """Run parts of two sizes in all lanes, and close the engine whatever happens."""
    try:
        for region in (Region(0, 0, 80, 48), Region(0, 0, 30, 30)):
            placement = engine.place(region)
            running = []
            try:
                running += [engine.start(bad_part(), placement) for _ in range(3)]
            finally:
                for inference in running:
                    assert engine.finish(inference).score > 0.9
    finally:
        engine.close()


def test_memory_that_is_missing_at_any_moment(driver: Driver, bundle: Bundle) -> None:
    """Every allocation fails once, and all that follow: a clear error, nothing leaked, and the next load works."""
    failed = failing_allocations(driver, lambda: use(loaded(driver, bundle)), GpuMemoryError)
    assert len(failed) > 30
    assert all(re.search("memory is full|out of memory", error.what) and "nvidia-smi" in error.hint for error in failed)
    use(loaded(driver, bundle))


def test_one_failed_allocation_is_survived_or_reported(driver: Driver, bundle: Bundle) -> None:
    """pycuda frees what it can and tries again. Where that does not help, the error is clear and nothing leaks."""
    failed = failing_allocations(driver, lambda: use(loaded(driver, bundle)), EngineError, and_later=False)
    assert len(failed) >= 4
    assert all("out of memory" in error.what for error in failed)
