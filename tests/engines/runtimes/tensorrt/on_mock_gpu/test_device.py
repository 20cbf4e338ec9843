"""Memory, streams, graphs and the context of the device layer."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from support.mock_gpu import Driver
from support.mock_network import HostFunction

from anoseg_engines.errors import EngineError, GpuDriverError, GpuMemoryError, RuntimeFailedError
from anoseg_engines.runtimes.tensorrt.device import WAIT_BLOCKING, PycudaDevice, upload_now
from anoseg_engines.runtimes.tensorrt.gpu import cuda_driver, find_gpu


def test_the_gpu_is_found_without_a_context(driver: Driver) -> None:
    """Name, compute capability and memory are known, and no context was made."""
    gpu = find_gpu()
    assert (gpu.name, gpu.compute_capability, gpu.memory_bytes) == ("Mock GPU", "8.7", 8 << 30)
    assert driver.ledger.contexts == 0


@pytest.mark.parametrize(
    ("said", "kind", "exit_code"),
    [("initialization error", GpuDriverError, 1), ("no CUDA-capable device is detected", EngineError, 3)],
)
def test_only_an_error_that_may_pass_starts_the_service_again(
    monkeypatch: pytest.MonkeyPatch, said: str, kind: type[EngineError], exit_code: int
) -> None:
    """Soon after the machine has started, the driver may not be ready. A machine without a GPU stays without one."""
    cuda = cuda_driver()

    def fail() -> None:
        raise cuda.RuntimeError(f"cuInit failed: {said}")

    monkeypatch.setattr(cuda, "init", fail)
    with pytest.raises(EngineError, match=f"no GPU can be used.*{said}") as caught:
        find_gpu()
    assert (type(caught.value), caught.value.exit_code) == (kind, exit_code)


def test_devices_share_the_primary_context(driver: Driver) -> None:
    """Two devices are one context, in which waiting threads sleep. It ends with the second, whichever is closed first."""
    first, second = PycudaDevice(), PycudaDevice()
    assert driver.ledger.contexts == 1
    assert driver.library.mock_context_flags() == WAIT_BLOCKING
    first.close()
    with second.current():
        second.free(second.allocate(100))
    assert driver.ledger.contexts == 1
    second.close()
    assert driver.ledger.contexts == 0


def test_closing_frees_what_was_not_freed(driver: Driver) -> None:
    """A device that is closed on another thread, twice, leaves nothing behind."""
    device = PycudaDevice()
    with device.current():
        device.allocate(100)
        device.pinned(100, np.uint8)
        device.open_stream()
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    device.close()


def test_copies_go_there_and_back(driver: Driver) -> None:
    """What is uploaded, copied on the device and downloaded is unchanged and counted, and no copy uses pageable memory."""
    device = PycudaDevice()
    with device.current():
        stream = device.open_stream()
        source, target = device.pinned(1000, np.uint8), device.pinned(1000, np.uint8)
        source[:] = np.arange(1000) % 251
        first, second = device.allocate(1000), device.allocate(1000)
        stream.upload(first, source)
        stream.copy(second, first, 1000)
        stream.download(target, second)
        assert (target != source).any(), "nothing runs before somebody waits"
        stream.synchronize()
        np.testing.assert_array_equal(target, source)
        assert (device.traffic.to_device, device.traffic.from_device) == (1000, 1000)
        upload_now(device, stream, second, np.zeros((10, 10), np.float16))
        stream.download(target, second)
        stream.synchronize()
        assert (target[:200] == 0).all()
        assert (target[200:] == source[200:]).all()
    assert driver.ledger.pageable_copies == 0
    device.close()


def test_a_graph_repeats_what_was_captured(driver: Driver) -> None:
    """A graph reads its source at each launch. Its copies count at each launch, and not when they are captured."""
    device = PycudaDevice()
    with device.current():
        stream = device.open_stream()
        host, address = device.pinned(64, np.uint8), device.allocate(64)
        back = device.pinned(64, np.uint8)
        with stream.capture() as graph:
            stream.upload(address, host)
            stream.download(back, address)
        assert stream.traffic.to_device == 0
        for value in (3, 4):
            host[:] = value
            stream.launch(graph)
            stream.synchronize()
            assert (back == value).all()
        assert (stream.traffic.to_device, stream.traffic.from_device) == (128, 128)
        assert stream.device_ms(graph, 4) == 0.25
    assert driver.ledger.launches == 6
    device.close()


def test_a_capture_that_fails_leaves_the_stream_usable(driver: Driver) -> None:
    """An error inside the block is raised, nothing of the capture stays, and the next capture works."""
    device = PycudaDevice()
    with device.current():
        stream = device.open_stream()
        host, address = device.pinned(64, np.uint8), device.allocate(64)

        def captured(spoil: Callable[[], object]) -> None:
            with stream.capture():
                stream.upload(address, host)
                spoil()

        with pytest.raises(ZeroDivisionError):
            captured(lambda: 1 // 0)
        with pytest.raises(RuntimeFailedError, match="cuStreamEndCapture"):
            captured(lambda: driver.library.mock_spoil_capture(stream.handle))
        with stream.capture() as graph:
            stream.upload(address, host)
        stream.launch(graph)
        stream.synchronize()
    device.close()


def test_two_streams_run_beside_each_other(driver: Driver) -> None:
    """Waiting for one stream does not run the other."""
    ran = []
    functions = [HostFunction(lambda _, name=name: ran.append(name)) for name in "ab"]
    device = PycudaDevice()
    with device.current():
        streams = [device.open_stream() for _ in "ab"]
        for stream, function in zip(streams, functions, strict=True):
            driver.library.cuLaunchHostFunc(stream.handle, function, None)
        streams[1].synchronize()
        assert ran == ["b"]
        streams[0].synchronize()
    assert ran == ["b", "a"]
    device.close()


def test_a_full_gpu_is_named(driver: Driver) -> None:
    """Memory that another process took is a `GpuMemoryError`, which says how much was needed and what to do."""
    device = PycudaDevice()
    driver.take((8 << 30) - 1000)
    with device.current():
        assert device.free_bytes == 1000
        with pytest.raises(
            GpuMemoryError,
            match=r"(?s)GPU's memory is full: 5\.0 MB more are needed; 0 MB of 8590 MB are free.*close other programs",
        ):
            device.allocate(5_000_000)
        device.free(device.allocate(500))
    device.close()


def test_a_full_gpu_that_does_not_say_how_full(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the driver fails again when it is asked for the free memory, the error is still a `GpuMemoryError`."""
    device = PycudaDevice()

    def failing() -> None:
        raise device._cuda.LogicError("cuMemGetInfo failed")

    driver.take((8 << 30) - 1000)
    with device.current():
        monkeypatch.setattr(device._cuda, "mem_get_info", failing)
        with pytest.raises(GpuMemoryError, match=r"full: 5\.0 MB more are needed \("):
            device.allocate(5_000_000)
    device.close()


def test_the_context_is_released_if_popping_it_reports_an_error(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver call may also report the error of an earlier launch. The context does not stay alive then."""
    device = PycudaDevice()
    pop = device._api.call

    def failing(name: str, *arguments: object) -> None:
        pop(name, *arguments)
        raise RuntimeFailedError(f"{name} failed")

    monkeypatch.setattr(device._api, "call", failing)
    device.close()
    assert driver.ledger.contexts == 0
