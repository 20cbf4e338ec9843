"""Which recipe judges a part: the one in which it began, unless its trigger asked for another one."""

from dataclasses import replace

import msgspec
import pytest

from anosegd.capture.config import GenicamSource
from anosegd.config import CameraConfig
from anosegd.inspection.recipe_of_part import recipe_of
from anosegd.outcome import Unknown
from anosegd.part import Part
from anosegd.recipe import Recipe


def recipe(name: str, exposure_us: float = 100) -> Recipe:
    camera = CameraConfig(source=GenicamSource(camera="x", exposure_us=exposure_us), recipe=name)
    return Recipe(name=name, key=name, bundle="b", slot="", at="cameras", cameras={"top": camera})


LID, BASE, DARK = recipe("lid"), recipe("base"), recipe("dark", 200)


def part(began: Recipe, asked: str | None) -> Part:
    return Part(
        camera="top", sequence=1, part_id="", recipe=began, recipe_asked=asked, settings=began.cameras["top"], captured_ns=1
    )


@pytest.mark.parametrize(
    ("began", "asked", "in_force", "judges"),
    [
        (LID, None, LID, "lid"),
        (LID, None, BASE, "lid"),
        (LID, "lid", BASE, "lid"),
        (LID, "base", BASE, "base"),
        (LID, "base", LID, None),
        (LID, "nonsense", BASE, None),
        (LID, "dark", DARK, None),  # its frame was taken with another exposure
    ],
)
def test_the_recipe_that_judges(began: Recipe, asked: str | None, in_force: Recipe, judges: str | None) -> None:
    """None is UNKNOWN: recipe."""
    found = recipe_of(part(began, asked), in_force)
    if judges is None:
        assert isinstance(found, Unknown)
        assert found.reason == "recipe"
    else:
        assert isinstance(found, Part)
        assert found.recipe is not None
        assert (found.recipe.name, found.settings) == (judges, found.recipe.cameras["top"])


def test_without_recipes_a_trigger_asks_for_the_label_of_its_camera() -> None:
    """The default recipe then has the labels of all cameras as its name."""
    camera = msgspec.structs.replace(LID.cameras["top"], recipe="one")
    labels = replace(LID, name="one, two", cameras={"top": camera})
    assert isinstance(recipe_of(part(labels, "one"), labels), Part)
    assert isinstance(recipe_of(part(labels, "two"), labels), Unknown)
