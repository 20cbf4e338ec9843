"""Decides which recipe judges a part. Pure functions."""

from __future__ import annotations

from dataclasses import replace

from anosegd.outcome import Unknown
from anosegd.part import Part
from anosegd.recipe import Recipe


def recipe_of(part: Part, in_force: Recipe) -> Part | Unknown:
    """Return the part with the recipe that judges it, or why none can.

    That is the recipe in which the part began. Only a part whose trigger asked for another one is judged by the recipe that is
    in force now, if that is the one: the line was switched while its frame was captured.

    Args:
        part: The part, with a frame.
        in_force: The recipe in force.
    """
    began = part if part.recipe is not None else replace(part, recipe=in_force)
    asked, settings = part.recipe_asked, part.settings
    if asked is None or settings is None or asked == settings.recipe:
        return began
    now = in_force.cameras.get(part.camera)
    if now is None or asked != now.recipe or now.source != settings.source:  # its frame has another recipe's exposure
        return Unknown("recipe", f"the trigger asked for the recipe {asked}; {in_force.name} is in force")
    return replace(part, recipe=in_force, settings=now)


def unloaded(recipe: Recipe, in_force: Recipe) -> Unknown:
    """Return the outcome of a part whose engine is no longer loaded."""
    what = f"the station has switched from the recipe {recipe.name} to {in_force.name}, and has unloaded its engine"
    return Unknown("recipe", what)
