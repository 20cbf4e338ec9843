"""What one station sends never stops the archive of the others; names and sessions of stations."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zmq
from support.anosegd_line import wait_until
from support.bridge_process import free_port
from support.postgres import FAST, running
from support.verdict_archive import Archive, JournalStation
from support.verdict_archive import Database as Tables

from anosegd.archive import schema
from anosegd.archive import writer as writer_module
from anosegd.archive.config import ArchiveConfig, StationConfig
from anosegd.archive.database import DEFAULTS, Database, connect, in_words
from anosegd.archive.rows import ArchiveEvent, Batch, PageError, journal_of, verdict_row
from anosegd.archive.store import OtherStationError, Position, Seen, Store
from anosegd.archive.writer import NotStoredError, Writer

A, B = "5a" * 16, "5b" * 16


@pytest.fixture
def place(database: Tables) -> Database:
    return Database(psycopg.conninfo.conninfo_to_dict(database.conninfo), "anoseg", "the test's database")


@pytest.fixture
def store(place: Database) -> Iterator[Store]:
    with contextlib.closing(connect(place)) as connection:
        schema.migrate(connection, place)
        yield Store(connection)


def batch(station: str, journal_id: str, **fields: Any) -> Batch:
    made = {"seq": 1, "camera": "top", "outcome": "PASS", "part_id": "1", "committed_at": "2026-11-27T06:00:01Z", **fields}
    return Batch(station, journal_id, 1, 2, [verdict_row(station, journal_id, made)])


@pytest.mark.parametrize("bad", [{"part_id": "".join(map(chr, range(0x4E00, 0x4E00 + 4000)))}, {"score": {"a": 1}}])
def test_rows_that_the_database_refuses_stop_one_station_only(
    store: Store, place: Database, database: Tables, bad: dict[str, Any]
) -> None:
    """A part id that is too long for an administrator's index, and a score that is no number, are one station's alarm."""
    database.query("CREATE INDEX ON anoseg.verdict (part_id)")
    stations = {name: StationConfig(control=f"ipc:///{name}") for name in ("press-4", "press-5")}
    writer = Writer(ArchiveConfig(stations=stations), place)
    writer.start()
    try:
        wait_until(lambda: writer.is_up or not writer.alive, "the writer is up")
        for name, journal_id in (("press-4", A), ("press-5", B)):
            writer.begin_journal(name, journal_id, Position())
        for _ in range(2):
            with pytest.raises(NotStoredError):
                writer.store(batch("press-4", A, **bad))
        assert writer.store(batch("press-5", B)) == Position(B, 1)
        with pytest.raises(NotStoredError):  # a station that is not this archive's, or no longer
            writer.store(Batch("press-6", events=[ArchiveEvent("silent", True, "")]))
        assert writer.alive
    finally:
        writer.stop()
        assert writer.join(10)
    assert [row[:2] for row in database.events("page_refused")] == [("press-4", "page_refused")]
    assert database.query("SELECT station FROM anoseg.verdict") == [("press-5",)]


@pytest.fixture
def hung_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "HUNG_S", 0.5)


@pytest.mark.usefixtures("hung_after")
def test_a_database_that_hangs_is_left(
    store: Store, place: Database, database: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody holds a table: the connection is broken off, the batch is not stored, and a new connection is made."""
    writer = Writer(ArchiveConfig(stations={"press-4": StationConfig()}), place)
    writer.start()
    try:
        wait_until(lambda: writer.is_up, "the writer is up")
        with psycopg.connect(database.conninfo) as other, ThreadPoolExecutor(1) as pool:
            other.execute("LOCK TABLE anoseg.event")
            stored = pool.submit(writer.store, Batch("press-4", events=[ArchiveEvent("silent", True, "")]))
            wait_until(lambda: writer.break_off_if_hung() or stored.done(), "the batch is given up")
            assert isinstance(stored.exception(), NotStoredError)
        wait_until(lambda: writer.is_up, "the writer is up again")
        assert "archive.database_hung" in caplog.messages
    finally:
        writer.stop()
        assert writer.join(10)


