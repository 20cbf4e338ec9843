"""The real pycuda on a mock of the CUDA driver: builds both, loads them, and reads what the mock has seen.

`mock_driver/ledger.c` describes the mock. It must be loaded before pycuda and in a process of its own: in the tests' process,
other tests would find a GPU. `tests/engines/runtimes/tensorrt/test_on_mock_gpu.py` starts that process.
"""

import ctypes
import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from support.paths import REPOSITORY

from anoseg_engines.errors import AnosegError

SOURCES = Path(__file__).parent / "mock_driver"
KERNELS = REPOSITORY / "engines" / "anoseg_engines" / "runtimes" / "tensorrt" / "kernels"
LINKED = ("-shared", "-Wl,-soname,libcuda.so.1", "-lpthread")
HEADERS = ("nvidia-cuda-runtime", "nvidia-cuda-profiler-api")
"""The packages with cuda.h and cudaProfiler.h."""
PYCUDA_OPTIONS = """\
CUDA_ENABLE_CURAND = False
CUDA_INC_DIR = [{include!r}]
CUDADRV_LIBNAME = []  # the mock is loaded before pycuda
CXXFLAGS = ["-O0", "-g0", "-w"]
LDFLAGS = ["-Wl,-z,lazy"]  # the mock has only the functions that are used
"""


class UnavailableError(Exception):
    """The mock GPU cannot be built here. The message says why."""


def build(cache: Path) -> Path:
    """Build pycuda and the mock driver, unless an earlier run has. One process at a time.

    Returns:
        A folder with `libcuda.so.1` and `pycuda`.

    Raises:
        UnavailableError: There is no C compiler, or a package cannot be had.
    """
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    recipe = [sys.version, PYCUDA_OPTIONS, *(pin for pin in pins if pin.startswith(("numpy==", "nvidia-cuda-", "pycuda==")))]
    folder = cache / hashlib.sha256("".join(recipe).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("cc") is None or shutil.which("c++") is None:
        raise UnavailableError("there is no C and C++ compiler (Debian: build-essential)")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "pycuda" / "built").exists():
            _build_pycuda(folder)
            (folder / "pycuda" / "built").touch()
        _build_driver(folder)
    return folder


def load(folder: Path) -> "Driver":
    """Load the mock driver into this process, and let it import pycuda."""
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_LOCAL)
    driver = Driver(folder / "libcuda.so.1")
    sys.path.insert(0, str(folder / "pycuda"))
    return driver


class Ledger(ctypes.Structure):
    """What exists in the mock now, and what it has seen since the last `Driver.forget`."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in (
            *("device_blocks", "device_bytes", "pinned_blocks", "streams", "events", "graphs", "executables", "modules"),
            *("contexts", "violations", "allocations", "launches", "pageable_copies", "waiting_ops"),
        )
    ]


LASTING = ("device_blocks", "pinned_blocks", "streams", "events", "graphs", "executables", "modules", "contexts", "waiting_ops")


class Driver:
    """The mock driver of this process."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        self.library.mock_ledger.restype = ctypes.POINTER(Ledger)
        self.library.mock_violations.restype = ctypes.c_char_p
        self.library.mock_refuse.argtypes = (ctypes.c_long, ctypes.c_int)
        self.library.mock_take.argtypes = (ctypes.c_long,)
        self.library.mock_spoil_capture.argtypes = (ctypes.c_void_p,)
        self.library.cuLaunchHostFunc.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)

    @property
    def ledger(self) -> Ledger:
        """A copy of the counts."""
        return Ledger.from_buffer_copy(self.library.mock_ledger().contents)

    @property
    def violations(self) -> list[str]:
        """The rules of CUDA that were broken."""
        return self.library.mock_violations().decode().splitlines()

    @property
    def left(self) -> dict[str, int]:
        """What exists and is not freed, by kind."""
        now = self.ledger
        return {name: getattr(now, name) for name in LASTING if getattr(now, name)}

    def forget(self) -> None:
        """Start to count again, and refuse nothing."""
        self.library.mock_forget()

    def refuse(self, number: int, *, and_later: bool = False) -> None:
        """Refuse an allocation by its number, counted from now on; with `and_later`, all that follow too."""
        self.library.mock_refuse(number, and_later)

    def take(self, size: int) -> None:
        """Have another process take so many bytes of the GPU's memory."""
        self.library.mock_take(size)


def failing_allocations(
    driver: Driver, use: Callable[[], None], expected: type[AnosegError], *, and_later: bool = True
) -> list[AnosegError]:
    """Run `use` with the first allocation failing, then the second, and so on, until it needs no more. Nothing may be leaked.

    Args:
        and_later: Whether the allocations after it fail too.

    Returns:
        The errors.
    """
    errors: list[AnosegError] = []
    for number in itertools.count():
        driver.refuse(number, and_later=and_later)
        try:
            use()
        except expected as error:
            errors.append(error.with_traceback(None))
        assert driver.left == {}, f"after a failure of allocation {number}"
        if driver.ledger.allocations <= number:
            driver.refuse(-1)
            return errors
    raise AssertionError


def _build_pycuda(folder: Path) -> None:
    """Build pycuda from its source in place, in `folder`/pycuda, and put what it imports beside it."""
    shutil.rmtree(folder / "pycuda", ignore_errors=True)
    _pip(folder, "install", "--no-deps", "--upgrade", "--target", str(folder / "headers"), *HEADERS)
    _pip(folder, "download", "--no-deps", "--no-build-isolation", "--no-binary", "pycuda", "--dest", str(folder), "pycuda")
    archive = next(folder.glob("pycuda-*.tar.gz"))
    with tarfile.open(archive) as source:
        source.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    archive.unlink()
    (folder / archive.name.removesuffix(".tar.gz")).rename(folder / "pycuda")
    (folder / "pycuda" / "siteconf.py").write_text(PYCUDA_OPTIONS.format(include=str(_include(folder))))
    _run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], folder / "pycuda", "pycuda does not compile")
    _pip(folder, "install", "--upgrade", "--target", str(folder / "pycuda"), "pytools", "mako")


def _build_driver(folder: Path) -> None:
    library, kernels = folder / "libcuda.so.1", folder / "kernels.o"
    sources = [*SOURCES.iterdir(), *KERNELS.glob("*.cu")]
    if library.exists() and library.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    flags = ["-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-I", str(_include(folder))]
    plain = ["-fno-exceptions", "-fno-rtti", "-Wno-unknown-pragmas", "-I", str(KERNELS)]
    for command in (
        ["c++", *flags, *plain, "-c", str(SOURCES / "kernels.cpp"), "-o", str(kernels)],
        ["cc", *flags, *map(str, sorted(SOURCES.glob("*.c"))), str(kernels), *LINKED, "-o", str(library)],
    ):
        subprocess.run(command, check=True)


def _include(folder: Path) -> Path:
    return next((folder / "headers").rglob("cuda.h")).parent


def _pip(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    _run([*command, "--constraint", str(REPOSITORY / "constraints.txt")], folder, f"pip {arguments[0]} {arguments[-1]} fails")


def _run(command: list[str], folder: Path, failure: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise UnavailableError(f"{failure}: {(done.stderr or done.stdout).strip()[-400:]}")
