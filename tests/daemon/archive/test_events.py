"""What happens to stations is in the table `event` and in the log: never a silent gap."""

from collections.abc import Callable
from pathlib import Path

from support.anosegd_line import wait_until
from support.verdict_archive import Archive, Database, JournalStation, differences


def remove_journal(station: JournalStation) -> None:
    for path in station.folder.glob("verdicts.db*"):
        path.unlink()


def test_silence_and_a_replaced_journal(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Database
) -> None:
    """A silent station is an alarm. When it is back with another journal, that is one, too, and the new journal is archived."""
    station = make_station("press-4", 300)
    archive = make_archive(station, more="silent_after_s: 3")
    database.wait_for_verdicts(300)
    station.terminate()
    before = station.journal()
    archive.wait_for("archive.alarm", kind="silent")
    remove_journal(station)
    station.start()
    database.wait_for_verdicts(600)
    archive.wait_for("archive.noted", kind="heard")
    assert archive.terminate() == 0
    station.terminate()
    assert differences(database.verdicts(), before | station.journal()) == []
    assert [(kind, first) for _, kind, first, _ in database.events("begun", "silent", "journal_replaced")] == [
        ("begun", None),
        ("silent", None),
        ("journal_replaced", 301),
    ]


def test_a_journal_that_retention_outran(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Database
) -> None:
    """Numbers that the journal deleted before they were archived are an alarm with their range."""
    station = make_station("press-4", 200)
    station.wait_until_stored(200)
    archive = make_archive(station)
    database.wait_for_verdicts(200)
    assert archive.terminate() == 0
    station.terminate()
    (station.folder / "journal.json").write_text('{"keep_days": 0.000001}')
    station._command[4] = "500"
    station.start()
    station.wait_until_stored(500)
    with station.client() as client:
        wait_until(lambda: client.status()["journal"]["first_kept"] > 400, "retention")
    archive.start()
    archive.wait_for("archive.alarm", kind="gone")
    gone = database.events("gone")[0]
    assert (gone[0], gone[2]) == ("press-4", 201)
    assert gone[3] > 400
    assert database.events("begun_late") == []


def test_two_names_for_one_station_and_one_name_of_two(
    make_station: Callable[..., JournalStation],
    make_archive: Callable[..., Archive],
    database: Database,
    tmp_path: Path,
) -> None:
    """One station under two names is archived once, and said; so are two stations that call themselves the same."""
    one, other = make_station("line", 100), make_station("line", 100)
    alias = tmp_path / "alias"
    alias.symlink_to(one.folder)
    archive = make_archive(**{"press-4": one.control, "press-5": other.control, "press-6": f"ipc://{alias}/control"})
    database.wait_for_verdicts(200)
    archive.wait_for("archive.alarm", kind="other_station")
    archive.wait_for("archive.alarm", kind="same_name")
    assert archive.terminate() == 0
    stations = {row[0] for row in database.query("SELECT DISTINCT station FROM anoseg.verdict")}
    refused = [row[0] for row in database.events("other_station")]
    assert len(refused) == 1
    assert {*stations, *refused} == {"press-4", "press-5", "press-6"}
    for station in (one, other):
        station.terminate()
    assert differences(database.verdicts(), one.journal() | other.journal()) == []


def test_two_stations_whose_addresses_were_exchanged(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Database
) -> None:
    """Both are an alarm that names the other one, and nothing is archived under a wrong name. Put right, it goes on."""
    stations = make_station("press-4", 50), make_station("press-5", 50)
    archive = make_archive(*stations)
    database.wait_for_verdicts(100)
    assert archive.terminate() == 0
    archive = make_archive(**{"press-4": stations[1].control, "press-5": stations[0].control})
    for name, other in (("press-4", "press-5"), ("press-5", "press-4")):
        archive.wait_for("archive.alarm", kind="other_station", station=name)
        assert any(f"is archived as {other}: either" in str(line.get("why")) for line in archive.events)
    assert archive.terminate() == 0
    for station in stations:
        station.terminate()
        station._command[4] = "100"
        station.start()
    archive = make_archive(*stations)
    database.wait_for_verdicts(200)
    assert archive.terminate() == 0
    named = "SELECT count(*) FROM anoseg.verdict WHERE station = header ->> 'station'"
    assert database.query(named) == [(200,)]


def test_a_station_gets_another_name(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Database
) -> None:
    """A station that is renamed in the configuration goes on where it was. A second archive of it waits for the first."""
    station = make_station("line", 100)
    first = make_archive(**{"press-4": station.control})
    database.wait_for_verdicts(100)
    second = make_archive(**{"press-4": station.control})
    second.wait_for("archive.station_taken", station="press-4")
    assert second.terminate() == 0
    assert first.terminate() == 0
    renamed = make_archive(**{"press-04": station.control})
    renamed.wait_for("archive.noted", kind="renamed")
    assert renamed.terminate() == 0
    assert database.query("SELECT station, cursor FROM anoseg.journal") == [("press-04", 100)]
    assert database.events("gone", "journal_replaced") == []
    assert len(database.verdicts()) == 100


def test_feedback_and_changes_are_archived(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Database
) -> None:
    """Marks, undone marks and changes of thresholds come over once, also those from before; the view shows what counts."""
    station = make_station("press-4", 100)
    station.wait_until_stored(100)
    with station.client() as client:
        journal_id = client.status()["journal_id"]
        client.feedback(journal_id, [1, 2], "right", who="Anna", comment="clean")
        client.set_threshold("top", 0.6, who="Anna", why="too many rejects")
        archive = make_archive(station)
        database.wait_until("count(*) = 2 FROM anoseg.feedback")
        client.undo_feedback(journal_id, who="Anna")
        client.feedback(journal_id, [2], "missed_defect", who="Ben")
        client.set_threshold("top", 0.7, who="Ben", why="again")
        database.wait_until("count(*) = 5 FROM anoseg.feedback")
        database.wait_until("count(*) = 2 FROM anoseg.change")
    assert database.query("SELECT seq, mark, who FROM anoseg.part_mark") == [(2, "missed_defect", "Ben")]
    assert database.query("SELECT kind, old, new, who, why FROM anoseg.change ORDER BY number") == [
        ("threshold", "0.5 calibration", "0.6 person", "Anna", "too many rejects"),
        ("threshold", "0.5 calibration", "0.7 person", "Ben", "again"),
    ]
    archive.kill()
    archive.start()
    archive.wait_for("archive.started")
    assert archive.terminate() == 0
    assert database.query("SELECT count(*) FROM anoseg.feedback") == [(5,)]


def test_rows_without_their_cursor_count_once(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Database
) -> None:
    """A cursor that an administrator set back makes no row twice and loses none."""
    station = make_station("press-4", 1000)
    archive = make_archive(station)
    database.wait_for_verdicts(1000)
    assert archive.terminate() == 0
    database.query("UPDATE anoseg.journal SET cursor = 0")
    database.query("DELETE FROM anoseg.verdict WHERE seq % 7 = 0")
    archive.start()
    database.wait_until("cursor = 1000 FROM anoseg.journal")
    assert archive.terminate() == 0
    station.terminate()
    assert differences(database.verdicts(), station.journal()) == []
