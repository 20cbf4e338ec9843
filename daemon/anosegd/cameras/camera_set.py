"""All cameras of the station: made, started, exchanged when their configuration changes, stopped. Main thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from anosegd.cameras.supervisor import Camera
from anosegd.config import CameraConfig
from anosegd.inspection.queue import Intake
from anosegd.publish.publisher import Publisher

END_S = 4.0
"""How long a camera's thread may take to end: its process is killed, so no camera can hold it."""


class Cameras:
    """`all` may be read by any thread: it is replaced, never changed.

    max_tries: see `Camera`.
    """

    def __init__(
        self,
        wanted: Mapping[str, CameraConfig],
        intake: Intake,
        publisher: Publisher,
        environment: Mapping[str, str],
        max_tries: int | None,
    ) -> None:
        self._intake, self._publisher, self._environment, self._max_tries = intake, publisher, environment, max_tries
        self.all: tuple[Camera, ...] = tuple(self._make(name, config) for name, config in wanted.items())

    def __iter__(self) -> Iterator[Camera]:
        return iter(self.all)

    def start(self) -> None:
        """Start every camera."""
        for camera in self.all:
            camera.start()

    def stop(self, meanwhile: Callable[[], None]) -> None:
        """Stop every camera; `meanwhile` is called now and then until they have ended."""
        _end(self.all, meanwhile)

    def close(self) -> None:
        """Give back what ended cameras hold."""
        for camera in self.all:
            camera.close()

    def change(
        self,
        wanted: Mapping[str, CameraConfig],
        hand_over: Callable[[tuple[Camera, ...]], None],
        meanwhile: Callable[[], None],
    ) -> tuple[list[str], list[Camera]]:
        """Go on with these cameras: those that are as before are left alone, the others end and new ones take their places.
        Frames that wait are inspected as their camera was configured when it took them.

        hand_over: is given the cameras to be; from when it returns no trigger may go to another.

        Returns:
            Names of the cameras that were ended, exchanged or added, and cameras that do not end: then nothing was started.
        """
        before = {camera.name: camera for camera in self.all}
        ending = [camera for camera in self.all if wanted.get(camera.name) != camera.config]
        fresh = {
            name: self._make(name, config)
            for name, config in wanted.items()
            if name not in before or before[name].config != config
        }
        self.all = tuple(fresh.get(name) or before[name] for name in wanted)
        hand_over(self.all)
        _end(ending, meanwhile)
        if stuck := [camera for camera in ending if camera.alive]:
            self.all = (*self.all, *stuck)  # the end of the daemon has to know of them
            return [], stuck
        for camera in ending:
            self._intake.retire(camera.handoff)
            camera.close()
        for name, camera in fresh.items():
            if name in before:
                camera.follow(before[name])
            camera.start()
        return sorted({camera.name for camera in ending} | set(fresh)), []

    def _make(self, name: str, config: CameraConfig) -> Camera:
        self._publisher.add_camera(name)
        handoff = self._intake.add(config.policy, config.queue)
        return Camera(name, config, handoff, self._publisher, self._environment, max_tries=self._max_tries)


def _end(cameras: tuple[Camera, ...] | list[Camera], meanwhile: Callable[[], None]) -> None:
    """Stop all at once, then wait for them."""
    for camera in cameras:
        camera.stop()
    give_up_at = time.monotonic() + END_S
    for camera in cameras:
        while not camera.join(0.1) and time.monotonic() < give_up_at:
            meanwhile()
