"""Lists the cameras that are attached to this machine, as Linux shows them in sysfs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from anoseg_engines.errors import CameraError

SYSFS = Path("/sys/class/video4linux")
BY_ID = Path("/dev/v4l/by-id")


@dataclass(frozen=True, slots=True)
class Device:
    """Describes one video device. `stable_path` is its name under /dev/v4l/by-id, which survives replugging. None: unknown."""

    path: str
    name: str
    serial: str | None
    stable_path: str | None


def list_devices(sysfs: Path = SYSFS, by_id: Path = BY_ID) -> list[Device]:
    """Return the devices that deliver images, in order of number."""
    stable = {link.resolve().name: str(link) for link in by_id.iterdir()} if by_id.is_dir() else {}
    devices = []
    for folder in sorted(sysfs.glob("video*"), key=lambda f: int(f.name.removeprefix("video") or 0)):
        if _read(folder / "index") not in (None, "0"):
            continue  # a camera's other nodes carry metadata, no images
        name = _read(folder / "name") or "unnamed"
        devices.append(Device(f"/dev/{folder.name}", name, serial_of(folder), stable.get(folder.name)))
    return devices


def serial_of(folder: Path) -> str | None:
    """Return the serial number of the USB device that a video device in sysfs belongs to, or None if it has none."""
    device = folder / "device"
    return _read(device.resolve().parent / "serial") if device.exists() else None


def check_serial(device: int | str, serial: str, sysfs: Path = SYSFS) -> None:
    """Check that the device is the camera with this serial number.

    Raises:
        CameraError: The device is another camera, or its serial number is unknown.
    """
    path = Path(f"/dev/video{device}" if isinstance(device, int) else device)
    found = serial_of(sysfs / path.resolve().name)
    if found is None:
        raise CameraError(f"device {device} has no serial number; source.serial: {serial}", hint="is it plugged in?")
    if found != serial:
        raise CameraError(f"device {device} is the camera {found}; source.serial: {serial}", hint="were two cameras swapped?")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def why_not(device: int | str) -> str:
    """Return why a device could not be opened, for people."""
    path = Path(f"/dev/video{device}" if isinstance(device, int) or device.isdigit() else device)
    if not path.exists():
        return f"there is no {path}; `anosegd cameras` lists the devices of this machine"
    if not path.is_char_device():
        return f"{path} is not a camera"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"no permission for {path}; its user needs the group video"
    return "another program uses it, or it is not a camera that delivers images"
