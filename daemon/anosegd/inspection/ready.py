"""Makes an engine ready for the parts that a configuration describes: their regions and their rules. Any thread.

A network is compiled for each number of tiles, which takes seconds. Parts must not wait for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError, ConfigError, EngineError, RuntimeFailedError
from anoseg_engines.judgement import RuleMaps
from anoseg_engines.placement import Placement, Region
from anosegd.capture.config import DeviceSource
from anosegd.config import CameraConfig
from anosegd.recipe import Recipe


def cameras_at(recipes: Iterable[Recipe], slot: str) -> dict[str, CameraConfig]:
    """Return the cameras of all recipes that share an engine, by their place in the configuration (`cameras.top`)."""
    return {f"{r.at}.{name}": camera for r in recipes if r.slot == slot for name, camera in r.cameras.items()}


def known_regions(cameras: Mapping[str, CameraConfig]) -> dict[str, Region]:
    """Return the regions of the cameras whose region is known before their first image."""
    regions = {name: _known_region(camera) for name, camera in cameras.items()}
    return {name: region for name, region in regions.items() if region is not None}


def make_ready(engine: Engine, cameras: Mapping[str, CameraConfig]) -> dict[Region, Placement]:
    """Compile for every region that is known, keep that ready, and check the rules there.

    Args:
        engine: The engine.
        cameras: The cameras by their place in the configuration, as `cameras_at` returns them.

    Returns:
        The placements of these regions.

    Raises:
        ConfigError: A region or the rules of a camera cannot be used. The message names the camera.
        EngineError: The engine cannot take so many tiles.
    """
    regions = known_regions(cameras)
    placements: dict[Region, Placement] = {}
    for name, region in regions.items():
        with naming(name):
            if region not in placements:
                engine.keep_ready([*placements, region])
                placements[region] = engine.place(region)
            if cameras[name].rules:
                RuleMaps.of(cameras[name].rules, engine.thresholds.pixel, placements[region])
    keep_ready(engine, cameras)
    return placements


def keep_ready(engine: Engine, cameras: Mapping[str, CameraConfig]) -> None:
    """Compile for every region that is known, and keep that ready. Takes seconds. Any thread, while the engine inspects.

    Raises:
        EngineError: The engine cannot take so many tiles.
    """
    regions = known_regions(cameras)
    engine.keep_ready(regions.values(), others=len(cameras) - len(regions))


def warm_up(engine: Engine, placement: Placement) -> None:
    """Run the network once. The first run takes longer, and a part would have to wait for it.

    Raises:
        RuntimeFailedError: The runtime failed.
    """
    region = placement.region
    image = np.zeros((region.y + region.height, region.x + region.width, 3), np.uint8)
    try:
        engine.inspect(image, placement)
    except RuntimeFailedError:
        raise
    except EngineError:
        pass  # the network has no score for a black image, which no part is


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the configuration's key before an error's message. An error of the engine keeps its class and its exit code."""
    try:
        yield
    except EngineError as error:
        raise type(error)(f"{key}: {error.what}", hint=error.hint) from error
    except AnosegError as error:
        raise ConfigError(f"{key}: {error.what}", hint=error.hint) from error


def _known_region(camera: CameraConfig) -> Region | None:
    """Return the part's region. Without one it is the whole image, whose size only some configurations give."""
    source = camera.source
    if camera.region is not None:
        return camera.region
    if isinstance(source, DeviceSource) and source.width is not None and source.height is not None:
        turned = camera.rotate in (90, 270)
        return Region(0, 0, *((source.height, source.width) if turned else (source.width, source.height)))
    return None
