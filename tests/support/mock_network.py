"""The network of `tiny_bundle` on streams of the mock driver, for `TensorRTRuntime`. NumPy computes it in a host function."""

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.host_device import TYPES, tiny_network
from support.mock_gpu import Driver

from anoseg_engines.errors import RuntimeFailedError
from anoseg_engines.runtimes.tensorrt.lane import Tensor

HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class MockEnqueue:
    """A network with bound tensors. Its outputs are written when the stream runs, not when it is enqueued.

    Attributes:
        failures: Errors of the host function, which cannot raise.
    """

    def __init__(self, driver: Driver, tensors: Mapping[str, Tensor], stream: int, *, capturable: bool = True) -> None:
        self.capturable = capturable
        self.failures: list[Exception] = []
        self._driver = driver
        self._stream = stream
        self._tensors = dict(tensors)
        self._function = HostFunction(self._run)

    def __call__(self) -> None:
        result = self._driver.library.cuLaunchHostFunc(self._stream, self._function, None)
        if result != 0:
            raise RuntimeFailedError(f"the network cannot be enqueued ({result})")

    def _run(self, _: object) -> None:
        try:
            tiny_network({name: _view(tensor, TYPES[name]) for name, tensor in self._tensors.items()})
        except Exception as error:  # noqa: BLE001 - shown when the network is closed
            self.failures.append(error)


class MockNetwork:
    """A network on the mock driver.

    Attributes:
        capturable: What the network answers when it is asked whether it can be captured.
        spoils_capture: Whether a capture of it fails.
    """

    scratch_bytes = 1000

    def __init__(self, driver: Driver, max_batch: int) -> None:
        self.max_batch = max_batch
        self.capturable = True
        self.spoils_capture = False
        self.closed = 0
        self.sizes: list[int] = []
        self.enqueues: list[MockEnqueue] = []
        self._driver = driver

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(TYPES[name])

    def prepare(self, tensors: Mapping[str, Tensor], stream: int, scratch: int) -> MockEnqueue:
        kind = _SpoilingEnqueue if self.spoils_capture else MockEnqueue
        self.enqueues.append(kind(self._driver, tensors, stream, capturable=self.capturable))
        self.sizes.append(tensors["frames"].shape[0])
        return self.enqueues[-1]

    def prepared(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1
        assert [failure for enqueue in self.enqueues for failure in enqueue.failures] == []


class _SpoilingEnqueue(MockEnqueue):
    def __call__(self) -> None:
        super().__call__()
        self._driver.library.mock_spoil_capture(self._stream)


def _view(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    size = int(np.prod(tensor.shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(tensor.address)
    return np.frombuffer(memory, dtype).reshape(tensor.shape)
