"""Reads frames from the simulated production line. Runs in the capture process."""

from __future__ import annotations

from anoseg_engines.images import Image, as_image
from anosegd.capture.config import DemoSource
from anosegd.capture.sources.base import Shot, StillSource
from anosegd.demo.line import DemoLine


class Demo(StillSource):
    """Renders the parts of the demo line, one a read."""

    def __init__(self, config: DemoSource) -> None:
        self._line = DemoLine(config.seed)
        self._parts = config.parts
        self.fps: float | None = config.fps
        self.description = f"demo line, seed {config.seed}"

    def open(self) -> None:
        """There is nothing to open."""

    def read(self, position: int, into: Image | None) -> Shot | None:
        """Render one part."""
        if self._parts is not None and position >= self._parts:
            return None
        part = self._line.part(position)
        return Shot(as_image(part.image), part_id=part.part_id)
