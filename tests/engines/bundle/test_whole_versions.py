"""STORE/NAME means the newest whole version: one that is being copied is passed over, and everybody says so."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import run_here
from support.tiny_bundle import tiny_draft, write_tiny_bundle

from anoseg_engines.bundle import MANIFEST, MODEL, find_bundle, load_bundle, note_on_candidates, release_version
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.cli import main
from anoseg_engines.errors import ConfigError, EngineError

Damage = Callable[[Path], object]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of before there were releases, with three versions."""
    store = tmp_path / "store" / "tiny"
    for _ in range(3):
        write_tiny_bundle(store)
    return store


def a_golden_image(version: Path) -> Path:
    return next((version / "golden").iterdir())


LACKING: dict[str, Damage] = {
    "network": lambda v: (v / MODEL).unlink(),
    "golden image": lambda v: a_golden_image(v).unlink(),
    "golden folder": lambda v: shutil.rmtree(v / "golden"),
    "manifest": lambda v: (v / MANIFEST).unlink(),
    "a link to nothing": lambda v: ((v / MODEL).unlink(), (v / MODEL).symlink_to("gone")),
    "a file for a folder": lambda v: (shutil.rmtree(v / "golden"), (v / "golden").write_text("x")),
    "everything": lambda v: (shutil.rmtree(v), v.mkdir()),
}


@pytest.mark.parametrize("released", [False, True], ids=["store of before", "store with releases"])
@pytest.mark.parametrize("damage", LACKING.values(), ids=LACKING.keys())
def test_a_version_that_lacks_files_is_passed_over(store: Path, damage: Damage, released: bool) -> None:
    """The whole version before it is used, and the bundle says which was not and why."""
    if released:
        for n in (1, 2, 3):
            release_version(store, n, load_bundle(store / str(n)).digest)
    damage(store / "3")
    bundle = load_bundle(store)
    assert bundle.path == find_bundle(store) == store / "2"
    assert "version 3 lacks " in str(bundle.passed_over)
    assert "version 2 is used instead" in str(note_on_candidates(store))
    assert load_bundle(store / "2").passed_over is None
    listed = run_here(main, "anoseg-engine", "list", store, "--json")
    assert listed.returncode == 0
    current = [line for line in listed.stdout.split("}") if '"current": true' in line]
    assert len(current) == 1
    assert '"version": 2' in current[0]


def test_several_are_passed_over(store: Path) -> None:
    """Each is named."""
    (store / "3" / MODEL).unlink()
    a_golden_image(store / "2").unlink()
    bundle = load_bundle(store)
    assert bundle.path == store / "1"
    assert "version 2 lacks golden/" in str(bundle.passed_over)
    assert f"version 3 lacks {MODEL}" in str(bundle.passed_over)


DAMAGED: dict[str, Damage] = {
    "another network": lambda v: (v / MODEL).write_bytes(b"other"),
    "network of no bytes": lambda v: (v / MODEL).write_bytes(b""),
    "network cut": lambda v: (v / MODEL).write_bytes((v / MODEL).read_bytes()[:-1]),
    "manifest cut": lambda v: (v / MANIFEST).write_bytes((v / MANIFEST).read_bytes()[:100]),
    "manifest changed": lambda v: (v / MANIFEST).write_bytes((v / MANIFEST).read_bytes().replace(b"tiny", b"tint")),
}


@pytest.mark.parametrize("released", [False, True], ids=["store of before", "store with releases"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_version_is_refused_and_not_passed_over(store: Path, damage: Damage, released: bool) -> None:
    """Whoever changed a file must know. The exit code is 3."""
    if released:
        for n in (1, 2, 3):
            release_version(store, n, load_bundle(store / str(n)).digest)
    damage(store / "3")
    with pytest.raises(EngineError) as caught:
        load_bundle(store)
    assert caught.value.exit_code == 3
    assert str(store / "3") in caught.value.what
    assert run_here(main, "anoseg-engine", "list", store).returncode == 0


def test_another_bundle_in_place_of_the_released_one_is_passed_over(store: Path) -> None:
    """Nobody released it, and everybody says so."""
    for n in (2, 3):
        release_version(store, n, load_bundle(store / str(n)).digest)
    shutil.rmtree(store / "3")
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.4))
    bundle = load_bundle(store)
    assert bundle.path == store / "2"
    assert "version 3 is not the one that was released" in str(bundle.passed_over)
    release_version(store, 3, load_bundle(store / "3").digest)
    assert load_bundle(store).passed_over is None


