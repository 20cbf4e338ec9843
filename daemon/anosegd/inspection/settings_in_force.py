"""Knows everything that decides about a part besides its pixels, and a checksum of it. Any thread.

The checksum is in verdicts, in the state and on the screen: with equal checksums, parts are judged alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from anoseg_engines.bundle import Bundle
from anoseg_engines.passwords import mask_passwords
from anosegd import wire
from anosegd.inspection.score_thresholds import ScoreThresholds
from anosegd.recipe import Recipe


@dataclass(frozen=True, slots=True)
class InForce:
    """Holds what judges the parts of one recipe with one engine.

    Attributes:
        thresholds: The score threshold of each camera; None where region rules decide.
        checksum: SHA-256 of the cameras' settings without passwords, of the thresholds, and of the engine's digest.
    """

    thresholds: Mapping[str, wire.ThresholdInUse | None]
    checksum: str


class SettingsInForce:
    """Computes the settings, once after each change. Each thread needs one of its own."""

    def __init__(self, thresholds: ScoreThresholds) -> None:
        self._thresholds = thresholds
        self._known: dict[str, tuple[Recipe, str, object, InForce]] = {}

    def of(self, recipe: Recipe, bundle: Bundle) -> InForce:
        """Return the settings of a recipe with a bundle."""
        version = self._thresholds.version
        known = self._known.get(recipe.name)
        if known is not None and known[0] is recipe and known[1] == bundle.digest and known[2] is version:
            return known[3]
        thresholds = {
            name: self._thresholds.of(name, camera, bundle, recipe.key, version) for name, camera in recipe.cameras.items()
        }
        found = InForce(thresholds, _checksum(recipe, thresholds, bundle))
        self._known[recipe.name] = recipe, bundle.digest, version, found
        return found


def _checksum(recipe: Recipe, thresholds: Mapping[str, wire.ThresholdInUse | None], bundle: Bundle) -> str:
    decides = {
        "cameras": _without_passwords(msgspec.to_builtins(dict(recipe.cameras))),
        "thresholds": {name: None if threshold is None else threshold.value for name, threshold in thresholds.items()},
        "engine": bundle.digest,
    }
    return hashlib.sha256(msgspec.json.encode(decides, order="sorted")).hexdigest()


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_passwords(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_passwords(inner) for inner in value]
    return mask_passwords(value, value) if isinstance(value, str) else value
