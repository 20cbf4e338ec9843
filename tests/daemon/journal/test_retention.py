"""Verdicts are kept by age and by size, whatever the wall clock does."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.journal_tools import Contents, commit, config, eventually, open_journal, read_all, walk

from anosegd.journal import Change, Range, offline_reader
from anosegd.journal import retention as journal_retention
from anosegd.journal import store as journal_store
from anosegd.journal import store_file as journal_file
from anosegd.journal import writer as journal_writer

DAY_NS = 86_400_000_000_000
HOUR_NS = DAY_NS // 24
NOW_NS = 1_800_000_000_000_000_000


class Clocks:
    """A wall clock that can be set, and an uptime that can be moved forward. A restart of the daemon keeps both."""

    def __init__(self) -> None:
        self.wall, self.uptime = NOW_NS, 1000

    def forward(self, ns: int) -> None:
        self.wall, self.uptime = self.wall + ns, self.uptime + ns


class Station:
    """A journal with its own clocks that can be restarted."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.path, self.settings, self.clocks = path, settings, Clocks()
        self.start()

    def start(self) -> None:
        self.journal = open_journal(
            config(self.path, **self.settings), wall_ns=lambda: self.clocks.wall, monotonic_ns=lambda: self.clocks.uptime
        )

    def restart(self) -> None:
        assert self.journal.close()
        self.start()

    def commit(self, count: int) -> list[int]:
        return [e.seq for e in commit(self.journal, count, wall_ns=self.clocks.wall)]

    def kept(self) -> list[int]:
        """The numbers left after retention ran twice; the first run may have begun before the call."""
        for _ in range(2):
            seen = self.journal._writer.stats
            eventually(lambda seen=seen: self.journal._writer.stats is not seen)
        return list(self.read().entries)

    def read(self) -> Contents:
        return read_all(self.journal)


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    """A journal that keeps ten days."""
    monkeypatch.setattr(journal_writer, "RETRY_S", 0.05)
    station = Station(tmp_path / "journal.db", keep_days=10.0)
    yield station
    assert station.journal.close()


def test_verdicts_older_than_kept_are_deleted_in_order(station: Station) -> None:
    """Of three days' verdicts the oldest go first, and pages say which numbers are gone."""
    days = []
    for _ in range(3):
        days.append(station.commit(300))
        station.clocks.forward(DAY_NS)
    station.clocks.forward(7 * DAY_NS + HOUR_NS)
    eventually(lambda: station.journal.stats().first_kept == days[1][0])
    contents = station.read()
    assert list(contents.entries) == days[1] + days[2]
    assert contents.gone == [Range(1, 300)]
    station.clocks.forward(30 * DAY_NS)
    eventually(lambda: station.journal.stats().first_kept == 901)
    assert station.commit(2) == [901, 902]
    station.restart()
    contents = station.read()
    assert (list(contents.entries), contents.gone, contents.voids) == ([901, 902], [Range(1, 900)], [])


def test_a_consumer_passed_by_retention_learns_which_numbers_are_gone(station: Station) -> None:
    """Its cursor stays. The next page begins with the missed range, cut to the numbers it asked for."""
    station.commit(300)
    station.journal.ack("archive", 100)
    station.clocks.forward(11 * DAY_NS)
    eventually(lambda: station.journal.stats().first_kept == 301)
    new = station.commit(5)
    assert station.journal.consumer("archive") == 100
    assert station.journal.consumer("newcomer") == 300
    with station.journal.reader() as reader:
        page = reader.page(101)
        assert (page.gone, [e.seq for e in page.entries], page.next) == (Range(101, 300), new, 306)
        clipped = reader.page(101, 150)
        assert (clipped.gone, clipped.entries, clipped.next) == (Range(101, 150), [], 151)
        assert reader.find_since(0) == 301


def test_a_void_across_the_edge_of_retention_is_cut(station: Station) -> None:
    """Numbers that were never used expire like verdicts, and each is in one range only."""
    station.commit(10)
    station.journal.discard([station.journal.next_id() for _ in range(20)])
    station.clocks.forward(5 * DAY_NS)
    station.commit(10)
    station.clocks.forward(6 * DAY_NS)
    eventually(lambda: station.journal.stats().first_kept == 11)
    contents = station.read()
    assert contents.gone == [Range(1, 10)]
    assert contents.voids == [Range(11, 30)]