@pytest.mark.usefixtures("hung_after")
def test_a_change_of_the_tables_may_take_long(
    place: Database, database: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not taken for a database that hangs: it would begin again and again, and never end."""
    steps = [*schema.migrations(), schema.Migration("900_slow.sql", "SELECT pg_sleep(2)")]
    monkeypatch.setattr(schema, "migrations", lambda: steps)
    writer = Writer(ArchiveConfig(stations={"press-4": StationConfig()}), place)
    writer.start()
    try:
        wait_until(lambda: writer.break_off_if_hung() or writer.is_up or not writer.alive, "the tables are made")
        assert database.query("SELECT version FROM anoseg.schema_version") == [(900,)]
        assert "archive.database_hung" not in caplog.messages
    finally:
        writer.stop()
        assert writer.join(10)


def test_what_a_station_says_is_stored_without_what_postgresql_does_not_take(store: Store) -> None:
    """Characters that PostgreSQL refuses, in a station's name, state and error, are replaced."""
    store.begin_journal("press-4", A, store.position("press-4"))
    store.note_seen([Seen("press-4", "li\0ne", "1\ud800", "Ready", 1, True)])
    store.write([Batch("press-4", events=[ArchiveEvent("fai\0led", True, "a\udfff")])])
    assert store.connection.execute("SELECT own_name, version FROM station").fetchall() == [("li\ufffdne", "1\ufffd")]
    assert ("fai\ufffdled", "a\ufffd") in store.connection.execute("SELECT kind, detail FROM event").fetchall()


def test_a_renamed_station_is_no_second_one(store: Store) -> None:
    """Its old name does not count as another station of the same name."""
    for name in ("press-4", "press-04"):
        store.begin_journal(name, A, store.position(name))
        store.note_seen([Seen(name, "line", "1", "Ready", 1, True)])
    assert store.same_names() == {}
    store.begin_journal("press-5", B, store.position("press-5"))
    store.note_seen([Seen("press-5", "line", "1", "Ready", 1, True)])
    assert store.same_names() == {"line": ("press-04", "press-5")}


def test_names_move_on_to_other_stations(store: Store) -> None:
    """press-5 becomes press-4, and the station that was press-4 gets a new name. Both go on where they were."""
    for name, journal_id in (("press-4", A), ("press-5", B)):
        store.begin_journal(name, journal_id, store.position(name))
    assert store.take("press-4")
    assert store.take("press-6")
    with pytest.raises(OtherStationError):
        store.begin_journal("press-6", A, store.position("press-6"))
    store.begin_journal("press-4", B, store.position("press-4"))
    assert [event.kind for event in store.begin_journal("press-6", A, store.position("press-6"))] == ["renamed"]
    assert (store.position("press-4").journal_id, store.position("press-6").journal_id) == (B, A)


@pytest.mark.parametrize("wrong", ["", "x" * 32, A.upper(), f"{A[:8]}-{A[8:]}", 5, None])
def test_an_id_that_no_journal_has(wrong: object) -> None:
    """PostgreSQL reads some of them as the same number: the station would seem to change its journal at each answer."""
    with pytest.raises(PageError):
        journal_of({"journal_id": wrong})


def test_another_program_at_a_stations_address(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Tables, tmp_path: Path
) -> None:
    """Its answers are an alarm, and other stations are archived."""
    address, ended = f"ipc://{tmp_path}/other", threading.Event()
    answers = [b"[1]", b'{"id": 1, "ok": true, "state": [2]}', b"nonsense", b"[" * 100_000]

    def answer() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.bind(address)
            while not ended.is_set():
                if socket.poll(50):
                    peer, *_ = socket.recv_multipart()
                    socket.send_multipart([peer, answers[0]])
                    answers.append(answers.pop(0))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        station = make_station("press-4", 50)
        archive = make_archive(station, **{"press-5": address})
        archive.wait_for("archive.alarm", kind="not_understood", station="press-5")
        database.wait_for_verdicts(50)
        assert archive.terminate() == 0
    finally:
        ended.set()
        thread.join()


def test_a_journal_that_was_put_back(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Tables
) -> None:
    """A station whose disk was restored uses numbers again that are archived already: that is an alarm, not silence."""
    station = make_station("press-4", 50)
    station.wait_until_stored(50)
    station.terminate()
    copy = {path: path.read_bytes() for path in station.folder.glob("verdicts.db*")}
    station._command[4] = "1000"
    station.start()
    archive = make_archive(station)
    database.wait_for_verdicts(1000)
    station.terminate()
    for path in station.folder.glob("verdicts.db*"):
        path.unlink()
    for path, content in copy.items():
        path.write_bytes(content)
    station._command[4] = "60"
    station.start()
    archive.wait_for("archive.alarm", kind="journal_set_back", station="press-4")
    assert archive.terminate() == 0
    assert database.events("journal_replaced", "gone") == []


def test_the_server_notices_a_lost_connection_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the lost session keeps the locks of the stations for two hours."""
    port = str(free_port())
    monkeypatch.setenv("PGPORT", port)
    with running(*FAST, "listen_addresses=127.0.0.1", f"port={port}"):
        arguments = {**DEFAULTS, "host": "127.0.0.1", "user": "postgres", "dbname": "postgres"}
        with contextlib.closing(connect(Database(arguments, "anoseg", "here"))) as connection:
            names = ("idle", "interval", "count")
            kept = [connection.execute(f"SHOW tcp_keepalives_{name}".encode()).fetchone() for name in names]
            assert kept == [("10",), ("5",), ("3",)]
            assert connection.execute("SHOW tcp_user_timeout").fetchone() == ("20000",)


def test_a_server_that_takes_no_changes(place: Database) -> None:
    """A standby is named as such."""
    with contextlib.closing(connect(place)) as connection:
        connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.Error) as caught:
            schema.migrate(connection, place)
    assert "target_session_attrs" in (in_words(caught.value, place).hint or "")