def test_a_version_named_by_its_number_is_not_passed_over(store: Path) -> None:
    """Nor is the only one."""
    (store / "3" / MODEL).unlink()
    with pytest.raises(EngineError, match=MODEL):
        load_bundle(store / "3")
    for n in "12":
        shutil.rmtree(store / n)
    with pytest.raises(EngineError, match=MODEL):
        load_bundle(store)
    (store / "3" / MANIFEST).unlink()
    with pytest.raises(ConfigError, match=r"no bundle in this folder"):
        load_bundle(store)


def test_a_folder_without_a_manifest_is_nothing_in_a_store_with_releases(store: Path) -> None:
    """Nobody released it."""
    release_version(store, 3, load_bundle(store / "3").digest)
    (store / "4").mkdir()
    assert load_bundle(store).passed_over is None


@pytest.mark.parametrize("command", ["verify", "inspect", "bench"])
def test_commands_say_it(store: Path, command: str) -> None:
    """The remark goes to stderr, so that JSON on stdout stays JSON."""
    (store / "3" / MODEL).unlink()
    arguments = ("--seconds", "0.01", "--max-batch", "1", "--runtime", "cpu-f32") if command == "bench" else ()
    done = run_here(main, "anoseg-engine", command, store, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"version 3 lacks {MODEL}" in done.stderr


ODD: dict[str, tuple[Damage, str]] = {
    "a link to nothing": (lambda s: (s / "4").symlink_to("gone"), "4 is a link to something that does not exist"),
    "a leading zero": (lambda s: shutil.copytree(s / "3", s / "04"), "04 is not a version's name (4 would be)"),
    "an empty folder": (lambda s: (s / "4").mkdir(), f"version 4 lacks {MANIFEST}"),
    "a file": (lambda s: (s / "4").touch(), "4 is not a folder"),
    "another version's files": (lambda s: shutil.copytree(s / "1", s / "4"), "the folder 4 contains version 1"),
}


@pytest.mark.parametrize(("damage", "said"), ODD.values(), ids=ODD.keys())
def test_what_is_named_like_a_version_but_is_none(store: Path, damage: Damage, said: str) -> None:
    """It is passed over, and everybody says so. The next version that is written leaves it alone."""
    damage(store)
    bundle = load_bundle(store)
    assert bundle.path == store / "3"
    assert f"{said}; version 3 is used instead" in str(bundle.passed_over)
    taken = (store / "4").is_symlink() or (store / "4").exists()
    assert write_tiny_bundle(store).path == store / ("5" if taken else "4")


def test_a_half_copied_version_does_not_stop_a_training(store: Path) -> None:
    """Its folder is not empty, so a new version cannot take its number."""
    shutil.copytree(store / "3" / "golden", store / "4" / "golden")
    assert write_tiny_bundle(store).path == store / "5"


def test_a_released_version_whose_files_were_mixed_up(store: Path) -> None:
    """The folder holds another bundle than the released one."""
    for n in (1, 2, 3):
        release_version(store, n, load_bundle(store / str(n)).digest)
    shutil.rmtree(store / "3")
    shutil.copytree(store / "1", store / "3")
    bundle = load_bundle(store)
    assert bundle.path == store / "2"
    assert "the folder 3 contains version 1; version 2 is used instead" in str(bundle.passed_over)


def test_the_only_version_in_another_versions_folder_is_used(store: Path) -> None:
    """There is nothing else, and everybody says so, also if the folder is named."""
    for n in "12":
        shutil.rmtree(store / n)
    (store / "3").rename(store / "5")
    for path in (store, store / "5"):
        bundle = load_bundle(path)
        assert bundle.path == store / "5"
        assert "folder 5 contains version 3, which is used" in str(bundle.passed_over).replace("5: this folder", "folder 5")


def test_a_bundle_may_be_in_a_folder_of_any_name(store: Path) -> None:
    """Such as a date."""
    for name in ("20261128", "copy", "3.old"):
        shutil.copytree(store / "3", store.parent / name)
        assert load_bundle(store.parent / name).passed_over is None
