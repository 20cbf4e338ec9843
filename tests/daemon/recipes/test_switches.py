"""The order in which requests and reloads are carried out, without a station."""

import time
from typing import Any
from unittest.mock import Mock

from anoseg_engines.errors import ConfigError
from anosegd.recipe import Recipe
from anosegd.recipes import RecipeSwitches
from anosegd.worker import NOBODY


def recipe(name: str) -> Recipe:
    return Recipe(name=name, key=name, bundle=name, slot=name, at="cameras", cameras={})


def test_a_switch_that_was_requested_during_a_reload_gets_a_new_engine() -> None:
    """The engines of before are unloaded first: they have the bundles, regions and rules of the old configuration."""
    recipes = {name: recipe(name) for name in ("lid", "base")}
    shelf: Any = Mock()
    shelf.config.warm = 4
    shelf.inspector.loaded.slots = ("base", "lid")
    shelf.load.side_effect = ConfigError("refused by the test")
    switches = RecipeSwitches(recipes, shelf, Mock(), remembered=Mock(), journal=None, test=False)
    answers: list[Any] = []
    switches.ask("base", NOBODY, answers.append)
    switches.reloaded(recipes)
    give_up_at = time.monotonic() + 30
    while not answers and time.monotonic() < give_up_at:
        assert switches.look_after() is None
        time.sleep(0.001)
    assert "refused by the test" in answers[0]
    assert [call[0] for call in shelf.method_calls] == ["start_over", "load"]
