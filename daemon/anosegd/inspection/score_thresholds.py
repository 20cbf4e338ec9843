"""Knows which score threshold decides for each camera, and who chose it. A person may move it while the line runs.

What a person sets counts before the configuration, and the configuration before the bundle's calibration. It holds only for the
bundle that inspected then, because scores of two bundles cannot be compared, and only for the recipe that was in force then.
Settings are in a file beside the journal. `ScoreThresholds.of` may be called on any thread, everything else runs on the main
thread.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from anoseg_engines.bundle import Bundle
from anoseg_engines.errors import ConfigError
from anoseg_engines.files import sync_folder, write_synced
from anosegd import logs, wire
from anosegd.config import CameraConfig
from anosegd.inspection.change_notes import note_change
from anosegd.journal import Change, Journal, JournalError
from anosegd.recipe import Recipe
from anosegd.worker import Asker

KEPT = 20
"""Bundles for which a camera's settings in one recipe are remembered: more than a rollback goes back to."""
CONFIGURATION = "configuration"
"""Who moved a threshold in the configuration."""
Answer = Callable[[dict[str, Any] | str], None]
"""Takes the fields of an answer, or the text of a refusal."""


_Key = tuple[str, str, str]
"""A camera, the digest of a bundle and the key of a recipe."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Holds a threshold that a person set.

    Attributes:
        camera: The camera that it is for.
        digest: The bundle that it is for.
        recipe: The recipe that it is for (`Recipe.key`).
        bundle: The bundle's product and version.
        value: A part with this score or more is FAIL.
        who, why, at_ns: Who set it, for what reason, and when (Unix time).
    """

    camera: str
    digest: str
    recipe: str = ""
    bundle: str
    value: Annotated[float, Meta(gt=0, le=1)]
    who: str
    why: str
    at_ns: int

    @property
    def key(self) -> _Key:
        """What it is for."""
        return self.camera, self.digest, self.recipe


SCHEMA_VERSION = 1


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION


