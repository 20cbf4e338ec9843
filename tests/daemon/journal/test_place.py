"""Where a journal may be: everything else is refused before anything there is renamed, changed or deleted."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.anosegd_line import Line, run_anosegd
from support.journal_tools import commit, config, open_journal, read_all

from anoseg_engines.errors import AnosegError, ConfigError
from anosegd.config import load_config
from anosegd.journal import JournalError

FOLDER = "top:\n  source: {kind: demo, parts: 2}\n  policy: wait\n"


def database(path: Path, *, journal_mode: str = "delete") -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode = {journal_mode}").fetchall()
        db.execute("CREATE TABLE entry (name TEXT)")
        db.execute("INSERT INTO entry VALUES ('x')")


def snapshot(folder: Path) -> dict[str, object]:
    """What is in the folder: links with their targets, files with their content."""
    return {
        p.name: (p.lstat().st_ino, p.readlink() if p.is_symlink() else p.read_bytes() if p.is_file() else None)
        for p in folder.iterdir()
    }


def linked(path: Path, target: Path) -> None:
    target.write_bytes(b"")
    path.symlink_to(target)


REFUSED: dict[str, Callable[[Path], object]] = {
    "another program's database": database,
    "another program's database with a log": lambda p: database(p, journal_mode="wal"),
    "a configuration": lambda p: p.write_text("station: a\n"),
    "an image": lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500)),
    "an empty file": lambda p: p.touch(),
    "a link to an empty file": lambda p: linked(p, p.with_name("precious")),
    "one byte": lambda p: p.write_bytes(b"x"),
    "a folder": lambda p: p.mkdir(),
    "a pipe": lambda p: os.mkfifo(p),
    "a link to nothing": lambda p: p.symlink_to("gone/verdicts.db"),
    "a link to itself": lambda p: p.symlink_to(p.name),
    "a link to a folder": lambda p: p.symlink_to("/tmp"),
    "another file for the numbers": lambda p: p.with_name(p.name + ".seq").write_text("precious"),
    "another file for the log": lambda p: p.with_name(p.name + "-wal").write_text("precious"),
    "another file for the new journal": lambda p: p.with_name(p.name + ".new").write_text("precious"),
    "another file for a copy": lambda p: p.with_name(p.name + ".copying").write_text("precious"),
    "another file for the list of bundles": lambda p: p.with_name(p.name + ".bundles").write_text("precious"),
    "a link for the numbers": lambda p: p.with_name(p.name + ".seq").symlink_to("gone"),
    "a link for the log": lambda p: linked(p.with_name(p.name + "-wal"), p.with_name("precious")),
}


@pytest.mark.parametrize("put", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_journal_is_refused_and_left_alone(tmp_path: Path, put: Callable[[Path], object]) -> None:
    """The exit code is 2, and the folder is as it was."""
    path = tmp_path / "journal" / "verdicts.db"
    path.parent.mkdir()
    put(path)
    before = snapshot(path.parent)
    with pytest.raises(AnosegError) as caught:
        open_journal(config(path))
    assert caught.value.exit_code == 2
    assert "journal.path" in caught.value.what
    assert snapshot(path.parent) == before


def test_a_journal_that_was_emptied_is_set_aside(tmp_path: Path) -> None:
    """Its .seq file says that a journal was here: the numbers go on."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    (first,) = commit(journal)
    assert journal.close()
    path.write_bytes(b"")
    journal = open_journal(config(path))
    assert commit(journal)[0].seq > first.seq
    assert any("set aside" in notice for notice in journal.notices)
    assert journal.close()