@pytest.mark.parametrize("hours", [-1, -24 * 365, 24 * 365 * 30], ids=["an hour back", "a year back", "thirty years on"])
def test_setting_the_wall_clock_deletes_nothing_and_breaks_nothing(station: Station, hours: int) -> None:
    """This holds while the daemon runs and over a restart, because age is measured by uptime."""
    first = station.commit(50)
    station.clocks.wall += hours * HOUR_NS
    second = station.commit(50)
    assert station.kept() == first + second
    station.restart()
    third = station.commit(50)
    assert station.kept() == first + second + third
    station.clocks.wall -= hours * HOUR_NS
    station.restart()
    assert station.kept() == first + second + third
    station.clocks.forward(11 * DAY_NS)
    eventually(lambda: station.journal.stats().first_kept == third[-1] + 1)


def test_a_clock_without_battery_deletes_nothing_when_it_is_corrected(station: Station) -> None:
    """The clock starts in 1970, NTP corrects it later, and the next start is in 1970 again."""
    station.clocks.wall = 0
    station.restart()
    seqs = station.commit(20)
    for wall in (NOW_NS, 0, NOW_NS + DAY_NS):
        station.clocks.wall = wall
        seqs += station.commit(20)
        assert station.kept() == seqs
        station.restart()
        assert station.kept() == seqs


def test_the_files_stay_within_their_size(tmp_path: Path) -> None:
    """If more is written than may be kept, the oldest verdicts go and the files never exceed keep_mb."""
    path = tmp_path / "journal.db"
    journal = open_journal(config(path, keep_mb=64))
    sizes = []
    for _ in range(60):
        commit(journal, 30, size=60_000)
        sizes.append(sum(f.stat().st_size for f in path.parent.iterdir()))
    last = journal.stats().last_committed
    assert last * 60_000 > 100 << 20
    assert max(sizes) <= 64 << 20
    assert journal.close()  # otherwise verdicts may be deleted between the pages
    with offline_reader(config(path)) as reader:
        contents = walk(reader)
    assert contents.gone[0].first == 1
    assert list(contents.entries) == list(range(contents.gone[-1].last + 1, last + 1))
    assert len(contents.entries) * 60_000 > 16 << 20


def test_a_program_that_keeps_reading_is_reported_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its snapshot makes the log grow, but verdicts are committed. When it has gone, the log is cut."""
    monkeypatch.setattr(journal_writer, "CUT_RETRY_S", 0.0)
    monkeypatch.setattr(journal_file, "BUSY_S", 0.05)
    path = tmp_path / "journal.db"
    journal = open_journal(config(path, keep_mb=64))
    commit(journal)
    log = path.with_name("journal.db-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM entry").fetchall()
        for _ in range(20):
            commit(journal, 30, size=60_000)
        assert log.stat().st_size > journal_store.WAL_PAGES * 4096
        assert any("another program keeps reading it" in notice for notice in journal.notices)
    for _ in range(4):
        commit(journal, 30, size=60_000)
    eventually(lambda: log.stat().st_size <= journal_store.WAL_PAGES * 4096)
    assert journal.close()


def test_a_lower_keep_mb_shrinks_the_file(tmp_path: Path) -> None:
    """The file shrinks to the new size while the daemon runs."""
    path = tmp_path / "journal.db"
    journal = open_journal(config(path, keep_mb=256))
    for _ in range(30):
        commit(journal, 50, size=60_000)
    assert journal.close()
    assert path.stat().st_size > 64 << 20
    journal = open_journal(config(path, keep_mb=64))
    eventually(lambda: journal.stats().size_bytes <= 64 << 20)
    with journal.reader() as reader:
        assert walk(reader).gone
    assert not [notice for notice in journal.notices if "another program" in notice]  # SQLite itself has cut the file
    assert journal.close()
    assert path.stat().st_size <= 64 << 20


def test_names_are_removed_and_changes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `keep_names_days` the journal says what was changed and why, and no longer who; the configuration is no person."""
    monkeypatch.setattr(journal_writer, "RETRY_S", 0.05)
    monkeypatch.setattr(journal_retention, "NAMES_EVERY_S", 0.0)
    station = Station(tmp_path / "journal.db", keep_days=1.0, keep_names_days=20.0)
    try:
        station.commit(1)
        for who in ("ada", "configuration"):
            station.journal.note(Change(station.clocks.wall, "threshold", "top", "0.5", "0.6", who, "a reason"), lambda _: None)
        station.clocks.forward(19 * DAY_NS)
        station.journal.note(Change(station.clocks.wall, "bundle", None, "a", "b", "eve", ""), lambda _: None)
        station.kept()

        def names() -> list[str]:
            with station.journal.reader() as reader:
                return [change.who for change in reader.changes()]

        assert names() == ["ada", "configuration", "eve"]
        station.clocks.forward(2 * DAY_NS)
        eventually(lambda: names() == ["", "configuration", "eve"])
        with station.journal.reader() as reader:
            assert reader.changes()[0].why == "a reason"
    finally:
        assert station.journal.close()
