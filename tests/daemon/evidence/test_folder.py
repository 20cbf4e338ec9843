"""The limits of the evidence folder: the oldest parts go first, and nothing else is touched."""

import errno
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.anosegd_line import wait_until
from support.small_disk import mounted

from anosegd.evidence import EvidenceConfig, EvidenceKeeper, EvidenceReader, PartName
from anosegd.evidence.folder import EvidenceFolder, NoRoomError
from anosegd.evidence.names import form

NOW = datetime.now(timezone.utc)


def name(seq: int, *, age_h: float = 0.0) -> PartName:
    at = NOW - timedelta(hours=age_h) + timedelta(milliseconds=seq)
    return PartName(form(at), seq, "top", "FAIL", None, "ab12")


def kept(folder: Path) -> list[int]:
    return [n.seq for n in EvidenceReader(folder).find()]


def test_the_oldest_go_when_the_files_are_too_large(tmp_path: Path) -> None:
    """max_gb holds after every part, whatever the order of the parts' own times."""
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0, max_gb=10_000 / (1 << 30)))
    for seq in range(1, 40):
        folder.store(name(seq, age_h=30 if seq % 2 else 0), bytes(1000))
        assert folder.size == sum(p.stat().st_size for p in tmp_path.rglob("*.zip")) <= 10_000
    assert len(kept(tmp_path)) == 10
    assert kept(tmp_path) == [39, *range(22, 39, 2)]  # parts of yesterday went before those of today
    with pytest.raises(NoRoomError, match="max_gb"):
        folder.store(name(50), bytes(10_001))
    assert len(kept(tmp_path)) == 10


def test_parts_go_when_they_are_too_old(tmp_path: Path) -> None:
    """keep_days holds also while no new part comes; folders of days without parts go too."""
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0, keep_days=2))
    for seq, age_h in enumerate((100, 80, 47, 10), start=1):
        (tmp_path / name(seq, age_h=age_h).day).mkdir(exist_ok=True)
        path = tmp_path / name(seq, age_h=age_h).day / name(seq, age_h=age_h).file_name
        path.write_bytes(b"part")
        stored_s = (NOW - timedelta(hours=age_h)).timestamp()
        os.utime(path, (stored_s, stored_s))
    folder.tidy()
    assert kept(tmp_path) == [3, 4]
    assert folder.size == 8
    assert {p.name for p in tmp_path.iterdir()} == {name(3, age_h=47).day, name(4, age_h=10).day, ".clock"}


def test_a_share_of_the_disk_stays_free(tmp_path: Path) -> None:
    """Older parts make room. What another program has filled costs no part that is there."""
    with mounted(tmp_path / "disk", "4m") as disk:
        folder = EvidenceFolder(EvidenceConfig(folder=str(disk / "kept"), min_free=0.5))
        for seq in range(1, 100):
            folder.store(name(seq), bytes(100_000))
            status = os.statvfs(disk)
            assert status.f_bavail >= 0.5 * status.f_blocks
        survivors = kept(disk / "kept")
        assert survivors == list(range(survivors[0], 100))
        assert 15 <= len(survivors) <= 21
        (disk / "other").write_bytes(bytes(1_000_000))
        folder.store(name(100), bytes(1000))
        assert 5 <= len(kept(disk / "kept")) < len(survivors)
        survivors = kept(disk / "kept")
        (disk / "more").write_bytes(bytes(1_700_000))
        with pytest.raises(NoRoomError, match="min_free"):
            folder.store(name(101), bytes(1000))
        assert kept(disk / "kept") == survivors


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Only files with a part's name are counted and deleted."""
    others = [tmp_path / "notes.txt", tmp_path / name(1).day / "picture.png", tmp_path / "20200101" / "x.zip"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0, max_gb=1000 / (1 << 30)))
    for seq in range(1, 5):
        folder.store(name(seq), bytes(900))
    assert kept(tmp_path) == [4]
    assert all(path.exists() for path in others)