class _File(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    settings: list[Setting]
    configured: dict[str, float] = {}
    configured_by_recipe: dict[str, dict[str, float]] = {}


def in_use(camera: CameraConfig, bundle: Bundle, setting: Setting | None = None) -> wire.ThresholdInUse | None:
    """Return the threshold that decides for a camera; None if region rules decide.

    Args:
        camera: The camera's configuration.
        bundle: The bundle that inspects.
        setting: What a person set for this camera and bundle, if anybody did.
    """
    if camera.rules:
        return None
    calibrated, promised = bundle.manifest.score_threshold, bundle.manifest.calibration.promises
    if setting is not None:
        at = wire.utc(setting.at_ns)
        return wire.ThresholdInUse(
            value=setting.value,
            origin="person",
            calibrated=calibrated,
            promised=promised,
            who=setting.who,
            why=setting.why,
            at=at,
        )
    configured = camera.score_threshold
    if configured is not None:
        return wire.ThresholdInUse(value=configured, origin="configuration", calibrated=calibrated, promised=promised)
    return wire.ThresholdInUse(value=calibrated, origin="calibration", calibrated=calibrated, promised=promised)


def threshold_note(found: wire.ThresholdInUse | None) -> str | None:
    """Say that another threshold than the calibrated one decides. None if the calibrated one does."""
    if found is None or found.value == found.calibrated:
        return None
    chosen = "from the configuration" if found.origin == "configuration" else f"set by {found.who}"
    effect = "more good parts are rejected" if found.value < found.calibrated else "more defects pass"
    promise = PROMISE_LOST if found.promised else NO_PROMISE
    return f"threshold {found.value:g} {chosen}, calibrated {found.calibrated:g}: {promise}, and {effect}"


PROMISE_LOST = "what the calibration promises about good parts does not hold"
NO_PROMISE = "the calibration promised nothing about good parts"


class ScoreThresholds:
    """The thresholds that persons set, by camera, bundle and recipe."""

    def __init__(self, file: Path | None) -> None:
        """Read the file.

        Args:
            file: Where settings are kept; None for a station that keeps nothing.

        Raises:
            ConfigError: The file cannot be read. Parts would be judged by a threshold that nobody chose.
        """
        self._file = file
        kept = self._read()
        self.version: Mapping[_Key, Setting] = {setting.key: setting for setting in kept.settings}
        self._saved = self.settings  # what the file has: perhaps settings that do not count yet
        # By recipe and camera, as when the journal was last compared with the configuration.
        self._configured = {"": kept.configured, **kept.configured_by_recipe}

    def of(
        self, name: str, camera: CameraConfig, bundle: Bundle, recipe: str, version: Mapping[_Key, Setting] | None = None
    ) -> wire.ThresholdInUse | None:
        """Return the threshold that decides for a camera; None if region rules decide. Any thread.

        Args:
            name: The camera's name.
            camera: The camera's configuration in the recipe.
            bundle: The bundle that inspects.
            recipe: The recipe's key.
            version: The `version` to read; None reads the present one.
        """
        found = self.version if version is None else version
        return in_use(camera, bundle, found.get((name, bundle.digest, recipe)))

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings, the oldest first."""
        return tuple(self.version.values())

    def save(self, settings: tuple[Setting, ...]) -> None:
        """Write these settings to the file. They count only after `use`.

        Raises:
            OSError: They cannot be written.
        """
        assert self._file is not None, "a station without a journal takes no thresholds"
        new = self._file.with_name(self._file.name + ".new")
        others = {recipe: values for recipe, values in self._configured.items() if recipe}
        content = _File(settings=list(settings), configured=self._configured.get("", {}), configured_by_recipe=others)
        write_synced(new, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        new.rename(self._file)
        self._saved = settings
        sync_folder(self._file.parent)

    def use(self, settings: tuple[Setting, ...]) -> None:
        """Judge by these settings from the next part on."""
        self.version = {setting.key: setting for setting in settings}

    def moved_by(self, recipe: Recipe, bundle: Bundle) -> list[tuple[str, wire.ThresholdInUse, wire.ThresholdInUse]]:
        """Return the cameras whose threshold in this recipe the configuration has changed, with the old and the new one."""
        found: list[tuple[str, wire.ThresholdInUse, wire.ThresholdInUse]] = []
        if recipe.key not in self._configured:
            return found  # it is new
        for name, camera in recipe.cameras.items():
            before = msgspec.structs.replace(camera, score_threshold=self._configured[recipe.key].get(name))
            old, new = self.of(name, before, bundle, recipe.key), self.of(name, camera, bundle, recipe.key)
            if old is not None and new is not None and (old.value, old.origin) != (new.value, new.origin):
                found.append((name, old, new))
        return found

    def remember_configured(self, recipe: Recipe) -> None:
        """Keep the configured thresholds of this recipe, so that `moved_by` finds the next change.

        Raises:
            OSError: They cannot be written.
        """
        configured = {
            name: camera.score_threshold for name, camera in recipe.cameras.items() if camera.score_threshold is not None
        }
        if configured != self._configured.get(recipe.key):
            self._configured = {**self._configured, recipe.key: configured}
            self.save(self._saved)

    def _read(self) -> _File:
        if self._file is None or not self._file.exists():
            return _File(settings=[])
        try:
            data = self._file.read_bytes()
            if (version := msgspec.json.decode(data, type=_Version).schema_version) > SCHEMA_VERSION:
                raise ConfigError(
                    f"{self._file}: a file of version {version}; this program reads versions up to {SCHEMA_VERSION}",
                    hint="update anoseg-edge on this machine",
                )
            return msgspec.json.decode(data, type=_File)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(
                f"{self._file}: the thresholds that were set by hand cannot be read ({error})",
                hint="restore the file from a backup; or delete it, then the configured or calibrated thresholds decide",
            ) from error


@dataclass(frozen=True, slots=True)
class Request:
    """A request for another threshold; None returns to the configured or calibrated one."""

    camera: str
    value: float | None
    asker: Asker
    answer: Answer


class ThresholdChanges:
    """Carries out requests, one after the other: file, then journal, then the line. Any thread calls `ask`."""

    def __init__(self, thresholds: ScoreThresholds, journal: Journal | None) -> None:
        self._thresholds, self._journal = thresholds, journal
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._noted: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._pending: _Pending | None = None

    def ask(self, request: Request) -> None:
        """Request another threshold. The answer says which one decides then."""
        self._requests.put(request)

    def look_after(self, recipe: Recipe, bundle: Bundle) -> bool:
        """Begin a requested change, or finish one that the journal has noted. Called often.

        Returns:
            Whether a threshold has changed.
        """
        if self._pending is not None:
            if self._noted.empty():
                return False
            return self._finish(self._pending, self._noted.get_nowait())
        if not self._requests.empty():
            self._begin(self._requests.get_nowait(), recipe, bundle)
        return False

    def note_configured(self, recipe: Recipe, bundle: Bundle, why: str) -> None:
        """Note in the journal which thresholds the configuration has moved. Nobody knows who wrote it.

        Args:
            recipe: The recipe in force.
            bundle: The bundle that inspects.
            why: On what occasion the configuration was read.
        """
        if self._journal is None:
            return
        for name, old, new in self._thresholds.moved_by(recipe, bundle):
            change = Change(time.time_ns(), "threshold", name, _in_words(old), _in_words(new), CONFIGURATION, why)
            _log_set(change)
            if not note_change(self._journal, change):
                return  # the next start notes it
        try:
            self._thresholds.remember_configured(recipe)
        except OSError as error:
            logs.warning("threshold.not_kept", error=error.strerror, consequence="the next start notes these thresholds again")

    def close(self) -> None:
        """Refuse requests that still wait."""
        waiting = [] if self._pending is None else [self._pending.request]
        while not self._requests.empty():
            waiting.append(self._requests.get_nowait())
        for request in waiting:
            request.answer("the daemon is ending; whether the threshold was set is not known")

    def _begin(self, request: Request, recipe: Recipe, bundle: Bundle) -> None:
        journal, camera = self._journal, recipe.cameras.get(request.camera)
        if camera is None:
            request.answer(f"there is no camera '{request.camera}'; there are: {', '.join(recipe.cameras)}")
            return
        old = self._thresholds.of(request.camera, camera, bundle, recipe.key)
        if old is None:
            request.answer(
                f"camera '{request.camera}' has region rules, which alone decide: change the thresholds of the rules"
            )
            return
        if journal is None:
            hint = "set cameras.NAME.score_threshold in the configuration and reload it, or set journal"
            request.answer(f"without a journal nobody could see who set a threshold, and a restart would forget it\n  {hint}")
            return
        setting = None
        if request.value is not None:
            setting = Setting(
                camera=request.camera,
                digest=bundle.digest,
                recipe=recipe.key,
                bundle=bundle.label,
                value=request.value,
                who=request.asker.who,
                why=request.asker.why,
                at_ns=time.time_ns(),
            )
        new = in_use(camera, bundle, setting)
        assert new is not None
        before = self._thresholds.settings
        after = tuple(s for s in before if s.key != (request.camera, bundle.digest, recipe.key))
        if setting is not None:
            after = (*_without_oldest(after, setting), setting)
        change = Change(
            time.time_ns(), "threshold", request.camera, _in_words(old), _in_words(new), request.asker.who, request.asker.why
        )
        try:
            self._thresholds.save(after)
            journal.note(change, self._noted.put)
        except OSError as error:
            request.answer(f"the threshold cannot be kept ({error.strerror}), so it was not changed")
        except JournalError as error:
            self._refuse(request, before, error)
        else:
            self._pending = _Pending(request, before, after, old, new, change)

    def _finish(self, pending: _Pending, error: Exception | None) -> bool:
        self._pending = None
        request, old, new = pending.request, pending.old, pending.new
        if error is not None:
            self._refuse(request, pending.before, error)
            return False
        self._thresholds.use(pending.after)
        _log_set(pending.change)
        request.answer({"old": msgspec.to_builtins(old), "new": msgspec.to_builtins(new)})
        return True

    def _refuse(self, request: Request, before: tuple[Setting, ...], error: Exception) -> None:
        try:
            self._thresholds.save(before)
        except OSError as failure:
            logs.warning("threshold.not_undone", error=str(failure))
        request.answer(f"the journal cannot record who set the threshold, so it was not changed: {str(error).splitlines()[0]}")


@dataclass(frozen=True, slots=True)
class _Pending:
    """A change that the journal is noting."""

    request: Request
    before: tuple[Setting, ...]
    after: tuple[Setting, ...]
    old: wire.ThresholdInUse
    new: wire.ThresholdInUse
    change: Change


def _without_oldest(settings: tuple[Setting, ...], new: Setting) -> tuple[Setting, ...]:
    """Leave out what the same camera and recipe had for the oldest bundles, if there is no room for a new setting."""
    same = [s for s in settings if (s.camera, s.recipe) == (new.camera, new.recipe)]
    dropped = {s.key for s in same[: max(0, len(same) - KEPT + 1)]}
    return tuple(s for s in settings if s.key not in dropped)


def _log_set(change: Change) -> None:
    logs.info("threshold.set", camera=change.camera, old=change.old, new=change.new, who=change.who, why=change.why)


def _in_words(found: wire.ThresholdInUse) -> str:
    return f"{found.value!r} {found.origin}"
