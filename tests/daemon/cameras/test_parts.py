"""Which recipe makes a part, when recipes change while its frame is decoded."""

import time
from dataclasses import replace
from unittest.mock import Mock

import msgspec
import pytest

from anoseg_engines.errors import ConfigError
from anosegd.cameras import CameraSet, InForce
from anosegd.cameras.parts import PartMaker
from anosegd.capture.config import DemoSource
from anosegd.capture.protocol import Origin
from anosegd.config import CameraConfig
from anosegd.config_cameras import PresenceConfig
from anosegd.inspection.queue import InspectionQueue
from anosegd.recipe import Recipe


def recipe(name: str) -> Recipe:
    cameras = {"top": CameraConfig(source=DemoSource(), recipe=name)}
    return Recipe(name=name, key=name, bundle="b", slot="", at="cameras", cameras=cameras)


LID, BASE, SMALL = recipe("lid"), recipe("base"), recipe("small")


def made_by(parts: PartMaker, captured_ns: int) -> str:
    origin = Origin(position=0, source="0.png", captured_ns=captured_ns, captured_wall_ns=captured_ns, read_wall_ns=captured_ns)
    found = parts.of_frame(origin).recipe
    assert found is not None
    return found.name


def use(parts: PartMaker, now: Recipe) -> int:
    """Return a moment at which it is in force."""
    parts.use(InForce(now, now.cameras["top"]))
    return time.monotonic_ns()


def test_a_frame_is_made_into_a_part_by_the_recipe_of_its_capture() -> None:
    """Also if two recipes came into force since."""
    parts = PartMaker("top", LID)
    lid = time.monotonic_ns()
    base, small = use(parts, BASE), use(parts, SMALL)
    assert [made_by(parts, moment) for moment in (lid, base, small)] == ["lid", "base", "small"]


def test_a_switch_that_a_camera_refuses_makes_no_part_of_any_camera() -> None:
    """The file of one camera's empty place is gone: the other one makes no part by the new recipe."""
    side = CameraConfig(source=DemoSource(seed=2), presence=PresenceConfig(empty="/none/empty.png"))
    broken = replace(BASE, cameras={**BASE.cameras, "side": side})
    lid = replace(LID, cameras={**LID.cameras, "side": msgspec.structs.replace(side, source=DemoSource(), presence=None)})
    publisher, pauses = Mock(), Mock()
    cameras = CameraSet(lid, queue=InspectionQueue(), publisher=publisher, pauses=pauses, environment={}, max_tries=None)
    top = cameras.all[0]
    before = top.in_force
    meanwhile: list[InForce] = []
    publisher.add_camera.side_effect = lambda _: meanwhile.append(top.in_force)  # while the new camera is made
    with pytest.raises(ConfigError, match="empty"):
        cameras.switch(broken, {"top": InForce(broken, broken.cameras["top"])}, Mock(), Mock())
    assert [meanwhile, top.in_force] == [[before], before]
