"""Gives a camera's parts their sequence number, part id, deadline and recipe. Runs on the camera's thread."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from anosegd.cameras.presence import Presence
from anosegd.capture.protocol import Origin
from anosegd.config import CameraConfig
from anosegd.part import Part
from anosegd.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Trigger:
    """Describes a software trigger.

    Attributes:
        part_id: The name of the part to make.
        at_ns, at_wall_ns: The time of the trigger; monotonic clock and Unix time.
        number: Its number in the journal, None if it could not be recorded.
        recipe: The recipe that it asks for; None if it asks for none.
    """

    part_id: str
    at_ns: int
    at_wall_ns: int
    number: int | None
    recipe: str | None = None


@dataclass(frozen=True, slots=True)
class InForce:
    """Holds a recipe as one camera uses it.

    Attributes:
        config: The camera's configuration.
        presence: Whether a frame shows a part; None makes every frame a part.
        since_ns: When it came into force; monotonic. `PartMaker` sets it.
    """

    recipe: Recipe
    config: CameraConfig
    presence: Presence | None = None
    since_ns: int = 0


KEPT = 16
"""Recipes of before that a camera knows, for frames that were captured in them and are taken in later."""


class PartMaker:
    """Makes a camera's parts in order. A part belongs to the recipe that was in force at its trigger, else at its capture.

    Attributes:
        frames: Counts the parts and the lost frames from 1.
    """

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.frames = 0
        self._known: tuple[InForce, ...] = (InForce(recipe, recipe.cameras[name]),)  # the last one is in force; replaced
        self._name = name

    @property
    def in_force(self) -> InForce:
        """The recipe in force. Any thread."""
        return self._known[-1]

    def begin(self, in_force: InForce) -> None:
        """Make all parts by this recipe. Before the first part."""
        self._known = (in_force,)

    def use(self, in_force: InForce) -> None:
        """Make the parts that begin from now on by this recipe. Main thread."""
        self._known = (*self._known, replace(in_force, since_ns=time.monotonic_ns()))[-KEPT:]

    def at(self, moment_ns: int) -> InForce:
        """Return the recipe that was in force at this moment. The oldest one that is known, if that is long ago."""
        known = self._known
        return next((then for then in reversed(known) if moment_ns >= then.since_ns), known[0])

    def of_trigger(self, trigger: Trigger) -> Part:
        """Make the part of a software trigger. It has no frame yet."""
        self.frames += 1
        then = self.at(trigger.at_ns)
        return Part(
            camera=self._name,
            sequence=self.frames,
            part_id=trigger.part_id,
            deadline_ns=self._deadline_ns(trigger.at_ns),
            triggered_ns=trigger.at_ns,
            triggered_wall_ns=trigger.at_wall_ns,
            trigger=trigger.number,
            recipe=then.recipe,
            recipe_asked=trigger.recipe,
            settings=then.config,
        )

    def of_frame(self, origin: Origin) -> Part:
        """Make the part of a frame that has no software trigger."""
        self.frames += 1
        then = self.at(origin.captured_ns)
        return Part(
            camera=self._name,
            sequence=self.frames,
            part_id=origin.part_id or f"{self._name}-{self.frames}",
            captured_ns=origin.captured_ns,
            captured_wall_ns=origin.captured_wall_ns,
            read_wall_ns=origin.read_wall_ns,
            deadline_ns=self._deadline_ns(origin.captured_ns),
            source=origin.source,
            recipe=then.recipe,
            settings=then.config,
        )

    def _deadline_ns(self, began_ns: int) -> int | None:
        deadline_ms = self.in_force.config.deadline_ms  # equal in all recipes
        return None if deadline_ms is None else began_ns + round(deadline_ms * 1e6)
