"""`anoseg-engine release` and `list` as a user types them."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from support.commands import run_here
from support.permissions import locked
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle import Origin, released_versions
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.cli import main

FIGURES = {"synthetic_image_auroc": 0.9812, "synthetic_defects_caught": 0.87}


def engine(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(main, "anoseg-engine", *arguments)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A training, its calibration, and a calibration of rules: three candidates."""
    store = tmp_path / "tiny"
    first = write_bundle(store, dataclasses.replace(tiny_draft(), metrics=FIGURES, origin=Origin(command="fit")))
    for command in ("calibrate", "calibrate-rules"):
        origin = Origin(command=command, parent_version=1, parent_digest=first.digest)
        write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.4, origin=origin))
    return store


def states(store: Path) -> list[str]:
    return [line.split()[-1] for line in engine("list", store).stdout.splitlines() if line.split()[0].isdigit()]


def test_release_makes_a_version_current(store: Path) -> None:
    """It says what was current before; to release it again changes nothing."""
    assert engine("release", store / "1").stdout.startswith(f"{store}: version 1 is current\n")
    assert engine("release", store / "2").stdout.startswith(f"{store}: version 2 is current (before: version 1)\n")
    assert engine("release", store / "2").stdout == f"{store}: version 2 is current already\n"
    assert states(store) == ["released", "current", "candidate"]
    assert engine("release", store / "1").returncode == 0
    assert states(store) == ["current", "candidate", "candidate"]


def test_release_needs_a_whole_version(store: Path, tmp_path: Path) -> None:
    """The folder alone is no choice, and a damaged or missing bundle is not released."""
    done = engine("release", store)
    assert (done.returncode, f"anoseg-engine release {store / '3'}" in done.stderr) == (2, True)
    (store / "2" / "model.onnx").unlink()
    assert engine("release", store / "2").returncode == 3
    assert engine("release", store / "9").returncode == 2
    (store / "3").rename(tmp_path / "loose")
    done = engine("release", tmp_path / "loose")
    assert (done.returncode, "is not in a store" in done.stderr) == (2, True)
    assert not list(store.glob("*.json"))


def test_a_store_that_may_not_be_read_is_named(store: Path) -> None:
    """With what to do, whatever part of it is locked."""
    for folder in (store.parent, store, store / "3"):
        with locked(folder):
            for done in (engine("release", store), engine("release", store / "3"), engine("list", store)):
                assert done.returncode == 3, done.stderr
                assert "(Permission denied)\n  give it to the daemon's group" in done.stderr


def test_list_shows_every_version(store: Path) -> None:
    """Date, origin, parent, thresholds, figures and state; the same as JSON."""
    engine("release", store / "1")
    table = engine("list", store).stdout
    for word in ("fit", "calibrate", "0.5000", "0.4000", "0.981", "87%", "current", "candidate"):
        assert word in table
    first, second, third = json.loads(engine("list", store, "--json").stdout)
    assert (first["origin"], first["parent"], first["current"], first["released"]) == ("fit", None, True, True)
    assert (second["origin"], second["parent"], second["current"], second["released"]) == ("calibrate", 1, False, False)
    assert third["origin"] == "calibrate-rules"
    assert (first["synthetic_image_auroc"], first["score_threshold"], second["score_threshold"]) == (0.9812, 0.5, 0.4)
    assert first["created"]
    assert first["released_at"]


def test_list_names_what_is_damaged_and_what_is_current_instead(store: Path) -> None:
    """A released version whose file is missing is not current; the message names the file."""
    for version in (1, 2):
        engine("release", store / str(version))
    (store / "2" / "model.onnx").unlink()
    done = engine("list", store)
    assert "current" in done.stdout.splitlines()[2]
    assert f"version 2: {store / '2' / 'model.onnx'}: cannot be read" in done.stdout.replace("\n", "")


def test_list_says_how_to_release_a_first_version(store: Path, tmp_path: Path) -> None:
    """Without a release the last line is the command; a folder above it names what is there."""
    assert engine("list", store).stdout.splitlines()[-1].endswith(f"run: anoseg-engine release {store}/VERSION")
    assert released_versions(tmp_path) == []
    done = engine("list", tmp_path)
    assert (done.returncode, f"there are: {store}" in done.stderr) == (2, True)
    assert engine("list", tmp_path / "none").returncode == 2
