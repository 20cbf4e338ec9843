"""Finds this machine's GPU with pycuda, without making a CUDA context."""

from __future__ import annotations

import platform
import warnings
from dataclasses import dataclass
from typing import Any

from anoseg_engines.errors import EngineError, GpuDriverError

GPU_EXTRA = "install the NVIDIA driver, and `pip install 'anoseg-edge[tensorrt]'` (pycuda compiles against the CUDA toolkit)"

ANY_GPU = "any"
"""The GPU's name and compute capability in a plan that was built without a GPU. TensorRT for RTX compiles its kernels when it
loads such a plan."""

PASSING = ("initialization error", "not initialized", "not yet initialized", "unknown error", "out of memory", "busy")
"""CUDA's words for errors that may be gone at the next start. Others, such as no device or an old driver, stay."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As from the driver. Unlike modules may share one: an Orin with 8 multiprocessors and one with 16 are both "Orin".
        compute_capability: Such as "8.7".
        memory_bytes: Its whole memory.
        multiprocessors: Number of streaming multiprocessors.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    multiprocessors: int

    @property
    def memory_gib(self) -> int:
        """Memory in whole GiB. The exact size depends on what the driver reserves."""
        return round(self.memory_bytes / (1 << 30))


def find_gpu() -> Gpu:
    """Find the first GPU.

    Raises:
        GpuDriverError: The driver reports an error that may pass.
        EngineError: There is no GPU, driver or pycuda. The message says which.
    """
    cuda = cuda_driver()
    try:
        cuda.init()
        if cuda.Device.count() < 1:
            raise EngineError("the CUDA driver shows no GPU", hint=GPU_EXTRA)
        device = cuda.Device(0)
        major, minor = device.compute_capability()
        multiprocessors = int(device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT))
        return Gpu(str(device.name()), f"{major}.{minor}", int(device.total_memory()), multiprocessors)
    except cuda.Error as error:
        kind = GpuDriverError if any(words in str(error) for words in PASSING) else EngineError
        raise kind(f"no GPU can be used ({error})", hint=GPU_EXTRA) from error


def cuda_driver() -> Any:
    """Import `pycuda.driver`.

    Raises:
        EngineError: It is not installed, or the CUDA driver is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a missing driver is reported below, once
            import pycuda.driver
    except ModuleNotFoundError as error:
        raise EngineError("no GPU can be used: pycuda is not installed", hint=GPU_EXTRA) from error
    except ImportError as error:  # pycuda is installed, libcuda.so.1 is not
        raise EngineError(f"no GPU can be used: pycuda does not load ({error})", hint=GPU_EXTRA) from error
    return pycuda.driver


def platform_name() -> str:
    """Operating system and processor family to which a plan is tied, such as "linux-aarch64"."""
    return f"{platform.system()}-{platform.machine()}".lower()
