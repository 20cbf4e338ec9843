"""Calls, with ctypes, the functions of the CUDA driver that pycuda (2026.1) lacks, or calls in another order.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Tests run it on a mock of the driver.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p

from anoseg_engines.errors import EngineError, RuntimeFailedError

LIBRARY = "libcuda.so.1"
POINTER = ctypes.POINTER(c_void_p)
SIGNATURES = {
    "cuDevicePrimaryCtxSetFlags_v2": [c_int, c_uint],
    "cuCtxPopCurrent_v2": [POINTER],
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, POINTER],
    "cuGraphInstantiateWithFlags": [POINTER, c_void_p, c_ulonglong],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuGraphDestroy": [c_void_p],
    "cuGetErrorString": [c_int, ctypes.POINTER(c_char_p)],
}


class DriverApi:
    """The driver's functions for graphs and for the primary context.

    Raises:
        EngineError: The driver is missing or too old. CUDA 12 has all of them.
    """

    def __init__(self) -> None:
        try:
            driver = ctypes.CDLL(LIBRARY)
            self._functions = {name: getattr(driver, name) for name in SIGNATURES}
        except (OSError, AttributeError) as error:
            raise EngineError(f"the CUDA driver has no graphs ({error})", hint="update the NVIDIA driver") from error
        for name, arguments in SIGNATURES.items():
            self._functions[name].argtypes = arguments
            self._functions[name].restype = c_int

    def call(self, name: str, *arguments: object) -> None:
        """Call a function.

        Raises:
            RuntimeFailedError: It failed. The message has the driver's error text.
        """
        result = self._functions[name](*arguments)
        if result != 0:
            text = c_char_p()
            self._functions["cuGetErrorString"](result, byref(text))
            message = text.value.decode() if text.value else "unknown error"
            raise RuntimeFailedError(f"CUDA failed: {name}: {message} ({result})")
