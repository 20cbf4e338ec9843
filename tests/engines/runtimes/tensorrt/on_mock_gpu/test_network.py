"""Plans on the mock GPU, with a stand-in for the TensorRT library: contexts, profiles, kernel cache, and teardown."""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.mock_gpu import Driver, failing_allocations
from support.mock_tensorrt import PLAN, MockTensorRT
from support.tiny_bundle import bad_part, write_tiny_bundle

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, GpuMemoryError
from anoseg_engines.golden import self_test
from anoseg_engines.placement import InputSpec, Region
from anoseg_engines.runtimes.tensorrt import runtime as runtime_module
from anoseg_engines.runtimes.tensorrt.plan import PlanDescription
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime

TILES = InputSpec(32, 32, "tile", 1.0, 8)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "tiny", TILES)


@pytest.fixture
def trt(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockTensorRT]:
    """The library. After each test, none of its objects was destroyed in the wrong order or without a context."""
    library = MockTensorRT(driver)
    monkeypatch.setattr(runtime_module, "find_library", lambda _: library.library)
    yield library
    gc.collect()
    assert library.faults == []
    assert len(library.contexts) == 0


def described(bundle: Bundle, max_batch: int = 6) -> PlanDescription:
    return PlanDescription(
        bundle=bundle.label,
        bundle_sha256=bundle.digest,
        library="tensorrt-rtx",
        library_version="1.7",
        gpu="Mock GPU",
        compute_capability="8.7",
        platform="linux-x86_64",
        height=32,
        width=32,
        opt_batch=1,
        max_batch=max_batch,
        built="2026-01-01T00:00:00+00:00",
        build_seconds=1.0,
        plan="mock.plan",
        plan_sha256="0" * 64,
        plan_bytes=len(PLAN),
    )


def opened(bundle: Bundle, plan: bytes = PLAN, cache: Path | None = None) -> Engine:
    return Engine(bundle, TensorRTRuntime.open(bundle, plan, described(bundle), cache=cache))


@pytest.mark.parametrize("rtx", [True, False])
def test_a_plan_runs_in_all_lanes(trt: MockTensorRT, bundle: Bundle, rtx: bool) -> None:
    """TensorRT 10 and TensorRT for RTX pass the self-test; one input uses the first profile, several the second."""
    trt.rtx = rtx
    engine = opened(bundle)
    assert len(trt.contexts) == 0
    self_test(engine)
    engine.place(Region(0, 0, 30, 30))
    assert {(context.batch, context.profile) for context in trt.contexts} == {(1, 0), (6, 1)}
    engine.close()


def test_a_plan_of_an_earlier_version_has_one_profile(trt: MockTensorRT, bundle: Bundle) -> None:
    """It serves every batch size."""
    trt.profiles = 1
    engine = opened(bundle)
    self_test(engine)
    assert {context.profile for context in trt.contexts} == {0}
    engine.close()


def test_a_context_that_refuses_capture_is_enqueued(driver: Driver, trt: MockTensorRT, bundle: Bundle) -> None:
    """If TensorRT for RTX says that it cannot be captured, it is not tried."""
    trt.capturable = False
    engine = opened(bundle)
    self_test(engine)
    assert engine.runtime_description == "tensorrt-rtx 1.7 f16 without CUDA graphs"
    assert driver.ledger.executables == 0
    engine.close()


def test_without_kernels_the_processor_scales_and_the_description_says_so(trt: MockTensorRT, bundle: Bundle) -> None:
    """If the driver refuses the kernels that scale, the engine passes its self-test all the same."""
    trt.driver.library.mock_spoil_kernels(1)
    try:
        engine = opened(bundle)
    finally:
        trt.driver.library.mock_spoil_kernels(0)
    self_test(engine)
    assert engine.runtime_description == "tensorrt-rtx 1.7 f16, regions scaled by the processor"
    engine.close()


def test_compiled_kernels_are_kept_beside_the_plan(trt: MockTensorRT, bundle: Bundle, tmp_path: Path) -> None:
    """They are stored after the first run of a batch size and loaded at the next start. A damaged file is replaced."""
    cache = tmp_path / "mock.plan.kernels"
    engine = opened(bundle, cache=cache)
    assert not cache.exists()
    engine.place(Region(0, 0, 80, 48))
    stored = cache.read_bytes()
    assert stored.startswith(b"kernels")
    engine.close()
    trt.kernels = b""
    engine = opened(bundle, cache=cache)
    assert trt.kernels == stored
    engine.close()
    cache.write_bytes(b"damaged")
    trt.kernels = b""
    engine = opened(bundle, cache=cache)
    engine.place(Region(0, 0, 80, 48))
    assert cache.read_bytes().startswith(b"kernels")
    engine.close()
    assert [path.name for path in tmp_path.glob("mock.plan*")] == ["mock.plan.kernels"]


