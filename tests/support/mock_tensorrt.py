"""A stand-in for the TensorRT library on the mock driver: it runs the network of `tiny_bundle`, and has memory of its own.

It has only what `network.py` uses, with the names and signatures of TensorRT for RTX 1.7; a test compares them.
"""

import ctypes
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from support.host_device import TYPES
from support.mock_gpu import Driver
from support.mock_network import MockEnqueue

from anoseg_engines.runtimes.tensorrt.lane import Tensor
from anoseg_engines.runtimes.tensorrt.library import Library

PLAN = b"a plan"
WEIGHT_BYTES = 5000
SCRATCH_BYTES = 3000


class MockTensorRT:
    """TensorRT for RTX; with `rtx=False`, TensorRT 10.

    Attributes:
        faults: Objects that were destroyed too late, after the CUDA context or outside of it.
        contexts: The execution contexts that exist.
        capturable: What the contexts answer when they are asked whether they can be captured.
        kernels: What the runtime cache contains.
    """

    def __init__(self, driver: Driver, *, rtx: bool = True, profiles: int = 2) -> None:
        self.driver = driver
        self.profiles = profiles
        self.rtx = rtx
        self.faults: list[str] = []
        self.contexts: weakref.WeakSet[_Context] = weakref.WeakSet()
        self.capturable = True
        self.kernels = b""
        self.ILogger = _Logger
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
        self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
        self.CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")

    def Runtime(self, log: Any) -> "_Runtime":  # noqa: N802 - TensorRT's name
        return _Runtime(self, log)

    def nptype(self, dtype: Any) -> Any:
        return dtype

    @property
    def library(self) -> Library:
        return Library("tensorrt-rtx" if self.rtx else "tensorrt", "1.7" if self.rtx else "10.3", self)

    def allocate(self, size: int) -> int | None:
        address = ctypes.c_void_p()
        failed = self.driver.library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        return None if failed else address.value

    def ended(self, what: str) -> None:
        """An object is destroyed."""
        if self.driver.library.mock_depth() == 0:
            self.faults.append(f"{what} was destroyed without a current CUDA context")


class _Logger:
    INTERNAL_ERROR, ERROR, WARNING = "internal error", "error", "warning"


class _Runtime:
    def __init__(self, trt: MockTensorRT, log: Any) -> None:
        self._trt = trt
        self._log = log

    def deserialize_cuda_engine(self, plan: bytes) -> "_Engine | None":
        weights = self._trt.allocate(WEIGHT_BYTES)
        if weights is None:
            self._log.log(
                _Logger.ERROR, "IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was 5000 bytes.)"
            )
            return None
        if plan != PLAN:
            self._trt.driver.library.cuMemFree_v2(ctypes.c_void_p(weights))
            self._log.log(_Logger.ERROR, "the plan is damaged")
            return None
        return _Engine(self._trt, self._log, weights)

    def __del__(self) -> None:
        self._trt.ended("a runtime")


class _Engine:
    num_io_tensors = 4
    device_memory_size_v2 = SCRATCH_BYTES

    def __init__(self, trt: MockTensorRT, log: Any, weights: int) -> None:
        self.trt = trt
        self.log = log
        self._weights = weights
        self.num_optimization_profiles = trt.profiles

    def get_tensor_name(self, index: int) -> str:
        return list(TYPES)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return TYPES[name]

    def create_runtime_config(self) -> "_RuntimeConfig":
        return _RuntimeConfig(self.trt)

    def create_execution_context(self, strategy: Any) -> "_Context | None":
        if isinstance(strategy, _RuntimeConfig):
            assert strategy.strategy == "user managed"
            assert strategy.dynamic_shapes_kernel_specialization_strategy == "eager"
            assert strategy.cuda_graph_strategy == "disabled"
        else:
            assert strategy == "user managed"
        memory = self.trt.allocate(256)  # a context has some memory of its own
        if memory is None:
            self.log.log(_Logger.ERROR, "[createExecutionContext] Error Code 2: OutOfMemory")
            return None
        return _Context(self, memory)

    def __del__(self) -> None:
        self.trt.ended("an engine")
        self.trt.driver.library.cuMemFree_v2(ctypes.c_void_p(self._weights))


class _RuntimeConfig:
    def __init__(self, trt: MockTensorRT) -> None:
        self._trt = trt
        self.cache: _RuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> "_RuntimeCache":
        return _RuntimeCache(self._trt)

    def set_runtime_cache(self, cache: "_RuntimeCache") -> bool:
        self.cache = cache
        return True


class _RuntimeCache:
    def __init__(self, trt: MockTensorRT) -> None:
        self._trt = trt

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels"):
            return False
        self._trt.kernels = blob
        return True

    def serialize(self) -> bytes:
        return self._trt.kernels


class _Context:
    def __init__(self, engine: _Engine, memory: int) -> None:
        self._engine = engine
        self._memory = memory
        self._tensors: dict[str, Tensor] = {}
        self._enqueue: MockEnqueue | None = None
        self.profile = 0
        self._scratch = 0
        engine.trt.contexts.add(self)
        if engine.trt.rtx:
            self.is_stream_capturable = lambda stream: engine.trt.capturable

    @property
    def batch(self) -> int:
        return self._tensors["frames"].shape[0]

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._tensors[name] = Tensor(0, tuple(shape))
        static = self.profile == 0 and self._engine.num_optimization_profiles == 2
        return not static or shape[0] == 1

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == SCRATCH_BYTES
        self._scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        n, h, w = self._tensors["frames"].shape[:3]
        shapes = {"anomaly_map": (n, h, w), "score": (n,)}
        shape = shapes[name] if name in shapes else self._tensors[name].shape
        self._tensors[name] = Tensor(memory, shape)
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._scratch
        if self._enqueue is None:
            self._enqueue = MockEnqueue(self._engine.trt.driver, self._tensors, stream_handle)
            self._engine.trt.kernels = b"kernels" + self._engine.trt.kernels[7:] + bytes([self.batch])
        self._enqueue()
        return True

    def __del__(self) -> None:
        trt = self._engine.trt
        trt.ended("an execution context")
        if self._enqueue is not None:
            assert self._enqueue.failures == []
        trt.driver.library.cuMemFree_v2(ctypes.c_void_p(self._memory))
