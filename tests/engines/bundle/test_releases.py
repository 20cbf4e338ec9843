"""Candidates and releases: which version STORE/NAME means, whatever happens to the store."""

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.tiny_bundle import tiny_draft, write_tiny_bundle

from anoseg_engines.bundle import (
    MANIFEST,
    RELEASES,
    Bundle,
    Origin,
    find_bundle,
    load_bundle,
    read_releases,
    release_version,
    released_versions,
)
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.errors import AnosegError, ConfigError, EngineError

PROGRAM = """
import sys
from pathlib import Path
from anoseg_engines.bundle import load_bundle, release_version
for version in sys.argv[2:]:
    bundle = load_bundle(Path(sys.argv[1]) / version)
    release_version(Path(sys.argv[1]), int(version), bundle.digest)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store" / "tiny"


def candidate(store: Path) -> Bundle:
    """Write the next version as `fit` does."""
    return write_bundle(store, dataclasses.replace(tiny_draft(), origin=Origin(command="fit")))


def released(bundle: Bundle) -> Bundle:
    release_version(bundle.path.parent, bundle.manifest.version, bundle.digest)
    return bundle


def test_a_list_of_a_newer_program_says_update(store: Path) -> None:
    """Whatever else is in it, the message says that this program is too old for it."""
    released(candidate(store))
    (store / RELEASES).write_bytes(b'{"schema_version": 2, "new": 1, "releases": [{"who": 1}]}')
    with pytest.raises(EngineError, match=r"(?s)written by a newer program.*update"):
        find_bundle(store)


def test_a_store_from_before_releases_counts_as_released(store: Path) -> None:
    """Bundles without an origin need no release: the newest is current, as it was before there were releases."""
    for _ in range(3):
        write_tiny_bundle(store)
    assert released_versions(store) == [3, 2, 1]
    assert find_bundle(store) == store / "3"


def test_a_candidate_is_used_when_it_is_released(store: Path) -> None:
    """A new version of a store changes nothing until it is released, whether the store has releases or is older than these."""
    write_tiny_bundle(store)
    second = candidate(store)
    assert find_bundle(store) == store / "1"
    released(second)
    assert find_bundle(store) == store / "2"
    third = candidate(store)
    assert find_bundle(store) == store / "2"
    assert load_bundle(third.path).manifest.schema_version == 2
    released(third)
    assert [entry.version for entry in read_releases(store)] == [1, 2, 3]


def test_an_empty_store_with_a_candidate_names_the_command(store: Path) -> None:
    """A first candidate is refused by name with the sentence that makes it current; by its number it loads."""
    first = candidate(store)
    with pytest.raises(ConfigError, match=f"(?s)no version is released.*run: anoseg-engine release {store / '1'}"):
        load_bundle(store)
    assert load_bundle(store / "1").digest == first.digest
    released(first)
    assert load_bundle(store).digest == first.digest


def test_an_earlier_version_is_made_current_again(store: Path) -> None:
    """It withdraws what was released after it: should it be damaged, the next older one is found, not a withdrawn one."""
    for _ in range(3):
        released(candidate(store))
    released(load_bundle(store / "2"))
    assert released_versions(store) == [2, 1]
    released(load_bundle(store / "3"))
    assert released_versions(store) == [3, 2, 1]
    assert len(json.loads((store / RELEASES).read_bytes())["releases"]) == 5  # the list keeps what happened


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx"])
def test_a_withdrawn_version_that_lacks_files_concerns_nobody(store: Path, file: str) -> None:
    """Nobody would have used it, so nothing is said of it."""
    for _ in range(3):
        released(candidate(store))
    released(load_bundle(store / "2"))
    (store / "3" / file).unlink()
    bundle = load_bundle(store)
    assert (bundle.manifest.version, bundle.passed_over) == (2, None)


def test_a_release_twice_is_one(store: Path) -> None:
    """The current version is not listed a second time."""
    bundle = released(candidate(store))
    before = (store / RELEASES).read_bytes()
    released(bundle)
    assert (store / RELEASES).read_bytes() == before


def test_a_copied_store_keeps_what_is_released(store: Path, tmp_path: Path) -> None:
    """Copied whole, it is the same store. A candidate's folder copied alone is a candidate there too."""
    released(candidate(store))
    candidate(store)
    shutil.copytree(store, tmp_path / "line" / "tiny")
    assert released_versions(tmp_path / "line" / "tiny") == [1]
    shutil.copytree(store / "2", tmp_path / "other" / "tiny" / "2")
    with pytest.raises(ConfigError, match="no version is released"):
        find_bundle(tmp_path / "other" / "tiny")


def test_another_bundle_under_a_released_number_is_not_released(store: Path) -> None:
    """The mark names the bundle's digest, not only its number."""
    released(candidate(store))
    released(candidate(store))
    shutil.rmtree(store / "2")
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.4, origin=Origin(command="fit")))
    assert released_versions(store) == [1]


def test_two_processes_lose_no_release(store: Path) -> None:
    """Versions released at the same time by several processes are all in the list, and the list is whole at any moment."""
    for _ in range(6):
        candidate(store)
    shares = [[str(n) for n in range(start, 7, 3)] for start in (1, 2, 3)]
    processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(store), *share]) for share in shares]
    done = threading.Event()
    wrong: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                read_releases(store)
            except EngineError as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    codes = [process.wait(60) for process in processes]
    done.set()
    reader.join()
    assert (codes, wrong) == ([0, 0, 0], [])
    listed = json.loads((store / RELEASES).read_bytes())["releases"]
    assert sorted(entry["version"] for entry in listed) == list(range(1, 7))


def test_a_crash_while_releasing_leaves_the_old_list(store: Path) -> None:
    """What a killed process leaves beside the list changes nothing, and the next release succeeds."""
    released(candidate(store))
    second = candidate(store)
    (store / f".{RELEASES}.new").write_bytes(b'{"releases": [{"ver')
    assert released_versions(store) == [1]
    released(second)
    assert released_versions(store) == [2, 1]


@pytest.mark.parametrize("content", [b"", b'{"releases": [{"version": 1}]}', b"[]", b'{"schema_version": 9, "releases": []}'])
def test_a_damaged_list_is_refused(store: Path, content: bytes) -> None:
    """Nothing is guessed from it: neither that everything is released, nor that nothing is."""
    released(candidate(store))
    (store / RELEASES).write_bytes(content)
    with pytest.raises(EngineError, match=RELEASES):
        find_bundle(store)
    with pytest.raises(EngineError, match=RELEASES):
        released(load_bundle(store / "1"))
    assert (store / RELEASES).read_bytes() == content


def test_the_daemons_user_can_read_the_list(store: Path) -> None:
    """Also if root releases a version with a mask that hides new files from everybody else."""
    bundle = candidate(store)
    before = os.umask(0o077)
    try:
        released(bundle)
    finally:
        os.umask(before)
    assert stat.S_IMODE((store / RELEASES).stat().st_mode) == 0o644


def test_a_store_that_cannot_be_written_says_so(store: Path) -> None:
    """Without the permission the message is one line that names the file."""
    bundle = candidate(store)
    (store / ".releases.lock").mkdir()  # as unwritable for root as for anybody
    with pytest.raises(AnosegError, match=rf"{RELEASES}: cannot be written"):
        released(bundle)
    assert (store / "1" / MANIFEST).is_file()