def test_a_store_that_cannot_be_written_is_left_alone(trt: MockTensorRT, bundle: Bundle, tmp_path: Path) -> None:
    """Without a place for the kernels, the engine works."""
    engine = opened(bundle, cache=tmp_path / "missing" / "kernels")
    self_test(engine)
    engine.close()


def test_a_rejected_plan_is_freed_before_the_context(trt: MockTensorRT, bundle: Bundle) -> None:
    """The error has TensorRT's reason, and while somebody holds it, nothing of the load is alive."""
    with pytest.raises(EngineError, match=r"(?s)rejects the plan: the plan is damaged.*rebuild it") as raised:
        opened(bundle, b"damaged")
    gc.collect()
    assert trt.driver.left == {}
    assert raised.value is not None


def test_other_tensors_are_refused(trt: MockTensorRT, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is loaded and then refused is freed before the context, although the error is still held."""
    monkeypatch.setattr("support.mock_tensorrt._Engine.get_tensor_name", lambda self, index: f"tensor {index}")
    with pytest.raises(EngineError, match="the plan has tensors") as raised:
        opened(bundle)
    assert trt.driver.left == {}
    assert raised.value is not None


def test_an_engine_that_cannot_be_prepared_closes_in_order(
    trt: MockTensorRT, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the plan rejects an address, contexts and engine end before the CUDA context, although the error is still held."""
    engine = opened(bundle)
    monkeypatch.setattr("support.mock_tensorrt._Context.set_tensor_address", lambda self, name, memory: False)
    with pytest.raises(EngineError, match="rejects the address") as raised:
        engine.place(Region(0, 0, 30, 30))
    engine.close()
    assert trt.driver.left == {}
    assert raised.value is not None


def test_memory_that_is_missing_at_any_moment(driver: Driver, trt: MockTensorRT, bundle: Bundle) -> None:
    """Every allocation fails, TensorRT's own too: the error says that the GPU's memory is full, and everything is freed."""

    def use() -> None:
        engine = opened(bundle)
        try:
            placement = engine.place(Region(0, 0, 30, 30))
            engine.keep_ready([placement.region])
            engine.inspect(bad_part()[:30, :30], placement)
        finally:
            engine.close()

    failed = failing_allocations(driver, use, GpuMemoryError)
    assert len(failed) > 30
    assert all("the GPU's memory is full" in error.what and "nvidia-smi" in error.hint for error in failed)


def test_two_engines_and_parts_of_a_swap(trt: MockTensorRT, bundle: Bundle) -> None:
    """A second engine is loaded, and the first one is closed, while parts are inspected."""
    first = opened(bundle)
    placement = first.place(Region(0, 0, 80, 48))
    second = opened(bundle)
    other = second.place(Region(0, 0, 80, 48))
    assert first.inspect(bad_part(), placement).score == pytest.approx(127 / 128)
    first.close()
    running = [second.start(np.full((48, 80, 3), 255, np.uint8), other) for _ in range(3)]
    assert [second.finish(inference).score for inference in running] == [pytest.approx(127 / 128)] * 3
    second.close()


def test_the_stand_in_has_the_names_of_the_library() -> None:
    """What the code calls exists in the real TensorRT for RTX."""
    real = pytest.importorskip("tensorrt_rtx")
    assert real.BuilderFlag.REQUIRE_USER_ALLOCATION is not None
    used = {
        "Runtime": ["deserialize_cuda_engine"],
        "ICudaEngine": [
            *("num_io_tensors", "device_memory_size_v2", "num_optimization_profiles", "get_tensor_name", "get_tensor_dtype"),
            *("create_runtime_config", "create_execution_context"),
        ],
        "IRuntimeConfig": [
            *("set_execution_context_allocation_strategy", "create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy"),
            "dynamic_shapes_kernel_specialization_strategy",
        ],
        "IRuntimeCache": ["serialize", "deserialize"],
        "IExecutionContext": [
            *("set_optimization_profile_async", "set_input_shape", "set_device_memory", "set_tensor_address"),
            *("execute_async_v3", "is_stream_capturable"),
        ],
    }
    assert [f"{kind}.{name}" for kind, names in used.items() for name in names if not hasattr(getattr(real, kind), name)] == []
