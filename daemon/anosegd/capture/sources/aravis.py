"""Loads Aravis, the library for GigE Vision and USB3 Vision cameras, and lists the cameras that it finds."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from anoseg_engines.errors import ConfigError

SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
"""Where Debian, Ubuntu and JetPack install PyGObject; a virtual environment does not search there."""

HINT = "run: apt install gir1.2-aravis-0.8 python3-gi; for another Python than the system's: pip install 'anoseg-edge[genicam]'"


@dataclass(frozen=True, slots=True)
class Found:
    """Describes a camera that answered.

    Attributes:
        id: The value for `source.camera`.
        protocol: GigEVision or USB3Vision.
        address: IP address, of a GigE Vision camera.
    """

    id: str
    vendor: str
    model: str
    serial: str
    protocol: str
    address: str


def load_aravis() -> Any:
    """Import Aravis 0.8 through the GObject bindings, those of the system if the environment has none.

    Raises:
        ConfigError: Aravis is not installed. The message says what to install.
    """
    try:
        return _aravis()
    except ImportError:
        pass
    sys.path.append(SYSTEM_PACKAGES)  # last, and only for this import
    try:
        return _aravis()
    except ImportError as error:
        raise ConfigError(f"GenICam cameras need Aravis, which Python cannot load ({error})", hint=HINT) from error
    finally:
        sys.path.remove(SYSTEM_PACKAGES)


def _aravis() -> Any:
    gi = importlib.import_module("gi")
    try:
        gi.require_version("Aravis", "0.8")
    except ValueError as error:
        raise ImportError(str(error)) from error
    return importlib.import_module("gi.repository.Aravis")


def list_genicam() -> list[Found]:
    """Return cameras that answer within a second.

    Raises:
        ConfigError: Aravis is not installed.
    """
    return listed_by(load_aravis())


def listed_by(aravis: Any) -> list[Found]:
    """As `list_genicam`, with the module that `load_aravis` gave."""
    aravis.update_device_list()
    asked = (
        aravis.get_device_id, aravis.get_device_vendor, aravis.get_device_model,
        aravis.get_device_serial_nbr, aravis.get_device_protocol, aravis.get_device_address,
    )  # fmt: skip
    return [Found(*(ask(i) or "" for ask in asked)) for i in range(aravis.get_n_devices())]
