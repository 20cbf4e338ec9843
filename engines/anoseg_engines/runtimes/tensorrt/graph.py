"""Captures CUDA graphs from a stream.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Tests run it on a mock of the driver.
"""

from __future__ import annotations

import contextlib
from ctypes import byref, c_void_p

from anoseg_engines.errors import EngineError
from anoseg_engines.runtimes.tensorrt.driver import DriverApi

CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may use the GPU meanwhile


class CudaGraph:
    """An instantiated graph. It belongs to the context in which it was captured."""

    def __init__(self, api: DriverApi, executable: c_void_p) -> None:
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


def begin_capture(api: DriverApi, stream: int) -> None:
    """Have a stream record what this thread puts on it, instead of running it.

    Raises:
        EngineError: It cannot.
    """
    api.call("cuStreamBeginCapture_v2", c_void_p(stream), CAPTURE_THREAD_LOCAL)


def end_capture(api: DriverApi, stream: int) -> CudaGraph:
    """End recording and make the graph executable.

    Raises:
        EngineError: Something in it cannot be captured.
    """
    graph, executable = c_void_p(), c_void_p()
    api.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
    try:
        api.call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
    finally:
        api.call("cuGraphDestroy", graph)
    return CudaGraph(api, executable)