def test_parts_deleted_by_others_are_noticed(tmp_path: Path) -> None:
    """Somebody who deletes parts by hand frees room for new ones."""
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0, max_gb=10_000 / (1 << 30)))
    for seq in range(1, 11):
        folder.store(name(seq), bytes(1000))
    for path in sorted(tmp_path.rglob("*.zip"))[:8]:
        path.unlink()
    for seq in range(11, 19):
        folder.store(name(seq), bytes(1000))
    assert folder.size <= 10_000
    folder.store(name(19), bytes(1000))
    assert len(kept(tmp_path)) >= 9


def test_files_that_cannot_be_deleted_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next oldest go in their place, and parts are kept within the limit."""
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0, max_gb=10_000 / (1 << 30)))
    for seq in range(1, 4):
        folder.store(name(seq, age_h=50), bytes(1000))
    locked = tmp_path / name(1, age_h=50).day
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.parent == locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    for seq in range(4, 20):
        folder.store(name(seq), bytes(1000))
    assert kept(tmp_path) == [1, 2, 3, *range(13, 20)]
    assert folder.size == 10_000
    with pytest.raises(NoRoomError, match="cannot be deleted"):
        folder.store(name(20), bytes(9000))


def test_a_folder_that_cannot_be_read_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a day that belongs to somebody else does not end the evidence."""
    locked = tmp_path / name(1, age_h=50).day
    locked.mkdir()
    scandir = os.scandir

    def refused(path: Path) -> object:
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0, max_gb=2000 / (1 << 30)))
    for seq in range(1, 5):
        folder.store(name(seq), bytes(1000))
    monkeypatch.undo()
    assert kept(tmp_path) == [3, 4]


def test_parts_wait_for_their_disk(tmp_path: Path) -> None:
    """While its disk is not mounted, nothing is written to the disk below. Another disk in its place is taken."""
    place = tmp_path / "disk"
    folder = EvidenceFolder(EvidenceConfig(folder=str(place / "kept"), min_free=0))
    with mounted(place, "4m"):
        folder.store(name(1), bytes(1000))
    for _ in range(2):
        with pytest.raises(OSError, match="not mounted"):
            folder.store(name(2), bytes(1000))
    assert list(place.iterdir()) == []
    place.rmdir()
    with pytest.raises(OSError, match="not mounted"):
        folder.tidy()
    assert not place.exists()
    with mounted(place, "4m"):
        folder.store(name(3), bytes(500))
        assert kept(place / "kept") == [3]
        assert folder.size == 500


