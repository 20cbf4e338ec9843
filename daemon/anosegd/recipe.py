"""Defines a recipe: how the station's cameras inspect one product, and with which bundle. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anosegd.config import CameraConfig, Config


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """Describes one recipe of a configuration.

    Attributes:
        name: Its name in verdicts and requests.
        key: Its name in files beside the journal: empty for the default recipe, which may be renamed.
        bundle: The path of its bundle, as configured.
        slot: Names its engine. Recipes with the same bundle share one engine. Empty for `engine.bundle`.
        at: Where the configuration describes its cameras.
        cameras: The cameras' configurations while it is in force.
    """

    name: str
    key: str
    bundle: str
    slot: str
    at: str
    cameras: Mapping[str, CameraConfig]


def recipes_of(config: Config) -> dict[str, Recipe]:
    """Return the recipes of a configuration by name. The first one is the default.

    Without `recipes`, there is the default only. Its cameras may have different names in verdicts then.
    """
    name = ", ".join(dict.fromkeys(camera.recipe for camera in config.cameras.values()))
    bundle = config.engine.bundle
    found = {name: Recipe(name=name, key="", bundle=bundle, slot="", at="cameras", cameras=config.cameras)}
    for other, recipe in config.recipes.items():
        path = recipe.bundle or bundle
        slot = "" if path == bundle else path
        cameras = config.cameras_of(other)
        found[other] = Recipe(name=other, key=other, bundle=path, slot=slot, at=f"recipes.{other}.cameras", cameras=cameras)
    return found
