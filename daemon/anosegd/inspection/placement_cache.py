"""Keeps what the inspector computes once for an engine: placements, rule maps, the quality of the golden images.

Runs on the inspector's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from anoseg_engines.engine import Engine
from anoseg_engines.golden import good_parts
from anoseg_engines.judgement import Quality, RuleMaps, reference
from anoseg_engines.placement import Placement, Region
from anosegd.config import CameraConfig
from anosegd.part import Frame

MAX_PLACEMENTS = 32
"""The number of placements is limited: images of a folder may all differ in size, and a placement has data for each pixel.
More are kept only if the configuration has more."""


class PlacementCache:
    """Keeps what is computed once for the engine that inspects. Any thread may read `regions`; only the inspector does more.

    Attributes:
        regions: The regions that parts have had so far.
    """

    def __init__(self) -> None:
        self.regions: tuple[Region, ...] = ()
        self._placements: OrderedDict[Region, Placement] = OrderedDict()
        self._most = MAX_PLACEMENTS
        self._rule_maps: dict[str, tuple[Placement, CameraConfig, RuleMaps]] = {}
        self._golden_quality: Quality | None = None

    def use(self, placements: Mapping[Region, Placement]) -> None:
        """Begin with an engine that has made these placements."""
        self._placements = OrderedDict(placements)
        self._most = max(MAX_PLACEMENTS, len(placements))
        self.regions = tuple(self._placements)
        self._golden_quality = None

    def knows(self, region: Region) -> bool:
        """Return whether the engine is ready for this region; otherwise `of` takes seconds."""
        return region in self._placements

    def of(self, engine: Engine, region: Region) -> Placement:
        """Return the region's placement.

        Raises:
            ConfigError: The region is empty.
            EngineError: The engine cannot take so many tiles.
        """
        placement = self._placements.get(region)
        if placement is None:
            placement = self._placements[region] = engine.place(region)
            if len(self._placements) > self._most:
                self._placements.popitem(last=False)
            self.regions = tuple(self._placements)
        else:
            self._placements.move_to_end(region)
        return placement

    def golden_quality(self, engine: Engine) -> Quality:
        """Return the image quality of the engine's golden images."""
        if self._golden_quality is None:
            self._golden_quality = reference(engine.spec, good_parts(engine.golden_samples()))
        return self._golden_quality

    def rule_maps(self, engine: Engine, name: str, camera: CameraConfig, placement: Placement) -> RuleMaps:
        """Return the camera's rules for this placement."""
        known = self._rule_maps.get(name)
        if known is None or known[0] is not placement or known[1] is not camera:
            made = RuleMaps.of(camera.rules, engine.thresholds.pixel, placement)
            known = self._rule_maps[name] = (placement, camera, made)
        return known[2]


def region_of(frame: Frame) -> Region:
    """Return the camera's configured region, otherwise the whole image."""
    height, width = frame.image.shape[:2]
    camera = frame.part.settings
    return (camera and camera.region) or Region(0, 0, width, height)
