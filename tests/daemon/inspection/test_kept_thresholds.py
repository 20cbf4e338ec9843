"""Which thresholds the file beside the journal keeps."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.bundle_writer import write_bundle
from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig
from anosegd.inspection.score_thresholds import KEPT, Request, ScoreThresholds, ThresholdChanges
from anosegd.recipe import Recipe
from anosegd.worker import Asker

ANNA = Asker("Anna", "test")


def recipe(name: str, threshold: float | None = None) -> Recipe:
    cameras = {"top": CameraConfig(source=DemoSource(), recipe=name, score_threshold=threshold)}
    return Recipe(name=name, key=name, bundle="b", slot="", at="cameras", cameras=cameras)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "tiny", tiny_draft())
    return load_bundle(tmp_path / "tiny")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.db.thresholds"


def kept(file: Path) -> dict[tuple[str, str], float]:
    return {(s.digest, s.recipe): s.value for s in ScoreThresholds(file).settings}


def test_a_threshold_is_kept_if_the_configuration_is_read_meanwhile(bundle: Bundle, file: Path) -> None:
    """The journal notes the person's threshold while a reload keeps the configured ones in the same file."""
    noted: list[Callable[[Exception | None], None]] = []
    journal: Any = Mock()
    journal.note = lambda change, done: noted.append(done)
    changes = ThresholdChanges(ScoreThresholds(file), journal)
    answers: list[Any] = []
    changes.ask(Request("top", 0.3, ANNA, answers.append))
    changes.look_after(recipe("lid"), bundle)
    changes.note_configured(recipe("lid", 0.7), bundle, "read at a reload")
    assert kept(file) == {(bundle.digest, "lid"): 0.3}
    noted[0](None)
    assert changes.look_after(recipe("lid"), bundle)
    assert isinstance(answers[0], dict)
    assert kept(file) == {(bundle.digest, "lid"): 0.3}


def test_no_threshold_is_dropped_that_may_be_in_use(bundle: Bundle, file: Path) -> None:
    """However many bundles another recipe has had; of this recipe, the oldest bundles' are dropped."""
    journal: Any = Mock()
    journal.note = lambda change, done: done(None)
    changes = ThresholdChanges(ScoreThresholds(file), journal)

    def set_threshold(name: str, number: int) -> str:
        manifest = msgspec.structs.replace(bundle.manifest, version=number)
        other = dataclasses.replace(bundle, manifest=manifest, digest=f"{number:064}")
        answers: list[Any] = []
        changes.ask(Request("top", 0.3, ANNA, answers.append))
        changes.look_after(recipe(name), other)
        changes.look_after(recipe(name), other)
        assert isinstance(answers[0], dict)
        return other.digest

    first = set_threshold("lid", 1)
    last = [set_threshold("base", number) for number in range(2, 250)]
    assert list(kept(file)) == [(first, "lid"), *((digest, "base") for digest in last[-KEPT:])]
