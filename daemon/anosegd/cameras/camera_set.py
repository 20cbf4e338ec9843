"""Makes, starts, replaces and stops the station's cameras. Runs on the main thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from anosegd.cameras.logins import Logins
from anosegd.cameras.parts import InForce
from anosegd.cameras.supervisor import CameraSupervisor
from anosegd.config import CameraConfig
from anosegd.inspection.pauses import Pauses
from anosegd.inspection.queue import InspectionQueue
from anosegd.publish import Publisher
from anosegd.recipe import Recipe

END_S = 4.0
"""How long a camera's thread may take to end. Its process is killed, so no camera can hold it longer."""


class CameraSet:
    """Holds the cameras. Any thread may read `all`, because it is replaced and never changed.

    Args:
        recipe: The recipe in force, which has the cameras' configurations.
        queue: Where frames wait for inspection.
        publisher: Where parts are opened.
        pauses: Which cameras are paused.
        environment: The environment of the capture processes.
        max_tries: As of `CameraSupervisor`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        queue: InspectionQueue,
        publisher: Publisher,
        pauses: Pauses,
        environment: Mapping[str, str],
        max_tries: int | None,
    ) -> None:
        self._queue, self._publisher, self._environment, self._max_tries = queue, publisher, environment, max_tries
        self._pauses, self._logins = pauses, Logins()
        self.all: tuple[CameraSupervisor, ...] = tuple(self._make(name, recipe) for name in recipe.cameras)

    def __iter__(self) -> Iterator[CameraSupervisor]:
        return iter(self.all)

    def load(self) -> None:
        """Read the files that the configurations name. Call it before the start.

        Raises:
            ConfigError: A file cannot be used.
        """
        for camera in self.all:
            camera.load()

    def start(self) -> None:
        """Start every camera."""
        for camera in self.all:
            camera.start()

    def stop(self, meanwhile: Callable[[], None]) -> None:
        """Stop every camera; `meanwhile` is called repeatedly until they have ended."""
        _end(self.all, meanwhile)

    def close(self) -> None:
        """Release what ended cameras hold."""
        for camera in self.all:
            camera.close()

    def switch(
        self,
        recipe: Recipe,
        prepared: Mapping[str, InForce],
        hand_over: Callable[[tuple[CameraSupervisor, ...]], None],
        meanwhile: Callable[[], None],
    ) -> tuple[list[str], list[CameraSupervisor]]:
        """Make the parts that begin from now on by another recipe. Cameras that it reads otherwise are opened again.

        Args:
            recipe: The recipe.
            prepared: What `in_force` returned for each camera.
            hand_over, meanwhile: As of `change`.

        Returns:
            As `change`.

        Raises:
            ConfigError: As `change`. Nothing has changed.
        """
        names = [camera.name for camera in self.all if reads_otherwise(camera.config, recipe.cameras[camera.name])]
        fresh = self._load_new(recipe, names)
        return self._replace(recipe, fresh, prepared, hand_over=hand_over, meanwhile=meanwhile)

    def change(
        self,
        recipe: Recipe,
        hand_over: Callable[[tuple[CameraSupervisor, ...]], None],
        meanwhile: Callable[[], None],
    ) -> tuple[list[str], list[CameraSupervisor]]:
        """Change the cameras. Unchanged cameras go on, the others end, and new cameras take their places.

        An unchanged camera that cannot go on by itself is opened again, see `CameraSupervisor.reload_opens_again`.
        Frames that wait are inspected with the configuration under which they were captured.

        Args:
            recipe: The recipe in force, with the new configurations.
            hand_over: Called with the new cameras; after it has returned, triggers go to these only.
            meanwhile: Called repeatedly while cameras end.

        Returns:
            The names of cameras that ended, were opened again or are new; and cameras that do not end, in which case none was
            started.

        Raises:
            ConfigError: A file that a new configuration names cannot be used. Nothing has changed.
        """
        before = {camera.name: camera for camera in self.all}
        names = [
            name
            for name, config in recipe.cameras.items()
            if name not in before or before[name].config != config or before[name].reload_opens_again
        ]
        fresh = self._load_new(recipe, names)
        same = {name: replace(camera.in_force, recipe=recipe) for name, camera in before.items()}
        return self._replace(recipe, fresh, same, hand_over=hand_over, meanwhile=meanwhile)

    def _load_new(self, recipe: Recipe, names: Sequence[str]) -> dict[str, CameraSupervisor]:
        """Make these cameras and read the files that the recipe names for them, while those of before go on.

        Raises:
            ConfigError: A file cannot be used.
        """
        fresh = {name: self._make(name, recipe) for name in names}
        try:
            for camera in fresh.values():
                camera.load()
        except BaseException:
            for camera in fresh.values():
                self._queue.retire(camera.queue)
            raise
        return fresh

    def _replace(
        self,
        recipe: Recipe,
        fresh: Mapping[str, CameraSupervisor],
        in_force: Mapping[str, InForce],
        *,
        hand_over: Callable[[tuple[CameraSupervisor, ...]], None],
        meanwhile: Callable[[], None],
    ) -> tuple[list[str], list[CameraSupervisor]]:
        """Put a recipe into force. `fresh` are its new cameras, whose files are read; the others go on by `in_force`."""
        before = {camera.name: camera for camera in self.all}
        ending = [camera for camera in self.all if camera.name in fresh or camera.name not in recipe.cameras]
        for camera in self.all:
            if camera not in ending:
                camera.use(in_force[camera.name])
        self.all = tuple(fresh.get(name) or before[name] for name in recipe.cameras)
        if not fresh and not ending:
            return [], []
        hand_over(self.all)
        _end(ending, meanwhile)
        if stuck := [camera for camera in ending if camera.alive]:
            self.all = (*self.all, *stuck)  # the daemon's end reports them
            return [], stuck
        for camera in ending:
            self._queue.retire(camera.queue)
            camera.close()
        for name, camera in fresh.items():
            if name in before:
                camera.continue_from(before[name])
            camera.start()
        return sorted({camera.name for camera in ending} | set(fresh)), []

    def _make(self, name: str, recipe: Recipe) -> CameraSupervisor:
        self._publisher.add_camera(name)
        config = recipe.cameras[name]
        return CameraSupervisor(
            name,
            recipe,
            queue=self._queue.add(config.policy, config.queue),
            publisher=self._publisher,
            pause=lambda: self._pauses.of(name),
            environment=self._environment,
            logins=self._logins,
            max_tries=self._max_tries,
        )


def reads_otherwise(before: CameraConfig, after: CameraConfig) -> bool:
    """Return whether a camera has to be opened again for other settings of its source."""
    return before.source != after.source


def _end(cameras: Sequence[CameraSupervisor], meanwhile: Callable[[], None]) -> None:
    """Stop all these cameras at the same time, then wait until they have ended."""
    for camera in cameras:
        camera.stop()
    give_up_at = time.monotonic() + END_S
    for camera in cameras:
        while not camera.join(0.1) and time.monotonic() < give_up_at:
            meanwhile()
