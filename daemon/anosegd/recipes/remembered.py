"""Remembers the recipe in force in a file beside the journal, so that it is in force again after a restart. Main thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import sync_folder, write_synced
from anosegd import logs
from anosegd.recipe import Recipe

GONE = "the configuration has no such recipe any more"


class _File(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: Literal[1] = 1
    recipe: str


class RememberedRecipe:
    """The recipe that was in force when the station ended.

    Args:
        file: Where it is kept; None for a station without a journal, which begins with the default recipe.

    Attributes:
        gone: The recipe that was in force before, if the configuration no longer has it; otherwise None.
    """

    def __init__(self, file: Path | None) -> None:
        self.gone: str | None = None
        self._file = file

    def among(self, recipes: Mapping[str, Recipe], key: str | None = None) -> Recipe:
        """Return the recipe to begin with, the default one if the configuration has no such recipe.

        Args:
            recipes: All recipes, the default one first.
            key: The key of the recipe that was in force in the station before; None reads the file.

        Raises:
            ConfigError: The file cannot be read. Parts would be judged by a recipe that nobody chose.
        """
        key = self._read() if key is None else key
        default = next(iter(recipes.values()))
        found = next((recipe for recipe in recipes.values() if recipe.key == key), None)
        if found is None:
            self.gone = key
            logs.warning("recipe.gone", recipe=key, instead=default.name, reason=GONE)
        return found or default

    def save(self, recipe: Recipe) -> None:
        """Write the file. A disk that fails is logged: the recipe then holds until the station ends."""
        if self._file is None or (not recipe.key and not self._file.exists()):
            return
        new = self._file.with_name(self._file.name + ".new")
        try:
            write_synced(new, msgspec.json.encode(_File(recipe=recipe.key)) + b"\n")
            new.rename(self._file)
            sync_folder(self._file.parent)
        except OSError as error:
            consequence = "a restart begins with the recipe that was remembered before"
            logs.warning("recipe.not_remembered", error=f"{self._file}: {error.strerror}", consequence=consequence)

    def _read(self) -> str:
        if self._file is None or not self._file.exists():
            return ""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_File).recipe
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(
                f"{self._file}: the recipe that was in force cannot be read ({error})",
                hint="restore the file from a backup; or delete it, then the default recipe is in force",
            ) from error
