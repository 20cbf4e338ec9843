"""Knows the store of the station's bundle, if the screen runs on its machine: versions, candidates, releases."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from anoseg_engines.bundle import MANIFEST, Bundle, load_bundle, read_releases, release_version, store_of, versions
from anoseg_engines.errors import AnosegError, EngineError
from anosegd.view.change import Change, ChangeRefusedError
from anosegd.view.station_requests import StationRequests

NO_STORE = {"cache-control": "no-store"}


class _Head(msgspec.Struct, frozen=True):
    version: int
    created: str = ""
    score_threshold: float = 0.0


class VersionNumber(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version in the store of a recipe's bundle, and why it is to be taken. The reason may be empty."""

    version: int
    recipe: str = ""
    why: str = ""


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why something is to be done; may be empty."""

    why: str = ""


class BundleStore:
    """Lists versions, and has the changes of them.

    Args:
        bundles: The bundle of each recipe, that of the default recipe first; empty if the screen has no configuration.
        in_force: Returns the station's recipe; None before it was heard.
    """

    def __init__(self, bundles: Mapping[str, Path], in_force: Callable[[], str | None]) -> None:
        self._bundles, self._in_force = bundles, in_force

    @property
    def changes(self) -> tuple[Change, ...]:
        """Swap, rollback and release."""
        return (
            Change("swap", "change", VersionNumber, self._swap),
            Change("rollback", "change", Reason, _roll_back),
            Change("release", "change", VersionNumber, self._release),
        )

    async def list(self, request: Request) -> Response:
        """Answer with the versions under STORE/NAME of the recipe that the page names."""
        recipe = request.query_params.get("recipe", "")
        try:
            return JSONResponse(await asyncio.to_thread(self._listed, recipe), headers=NO_STORE)
        except ChangeRefusedError as error:
            return JSONResponse({"error": error.code, "message": str(error)}, error.status, headers=NO_STORE)

    def _folder(self, recipe: str) -> Path:
        """Return STORE/NAME of a recipe's bundle. Where there is one recipe, no name means it.

        Raises:
            ChangeRefusedError: The screen does not know it.
        """
        if not self._bundles:
            raise ChangeRefusedError("no_store", "the screen was started without the station's configuration")
        if not recipe and len(self._bundles) == 1:
            (recipe,) = self._bundles
        if recipe not in self._bundles:
            raise ChangeRefusedError("no_recipe", f"the screen was started with a configuration without the recipe {recipe!r}")
        folder = self._bundles[recipe].absolute()
        try:
            if (folder / MANIFEST).is_file():
                folder = folder.resolve().parent
            found = versions(folder)
        except (EngineError, OSError) as error:  # the screen may run as another user than the station
            raise ChangeRefusedError("no_store", f"{folder}: the screen's user may not look at it ({error})") from error
        if not found:
            raise ChangeRefusedError("no_store", f"{folder}: no bundles are there; does the screen run on another machine?")
        return folder

    def _listed(self, recipe: str) -> dict[str, Any]:
        folder = self._folder(recipe)
        try:
            releases = read_releases(folder)
        except AnosegError as error:
            raise ChangeRefusedError("bad_store", str(error)) from error
        current = releases[-1].version if releases else None
        released = {entry.version: entry for entry in releases}
        found = []
        for number in versions(folder):
            try:
                data = (folder / str(number) / MANIFEST).read_bytes()
                head = msgspec.json.decode(data, type=_Head)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                continue  # deleted meanwhile, or damaged; `anosegd swap` says what is wrong with it
            entry = released.get(number)
            found.append(
                {
                    "version": number,
                    "digest": hashlib.sha256(data).hexdigest(),
                    "created": head.created,
                    "score_threshold": head.score_threshold,
                    "released": entry is not None,
                    "by": entry.by if entry is not None else None,
                    "current": number == current,
                }
            )
        return {"folder": str(folder), "current": current, "may_release": _may_write(folder), "versions": found}

    async def _swap(self, station: StationRequests, who: str, values: VersionNumber) -> dict[str, Any]:
        folder = await asyncio.to_thread(self._folder, values.recipe)
        now = self._in_force()
        if values.recipe and now not in (None, values.recipe):  # it has changed while the person was asked
            raise ChangeRefusedError("recipe_changed", f"the recipe is {now!r} now, not {values.recipe!r}: nothing was changed")
        bundle = str(folder / str(values.version))
        answer = await station.ask_to_load("swap", bundle=bundle, who=who, why=values.why)
        return {"engine": answer["engine"]}

    async def _release(self, _: StationRequests, who: str, values: VersionNumber) -> dict[str, Any]:
        return await asyncio.to_thread(self._released, who, values)

    def _released(self, who: str, values: VersionNumber) -> dict[str, Any]:
        version = values.version
        bundle: Bundle | None = None
        try:
            bundle = load_bundle(self._folder(values.recipe) / str(version))
            before = release_version(store_of(bundle), version, bundle.digest, by=who)
        except AnosegError as error:
            if isinstance(error.__cause__, OSError) and bundle is not None:
                what = f"{error.what}: on the station's machine, run: sudo anoseg-engine release {bundle.path}"
                raise ChangeRefusedError("not_released", what) from error
            raise ChangeRefusedError("not_released", str(error)) from error
        return {"version": version, "before": None if before is None else before.version}


def _may_write(folder: Path) -> bool:
    """Return whether this process may release a version: the unit anosegd-view@ sees the store read-only."""
    return os.access(folder, os.W_OK | os.X_OK)


async def _roll_back(station: StationRequests, who: str, values: Reason) -> dict[str, Any]:
    answer = await station.ask_to_load("rollback", who=who, why=values.why)
    return {"engine": answer["engine"]}