def test_a_clock_that_jumps_deletes_nothing(tmp_path: Path) -> None:
    """A clock that is ten years ahead at the start, or while the daemon runs, costs no part; nor do the parts of that time."""
    config = EvidenceConfig(folder=str(tmp_path), min_free=0, keep_days=2)
    ahead = timedelta(days=3650)
    EvidenceFolder(config).store(name(1, age_h=1), b"part")
    wrong = EvidenceFolder(config, lambda: time.time_ns() + ahead // timedelta(microseconds=1) * 1000)
    wrong.store(name(2, age_h=-ahead / timedelta(hours=1)), b"part")
    wrong.tidy()
    EvidenceFolder(config).tidy()  # the clock is right again
    assert kept(tmp_path) == [1, 2]


def test_a_restart_while_the_clock_is_ahead_deletes_nothing(tmp_path: Path) -> None:
    """Parts with names of a wrong clock make the others at most a day older at the next start."""
    config = EvidenceConfig(folder=str(tmp_path), min_free=0, keep_days=3)
    ahead = timedelta(days=3650)
    EvidenceFolder(config).store(name(1, age_h=1), b"part")
    wrong = EvidenceFolder(config, lambda: time.time_ns() + ahead // timedelta(microseconds=1) * 1000)
    wrong.store(name(2, age_h=-ahead / timedelta(hours=1)), b"part")
    again = EvidenceFolder(config, lambda: time.time_ns() + ahead // timedelta(microseconds=1) * 1000)
    again.tidy()
    again.store(name(3, age_h=-ahead / timedelta(hours=1)), b"part")
    EvidenceFolder(config).tidy()
    assert kept(tmp_path) == [1, 2, 3]


def test_many_restarts_while_the_clock_is_ahead_delete_nothing(tmp_path: Path) -> None:
    """A station that starts again and again counts the wrong time once, not at each start."""
    config = EvidenceConfig(folder=str(tmp_path), min_free=0, keep_days=3)
    folder = EvidenceFolder(config)
    folder.store(name(1), b"part")
    folder.tidy()
    ahead_ns = time.time_ns() + 3650 * 86_400 * 10**9
    for start in range(20):
        EvidenceFolder(config, lambda start=start: ahead_ns + start * 10**9).tidy()
    assert kept(tmp_path) == [1]


def test_time_off_counts_as_a_day_at_most(tmp_path: Path) -> None:
    """A station that is often off, and stores no part meanwhile, still deletes what is too old."""
    config = EvidenceConfig(folder=str(tmp_path), min_free=0, keep_days=2.5)
    EvidenceFolder(config).store(name(1), b"part")
    for days, left in ((10, [1]), (20, [1]), (30, [])):
        later_ns = time.time_ns() + days * 86_400 * 10**9
        EvidenceFolder(config, lambda later_ns=later_ns: later_ns).tidy()
        assert kept(tmp_path) == left


def test_a_clock_that_is_set_back_deletes_nothing(tmp_path: Path) -> None:
    """A daemon that started with a clock ten years ahead keeps what comes after the clock was set."""
    clock = [time.time_ns() + 3650 * 86_400 * 10**9]
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0, keep_days=2), lambda: clock[0])
    folder.tidy()
    clock[0] = time.time_ns()
    folder.store(name(1), b"part")
    folder.tidy()
    assert kept(tmp_path) == [1]


def test_names_tell_parts_apart(tmp_path: Path) -> None:
    """Parts are found by number, journal, time, camera and outcome; a file that was cut is named when it is read."""
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0))
    parts = [
        name(1, age_h=50),
        name(2, age_h=20)._replace(camera="side-2", outcome="UNKNOWN", reason="image_quality"),
        name(2, age_h=10)._replace(journal_id="cd34"),
        name(123, age_h=1)._replace(outcome="PASS"),
    ]
    for part in parts:
        folder.store(part, b"part")
    reader = EvidenceReader(tmp_path)
    assert list(reader.find()) == parts
    assert list(reader.find(newest_first=True)) == parts[::-1]
    assert list(reader.find(outcomes={"FAIL"}, cameras={"top"})) == [parts[0], parts[2]]
    assert list(reader.find(outcomes={"image_quality"})) == [parts[1]]
    assert list(reader.find(since=parts[1].moment, until=parts[3].moment)) == parts[1:3]
    assert reader.by_seq(2) == parts[2]
    assert reader.by_seq(2, "ab12") == parts[1]
    assert reader.by_seq(123, at=parts[3].moment) == parts[3]
    assert reader.by_seq(12) is None
    assert list(EvidenceReader(tmp_path / "none").find()) == []


def test_of_equal_numbers_on_one_day_the_newest_part_is_found(tmp_path: Path) -> None:
    """Two journals may use a number on the same day: without a journal, the newest part counts, whatever its file's name."""
    folder = EvidenceFolder(EvidenceConfig(folder=str(tmp_path), min_free=0))
    midnight = NOW.replace(hour=0, minute=0)
    times = ((1, "b"), (9, "a"), (5, "c"))
    parts = [name(7)._replace(at=form(midnight + timedelta(hours=hour)), journal_id=journal) for hour, journal in times]
    for part in parts:
        folder.store(part, b"part")
    assert EvidenceReader(tmp_path).by_seq(7) == parts[1]


def test_the_health_says_when_a_lost_folder_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no parts come, tidying alone finds out that the folder can be used again."""
    monkeypatch.setattr("anosegd.evidence.keeper.TIDY_S", 0.02)
    blocked = tmp_path / "kept"
    blocked.write_bytes(b"a file")
    keeper = EvidenceKeeper(EvidenceConfig(folder=str(blocked), min_free=0))
    keeper.start()
    try:
        wait_until(lambda: not keeper.health.working, "the folder cannot be made")
        blocked.unlink()
        wait_until(lambda: keeper.health.working, "it can be made")
    finally:
        keeper.stop()
        assert keeper.join(10)
