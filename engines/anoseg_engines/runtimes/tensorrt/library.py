"""Finds the installed TensorRT: version 10 or 11 (`tensorrt`) or TensorRT for RTX (`tensorrt_rtx`). All have one API."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from anoseg_engines.errors import EngineError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The module of each library. TensorRT comes first because it supports more GPUs."""
TENSORRT_EXTRA = "`pip install 'anoseg-edge[tensorrt]'` or `'anoseg-edge[tensorrt-rtx]'`; on a Jetson, JetPack brings TensorRT"


@dataclass(frozen=True, slots=True)
class Library:
    """A TensorRT that can be imported; api is its module."""

    name: str
    version: str
    api: Any


def libraries() -> list[Library]:
    """Import every installed TensorRT, the preferred one first.

    Raises:
        EngineError: None can be imported. If one is installed but does not load, the message has the reason.
    """
    found: list[Library] = []
    reasons: list[EngineError] = []
    for name in MODULES:
        try:
            found.append(find_library(name))
        except EngineError as error:
            reasons.append(error.with_traceback(None))  # a traceback would keep the callers' objects alive
    if not found:
        broken = [reason for reason in reasons if "does not load" in reason.what]
        raise broken[0] if broken else EngineError("no TensorRT is installed", hint=TENSORRT_EXTRA)
    return found


def find_library(name: str = "auto") -> Library:
    """Import the library called `name`; `auto` is the preferred one of those installed.

    Raises:
        EngineError: It cannot be imported. The message has the reason.
    """
    if name == "auto":
        return libraries()[0]
    try:
        api = importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        raise EngineError(f"{name} is not installed", hint=TENSORRT_EXTRA) from error
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are missing or have another version
        raise EngineError(f"{name} is installed but does not load ({error})", hint=TENSORRT_EXTRA) from error
    if not hasattr(api, "Builder") and not hasattr(api, "Runtime"):
        raise EngineError(f"{name} is installed but is not a TensorRT (it has no Runtime)", hint=TENSORRT_EXTRA)
    return Library(name, str(api.__version__), api)


def log_collector(api: Any) -> Any:
    """A TensorRT logger that keeps the last errors in `.lines` instead of printing them."""

    class Collector(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Keep a message. TensorRT calls it on any of its threads."""
            if severity in (api.ILogger.INTERNAL_ERROR, api.ILogger.ERROR):
                self.lines.append(message)
                del self.lines[:-20]

    return Collector()
