"""Captures CUDA graphs from a stream: calls, with ctypes, six functions of the driver that pycuda (2026.1) lacks.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one.
"""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import byref, c_char_p, c_int, c_ulonglong, c_void_p

from anoseg_engines.errors import EngineError, RuntimeFailedError

DRIVER = "libcuda.so.1"
CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may use the GPU meanwhile


class CudaGraph:
    """An instantiated graph. It belongs to the context in which it was captured."""

    def __init__(self, api: GraphApi, executable: c_void_p) -> None:
        self._api = api
        self._executable: c_void_p | None = executable

    def launch(self, stream: int) -> None:
        """Put the graph on a stream.

        Raises:
            EngineError: The driver refuses.
        """
        self._api.call("cuGraphLaunch", self._executable, c_void_p(stream))

    def close(self) -> None:
        """Destroy the graph. A broken context has already done so."""
        if self._executable is not None:
            with contextlib.suppress(EngineError):
                self._api.call("cuGraphExecDestroy", self._executable)
            self._executable = None


class GraphApi:
    """The driver's functions for graphs.

    Raises:
        EngineError: The driver is missing or too old. CUDA 12 has all of them.
    """

    def __init__(self) -> None:
        pointer = ctypes.POINTER(c_void_p)
        signatures = {
            "cuStreamBeginCapture_v2": [c_void_p, c_int],
            "cuStreamEndCapture": [c_void_p, pointer],
            "cuGraphInstantiateWithFlags": [pointer, c_void_p, c_ulonglong],
            "cuGraphLaunch": [c_void_p, c_void_p],
            "cuGraphExecDestroy": [c_void_p],
            "cuGraphDestroy": [c_void_p],
            "cuGetErrorString": [c_int, ctypes.POINTER(c_char_p)],
        }
        try:
            driver = ctypes.CDLL(DRIVER)
            self._functions = {name: getattr(driver, name) for name in signatures}
        except (OSError, AttributeError) as error:
            raise EngineError(f"the CUDA driver has no graphs ({error})", hint="update the NVIDIA driver") from error
        for name, arguments in signatures.items():
            self._functions[name].argtypes = arguments
            self._functions[name].restype = c_int

    def begin(self, stream: int) -> None:
        """Have the stream record instead of run.

        Raises:
            EngineError: It cannot.
        """
        self.call("cuStreamBeginCapture_v2", c_void_p(stream), CAPTURE_THREAD_LOCAL)

    def end(self, stream: int) -> CudaGraph:
        """End recording and make the graph executable.

        Raises:
            EngineError: Something in it cannot be captured.
        """
        graph, executable = c_void_p(), c_void_p()
        self.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        try:
            self.call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)
        return CudaGraph(self, executable)

    def call(self, name: str, *arguments: object) -> None:
        """Call a driver function.

        Raises:
            EngineError: It failed. The message has the driver's error text.
        """
        result = self._functions[name](*arguments)
        if result != 0:
            text = c_char_p()
            self._functions["cuGetErrorString"](result, byref(text))
            message = text.value.decode() if text.value else "unknown error"
            raise RuntimeFailedError(f"CUDA failed: {name}: {message} ({result})")
