"""What calibration needs of a camera in a station's configuration: where the part lies, and which rules decide.

The station's file belongs to the daemon, which checks all of it (`anosegd check`); here only these keys are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from anoseg_engines.errors import ConfigError
from anoseg_engines.judgement.rules import Rule
from anoseg_engines.placement import Region


class CameraRules(msgspec.Struct, frozen=True, kw_only=True):
    """region: the part's place in camera pixels of the turned image; None is the whole image. rotate: degrees clockwise.
    rules: decide, from the map. review_from: the map value from which a part that does not fail is for a person to look at.
    """

    region: Region | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    rules: tuple[Rule, ...] = ()
    review_from: Annotated[float, Meta(gt=0, lt=1)] | None = None


def load_camera(path: Path, name: str) -> CameraRules:
    """The camera `name` of the station's configuration at `path`.

    Raises:
        ConfigError: unreadable, no YAML, no such camera, it has no rules, or its keys cannot be used.
    """
    cameras = _mapping(_read(path), path, "").get("cameras")
    known = _mapping(cameras, path, "cameras: ")
    if name not in known:
        raise ConfigError(f"{path}: no camera {name!r}", hint=f"--camera takes one of {', '.join(map(str, known)) or 'none'}")
    try:
        camera = msgspec.convert(_mapping(known[name], path, f"cameras.{name}: "), CameraRules)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", "`")
        raise ConfigError(f"{path}: cameras.{name}: {text}", hint="`anosegd check` names the line") from error
    if not camera.rules:
        raise ConfigError(
            f"{path}: cameras.{name} has no rules: the part's score decides",
            hint="its threshold is calibrated without --config and --camera, from images that show the camera's region alone",
        )
    return camera


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", hint="check --config") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: no valid YAML: {error}") from error
    except RecursionError as error:  # PyYAML's own, on thousands of brackets
        raise ConfigError(f"{path}: nested too deep, this is no configuration") from error


def _mapping(value: Any, path: Path, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {where}key: value pairs are needed, found {type(value).__name__}")
    return value
