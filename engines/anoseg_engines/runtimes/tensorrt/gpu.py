"""What GPU this machine has, if any: asked through pycuda, without making a context."""

from __future__ import annotations

import platform
import warnings
from dataclasses import dataclass
from typing import Any

from anoseg_engines.errors import EngineError

GPU_EXTRA = "install the NVIDIA driver, and `pip install 'anoseg-edge[tensorrt]'` (pycuda compiles against the CUDA toolkit)"

ANY_GPU = "any"
"""Stands in for name and compute capability of the GPU of a plan that was built without one: TensorRT for RTX compiles its
kernels when it loads."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """name: as the driver gives it. compute_capability: as in "8.7". memory_bytes: in all."""

    name: str
    compute_capability: str
    memory_bytes: int


def find_gpu() -> Gpu:
    """The first GPU.

    Raises:
        EngineError: there is none, or no driver or no pycuda to reach it by; the message says which.
    """
    cuda = cuda_driver()
    try:
        cuda.init()
        if cuda.Device.count() < 1:
            raise EngineError("the CUDA driver shows no GPU", hint=GPU_EXTRA)
        device = cuda.Device(0)
        major, minor = device.compute_capability()
        return Gpu(str(device.name()), f"{major}.{minor}", int(device.total_memory()))
    except cuda.Error as error:
        raise EngineError(f"no GPU can be used ({error})", hint=GPU_EXTRA) from error


def cuda_driver() -> Any:
    """The module `pycuda.driver`.

    Raises:
        EngineError: it is not installed, or the CUDA driver is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the driver is missing is said below, once
            import pycuda.driver
    except ModuleNotFoundError as error:
        raise EngineError("no GPU can be used: pycuda is not installed", hint=GPU_EXTRA) from error
    except ImportError as error:  # the extension is there, libcuda.so.1 is not
        raise EngineError(f"no GPU can be used: pycuda does not load ({error})", hint=GPU_EXTRA) from error
    return pycuda.driver


def platform_name() -> str:
    """Operating system and processor family, as a plan is tied to them: "linux-x86_64", "linux-aarch64"."""
    return f"{platform.system()}-{platform.machine()}".lower()
