"""Which TensorRT is installed here: TensorRT 10 or 11 (`tensorrt`) or TensorRT for RTX (`tensorrt_rtx`); one API for all."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from anoseg_engines.errors import EngineError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Library, as plans and messages name it → module. TensorRT first: it knows more GPUs."""
TENSORRT_EXTRA = "`pip install 'anoseg-edge[tensorrt]'` or `'anoseg-edge[tensorrt-rtx]'`; on a Jetson, JetPack brings TensorRT"


@dataclass(frozen=True, slots=True)
class Library:
    """An importable TensorRT. api: the module."""

    name: str
    version: str
    api: Any


def libraries() -> list[Library]:
    """Every TensorRT that imports here, preferred first.

    Raises:
        EngineError: none does; of one that is installed but does not load, the reason is told.
    """
    found: list[Library] = []
    reasons: list[EngineError] = []
    for name in MODULES:
        try:
            found.append(find_library(name))
        except EngineError as error:
            reasons.append(error.with_traceback(None))  # its frames hold this list, and all that the callers hold
    if not found:
        broken = [reason for reason in reasons if "does not load" in reason.what]
        raise broken[0] if broken else EngineError("no TensorRT is installed", hint=TENSORRT_EXTRA)
    return found


def find_library(name: str = "auto") -> Library:
    """The library called `name`, or the preferred one of those installed.

    Raises:
        EngineError: it does not import; the reason is in the message.
    """
    if name == "auto":
        return libraries()[0]
    try:
        api = importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        raise EngineError(f"{name} is not installed", hint=TENSORRT_EXTRA) from error
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are missing or do not fit
        raise EngineError(f"{name} is installed but does not load ({error})", hint=TENSORRT_EXTRA) from error
    if not hasattr(api, "Builder") and not hasattr(api, "Runtime"):
        raise EngineError(f"{name} is installed but is no TensorRT (no Runtime in it)", hint=TENSORRT_EXTRA)
    return Library(name, str(api.__version__), api)


def log_collector(api: Any) -> Any:
    """A TensorRT logger that keeps its warnings and errors: `.lines`, newest last, instead of printing them."""

    class Collector(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in (api.ILogger.INTERNAL_ERROR, api.ILogger.ERROR):
                self.lines.append(message)
                del self.lines[:-20]

    return Collector()
