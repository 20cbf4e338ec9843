"""Puts a deserialised plan on a stream: one execution context for each batch size, with shared scratch memory.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anoseg_engines.errors import EngineError
from anoseg_engines.runtimes.tensorrt.device import Device
from anoseg_engines.runtimes.tensorrt.library import Library, log_collector

INPUTS = ("frames", "coords")
OUTPUTS = ("anomaly_map", "score")


class TensorRTNetwork:
    """The engine of one plan. The device's context must be current on this thread.

    Raises:
        EngineError: TensorRT rejects the plan, or its inputs and outputs are not those of a bundle's network.
    """

    def __init__(self, library: Library, plan: bytes, device: Device, max_batch: int) -> None:
        self.max_batch = max_batch
        self._trt = library.api
        self._library = library
        self._device = device
        self._log = log_collector(self._trt)
        self._contexts: list[Any] = []
        self._scratch = 0
        self._runtime = self._trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(self._with_reason("rejects the plan"), hint="rebuild it: anoseg-engine build BUNDLE")
        names = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        if names != {*INPUTS, *OUTPUTS}:
            raise EngineError(f"the plan has tensors {sorted(names)}; a bundle's network has {sorted((*INPUTS, *OUTPUTS))}")
        # All batch sizes share the scratch memory, because they never run at the same time.
        self._scratch_bytes = int(self._engine.device_memory_size_v2)
        self._scratch = device.allocate(max(self._scratch_bytes, 256))

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's data type."""
        kind: np.dtype[Any] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return kind

    @property
    def layer_information(self) -> str:
        """TensorRT's own layer table, JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def prepare(self, n: int, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> Callable[[], None]:
        """Return a function that puts the network on the device's stream, for N inputs at these addresses.

        Each batch size has its own context, because a captured graph refers to the state of its context.

        Raises:
            EngineError: The plan rejects these shapes.
        """
        context = self._context()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise EngineError(self._with_reason(f"rejects {name} of shape {shape}"))
        context.set_device_memory(self._scratch, self._scratch_bytes)
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise EngineError(self._with_reason(f"rejects the address of {name}"))
        stream = self._device.stream

        def enqueue() -> None:
            if not context.execute_async_v3(stream):
                raise EngineError(self._with_reason(f"failed at batch {n}"))

        return enqueue

    def close(self) -> None:
        """Drop contexts before the engine, and the engine before the runtime. The device frees the scratch memory."""
        self._contexts.clear()
        self._engine = None
        self._runtime = None

    def _context(self) -> Any:
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._library.name == "tensorrt-rtx":
            # TensorRT for RTX compiles kernels when it runs. If it did so lazily, on its own thread, they would be missing
            # in the captured graph. Its own graphs are off, because ours contain the copies too.
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(managed)
            config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(managed)
        if context is None:
            raise EngineError(self._with_reason("made no execution context"))
        self._contexts.append(context)
        return context

    def _with_reason(self, what: str) -> str:
        lines = self._log.lines
        return f"{self._library.name} {self._library.version} {what}" + (f": {lines[-1]}" if lines else "")
