"""Holds the engines that are loaded: the one of the recipe in force, and those that wait for their recipes. Any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.placement import Placement, Region
from anosegd import wire
from anosegd.inspection.failures import Failures
from anosegd.inspection.placement_cache import PlacementCache
from anosegd.inspection.selftest import SelfTest


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEngine:
    """Holds an engine that has passed its self-test, with what the inspector keeps for it.

    Attributes:
        name: Its name in verdicts and state.
        placements, failures: Belong to the inspector's thread.
        self_test: Runs the golden images again while its recipe is in force. While they fail, it inspects no part.
    """

    engine: Engine
    name: wire.EngineName
    placements: PlacementCache
    failures: Failures
    self_test: SelfTest

    @classmethod
    def of(cls, engine: Engine, placements: Mapping[Region, Placement], prove_every_min: float | None) -> LoadedEngine:
        """Begin with an engine that has made these placements."""
        cache = PlacementCache()
        cache.use(placements)
        return cls(engine, engine_name(engine.bundle, engine.runtime_description), cache, Failures(), SelfTest(prove_every_min))


def engine_name(bundle: Bundle, runtime: str) -> wire.EngineName:
    """Return the engine's name in verdicts and state."""
    return wire.EngineName(name=bundle.manifest.product, version=bundle.manifest.version, digest=bundle.digest, runtime=runtime)


class LoadedEngines:
    """The loaded engines by slot (`Recipe.slot`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_slot: OrderedDict[str, LoadedEngine] = OrderedDict()  # the one used last at the end

    def get(self, slot: str) -> LoadedEngine | None:
        """Return the engine of a slot; None if it is not loaded."""
        with self._lock:
            return self._by_slot.get(slot)

    def put(self, slot: str, loaded: LoadedEngine) -> LoadedEngine | None:
        """Replace the engine of a slot. Return the one before."""
        with self._lock:
            before = self._by_slot.get(slot)
            self._by_slot[slot] = loaded
            self._by_slot.move_to_end(slot)
            return before

    def touch(self, slot: str) -> None:
        """Note that the engine of this slot is used."""
        with self._lock:
            if slot in self._by_slot:
                self._by_slot.move_to_end(slot)

    def take(self, slot: str) -> LoadedEngine | None:
        """Remove the engine of a slot, and return it."""
        with self._lock:
            return self._by_slot.pop(slot, None)

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots with a loaded engine, the one used longest ago first."""
        with self._lock:
            return tuple(self._by_slot)
