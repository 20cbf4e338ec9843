"""What a camera's intake remembers of the frames that it takes in."""

from unittest.mock import Mock

import pytest

from anosegd.cameras.intake import Intake
from anosegd.capture.config import DemoSource
from anosegd.capture.protocol import Origin, Uncaptured
from anosegd.config import CameraConfig
from anosegd.inspection.pauses import Pause
from anosegd.outcome import Unknown
from anosegd.recipe import Recipe

RECIPE = Recipe(name="", key="", bundle="b", slot="", at="cameras", cameras={"top": CameraConfig(source=DemoSource())})


@pytest.mark.parametrize("pause", [None, Mock(spec=Pause, unknown=Unknown("paused", "cleaning"))])
def test_the_size_is_wrong_until_a_frame_has_the_right_one(pause: Pause | None) -> None:
    """Also in a pause. A frame that could not be read says nothing, and a repeated one equals a frame of the right size."""
    intake = Intake("top", RECIPE, Mock(), Mock(), lambda: pause)

    def comes(reason: str) -> bool:
        intake.uncaptured(Uncaptured(Origin(position=0, captured_ns=0, captured_wall_ns=0, read_wall_ns=0), reason, "why"))
        return intake.wrong_size

    assert [comes(reason) for reason in ("unreadable", "image_size", "unreadable", "overrun")] == [False, True, True, True]
    assert not comes("repeated_frame")
    assert comes("image_size")
    intake.repeats()
    assert not intake.wrong_size
