"""Reads, from a station's configuration, the keys of a camera that calibration needs.

The file belongs to the daemon, which checks all of it (`anosegd check`). This module ignores the other keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from anoseg_engines.errors import ConfigError
from anoseg_engines.judgement import Rule
from anoseg_engines.placement import Region
from anoseg_engines.strict_yaml import read_yaml


class CameraRules(msgspec.Struct, frozen=True, kw_only=True):
    """Where the part is in a camera's image, and the rules that decide on it.

    Attributes:
        region: The part's place in pixels of the rotated image; None is the whole image.
        rotate: Degrees clockwise.
        rules: The region rules.
        review_from: Map value from which a part that does not fail is for a person to look at.
    """

    region: Region | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    rules: tuple[Rule, ...] = ()
    review_from: Annotated[float, Meta(gt=0, lt=1)] | None = None


def load_camera_rules(path: Path, name: str) -> CameraRules:
    """Read the camera `name` of the station's configuration at `path`.

    Raises:
        ConfigError: The file cannot be read, has no such camera, or the camera has no rules or invalid keys.
    """
    camera = read_yaml(path, CameraRules, at=("cameras", name))
    if not camera.rules:
        raise ConfigError(
            f"{path}: cameras.{name} has no rules, so the part's score decides",
            hint="calibrate the score threshold: without --config and --camera, on images that show the camera's region alone",
        )
    return camera