def test_files_that_a_person_prepared_are_taken(tmp_path: Path) -> None:
    """The logs that SQLite leaves empty, and an empty file for the numbers."""
    path = tmp_path / "verdicts.db"
    for suffix in ("-wal", "-shm", ".seq"):
        path.with_name(path.name + suffix).touch()
    journal = open_journal(config(path))
    commit(journal)
    assert journal.close()


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["link", "hard link"])
def test_a_lock_is_not_walked_around_by_a_link(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """A second daemon that uses another name of the file is refused, and so is the first name after that."""
    (tmp_path / "big").mkdir()
    (tmp_path / "small").mkdir()
    path, other = tmp_path / "big" / "verdicts.db", tmp_path / "small" / "verdicts.db"
    journal = open_journal(config(path))
    commit(journal)
    link(path, other)
    with pytest.raises(AnosegError):
        open_journal(config(other))
    assert sorted(p.name for p in other.parent.iterdir()) == ["verdicts.db"]
    commit(journal)
    assert journal.close()


def test_a_link_to_a_journal_is_followed(tmp_path: Path) -> None:
    """It is the same journal, with everything beside the file that the link names; the link stays."""
    (tmp_path / "big").mkdir()
    path, link = tmp_path / "big" / "verdicts.db", tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    (first,) = commit(journal)
    assert journal.close()
    link.symlink_to("big/verdicts.db")
    journal = open_journal(config(link))
    with pytest.raises(JournalError, match="in use by another daemon"):
        open_journal(config(path))
    (second,) = commit(journal)
    assert list(read_all(journal).entries.values()) == [first, second]
    assert journal.close()
    assert link.is_symlink()
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["verdicts.db"]


def test_a_journal_is_not_the_configuration(line: Line) -> None:
    """`run` and `check` refuse it with exit code 2, also through a link, and the file stays."""
    more = "journal: {path: station.yaml}"
    path = line.config(FOLDER, more=more)
    text = path.read_text()
    daemon = line.run(path, "--once")
    assert daemon.wait() == 2
    assert "journal.path is this configuration file itself" in daemon.log
    assert run_anosegd("check", str(path)).returncode == 2
    (line.folder / "link.yaml").symlink_to(path)
    with pytest.raises(ConfigError, match="configuration file itself"):
        load_config(line.folder / "link.yaml")
    assert path.read_text() == text
    assert [p.name for p in line.folder.iterdir() if "damaged" in p.name or p.suffix == ".seq"] == []


@pytest.mark.parametrize(
    "put", [database, lambda p: p.symlink_to("gone"), lambda p: p.touch()], ids=["database", "dangling link", "empty file"]
)
def test_check_and_run_refuse_the_same(line: Line, put: Callable[[Path], object]) -> None:
    """Before the station starts."""
    put(line.folder / "verdicts.db")
    path = line.config(FOLDER, more="journal: {path: verdicts.db}")
    checked = run_anosegd("check", str(path))
    daemon = line.run(path, "--once")
    assert (checked.returncode, daemon.wait()) == (2, 2)
    assert "journal.path" in checked.stderr
    assert "journal.path" in daemon.log
    assert "damaged" not in str(list(line.folder.iterdir()))


ENDPOINTS: dict[str, Callable[[Path], object]] = {
    "file": lambda p: p.write_text("precious"),
    "empty file": lambda p: p.touch(),
    "folder": lambda p: p.mkdir(),
    "link to nothing": lambda p: p.symlink_to("gone"),
    "link to a file": lambda p: p.symlink_to(p.with_name("station.yaml")),
    "pipe": lambda p: os.mkfifo(p),
}


@pytest.mark.parametrize("which", ["publish", "control"])
@pytest.mark.parametrize("put", ENDPOINTS.values(), ids=ENDPOINTS.keys())
def test_an_ipc_endpoint_deletes_nothing(line: Line, which: str, put: Callable[[Path], object]) -> None:
    """What is no socket is refused with exit code 2, by `check` too, and stays."""
    place = line.folder / "place"
    put(place)
    before = place.lstat().st_ino
    path = line.config(FOLDER, more="" if which == "publish" else f"control: {{endpoint: 'ipc://{place}'}}")
    if which == "publish":
        path.write_text(path.read_text().replace(line.endpoint, f"ipc://{place}"))
    checked = run_anosegd("check", str(path))
    daemon = line.run(path, "--once")
    assert (checked.returncode, daemon.wait()) == (2, 2)
    assert f"{which}: ipc://{place}" in checked.stderr
    assert "not a socket" in daemon.log
    assert place.lstat().st_ino == before


def test_a_socket_that_a_killed_daemon_left_is_taken(line: Line) -> None:
    """It is a socket, and nobody answers there."""
    path = line.config(FOLDER.replace("parts: 2", "fps: 20"))
    daemon = line.run(path)
    line.listener.wait_for_verdicts(1)
    daemon.process.kill()
    daemon.wait()
    daemon = line.run(path)
    line.listener.wait_for_verdicts(len(line.listener.verdicts) + 2)
    assert daemon.terminate() == 0
