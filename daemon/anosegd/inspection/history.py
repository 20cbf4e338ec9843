"""Remembers which bundles inspected, so that a rollback finds the one before, also after a restart. Runs on the main thread.

The lists are in a file beside the journal, one for each slot (`Recipe.slot`). Bundles of this run are in memory, too: a
rollback to one of them needs no folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.errors import ConfigError
from anoseg_engines.files import sync_folder, write_synced
from anosegd import logs

KEPT = 10
"""Bundles to go back to. One of this run takes as much memory as its files have bytes."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    digest: str
    folder: str


class _File(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: Literal[1] = 1
    bundles: list[_Entry]
    slots: dict[str, list[_Entry]] = {}


@dataclass(frozen=True, slots=True)
class Past:
    """A bundle that inspected.

    Attributes:
        label: Product and version.
        digest: SHA-256 of its manifest.
        folder: Where it was when it was loaded, without links.
        bundle: The bundle if it inspected in this run.
    """

    label: str
    digest: str
    folder: Path
    bundle: Bundle | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Past:
        """Remember a bundle that was just loaded."""
        return cls(bundle.label, bundle.digest, bundle.path.resolve(), bundle)

    def load(self) -> Bundle:
        """Return the bundle.

        Raises:
            ConfigError: It is no longer in its folder.
            EngineError: It is damaged.
        """
        if self.bundle is not None:
            return self.bundle
        found = load_bundle(self.folder)
        if found.digest != self.digest:
            raise ConfigError(
                f"{self.folder}: another bundle than the one that inspected before (digest {self.digest[:12]})",
                hint=f"`anoseg-engine list {self.folder.parent}` shows what is there; `anosegd swap` takes one",
            )
        return found


Inspected = Mapping[str, tuple[Past, ...]]
"""The bundles that inspected, by slot."""


class History:
    """Knows the bundle that inspects, and those that were in its slot before.

    Attributes:
        now: The bundle that inspects.
        before: Those before it, the last one at the end.
        last: The bundle that was in the slot last, before this run or station began; None if not known.
    """

    def __init__(self, file: Path | None, slot: str, bundle: Bundle, before: Inspected | None = None) -> None:
        """Begin with `bundle`. Reads the file unless `before` is given.

        Args:
            file: Where the lists are kept; None keeps them in memory only.
            slot: The slot of the recipe in force.
            bundle: The bundle that inspects.
            before: What `all` was when the station before ended.
        """
        self._file = file
        self._slots = dict(self._read() if before is None else before)
        self._begin(slot, bundle)

    def _begin(self, slot: str, bundle: Bundle) -> None:
        self._slot, self.before = slot, self._slots.get(slot, ())
        self.last = self.before[-1] if self.before else None
        self.now = self._known(bundle)
        while self.before and self.before[-1].digest == bundle.digest:
            self.before = self.before[:-1]

    def switched(self, slot: str, bundle: Bundle) -> None:
        """Note that a recipe has come into force, whose engine has this bundle. Bundles of other slots leave the memory."""
        if slot == self._slot:
            return
        self._slots = {other: tuple(replace(past, bundle=None) for past in pasts) for other, pasts in self.all.items()}
        self._begin(slot, bundle)
        self.save()

    @property
    def all(self) -> Inspected:
        """The bundles of each slot in the order in which they inspected, up to the present one."""
        return {**self._slots, self._slot: (*self.before, self.now)}

    def took_over(self, bundle: Bundle) -> None:
        """Note that another bundle inspects now. The oldest ones are forgotten."""
        if bundle.digest == self.now.digest:
            return
        self.before, self.now = (*self.before, self.now)[-KEPT:], self._known(bundle)
        self.save()

    def went_back(self, bundle: Bundle) -> None:
        """Note that the bundle before inspects again."""
        self.before, self.now = self.before[:-1], replace(self.before[-1], bundle=bundle)
        self.save()

    def save(self) -> None:
        """Write the file. A disk that fails is logged: the list then holds for this run."""
        if self._file is None:
            return
        slots = {
            slot: [_Entry(label=past.label, digest=past.digest, folder=str(past.folder)) for past in pasts]
            for slot, pasts in self.all.items()
        }
        content = _File(bundles=slots.pop("", []), slots=slots)
        new = self._file.with_name(self._file.name + ".new")
        try:
            write_synced(new, msgspec.json.encode(content) + b"\n")
            new.rename(self._file)
            sync_folder(self._file.parent)
        except OSError as error:
            logs.warning("bundles.not_remembered", error=f"{self._file}: {error.strerror}")

    def _known(self, bundle: Bundle) -> Past:
        """Return the entry of this bundle, so that each is in memory once."""
        return next((past for past in self.before if past.digest == bundle.digest and past.bundle), Past.of(bundle))

    def _read(self) -> Inspected:
        if self._file is None or not self._file.exists():
            return {}
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            logs.warning("bundles.not_remembered", error=f"{self._file}: {error}")
            return {}
        return {
            slot: tuple(Past(entry.label, entry.digest, Path(entry.folder)) for entry in entries)[-KEPT:]
            for slot, entries in {"": found.bundles, **found.slots}.items()
        }
