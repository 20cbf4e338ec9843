"""Switches the station from one recipe to another, between two parts.

`switches` carries out requests, on the main thread. `preparation` loads an engine on a thread of its own. `remembered` is the
file that brings the recipe in force back after a restart. `anosegd.recipe` says what a recipe is.
"""

from anosegd.recipes.preparation import Shelf
from anosegd.recipes.remembered import RememberedRecipe
from anosegd.recipes.switches import RecipeSwitches, Switched

__all__ = ["RecipeSwitches", "RememberedRecipe", "Shelf", "Switched"]
