"""The views, the dashboard and retention, on real rows in the real database."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from support.paths import CONFIGS, REPOSITORY
from support.verdict_archive import Archive, Database, JournalStation

from anosegd.archive import schema
from anosegd.archive.config import ArchiveConfig, StationConfig
from anosegd.archive.database import Database as Place
from anosegd.archive.database import connect
from anosegd.archive.retention import STEP_ROWS, Retention
from anosegd.archive.rows import ArchiveEvent, Batch, verdict_row
from anosegd.archive.store import MovedError, Store

JOURNAL = "5f" * 16
DASHBOARD = CONFIGS / "grafana-dashboard.json"
CONFIG = ArchiveConfig(stations={"press-4": StationConfig()})


@pytest.fixture
def place(database: Database) -> Place:
    return Place(psycopg.conninfo.conninfo_to_dict(database.conninfo), "anoseg", "the test's database")


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """The tables with the station press-4, whose journal is empty."""
    with contextlib.closing(connect(place)) as connection:
        schema.migrate(connection, place)
        store = Store(connection)
        store.begin_journal("press-4", JOURNAL, store.position("press-4"))
        yield store


def verdict(seq: int, at: str, outcome: str, **fields: Any) -> dict[str, Any]:
    timings = {"total": 10.0 * seq}
    made = {"seq": seq, "camera": "top", "outcome": outcome, "part_id": str(seq), "recipe": "lid", "timings_ms": timings}
    return {**made, "captured_at": at, "committed_at": at, **fields}


def put(store: Store, verdicts: list[dict[str, Any]]) -> None:
    first = store.position("press-4").cursor + 1
    rows = [verdict_row("press-4", JOURNAL, each) for each in verdicts]
    store.write([Batch("press-4", JOURNAL, first, first + len(rows), rows)])


SHIFTS = [
    verdict(1, "2026-11-27T04:59:59Z", "PASS"),  # 05:59:59 in Berlin: still the night shift, which began on the day before
    verdict(2, "2026-11-27T05:00:00Z", "FAIL"),
    verdict(3, "2026-11-27T05:00:04Z", "PASS"),
    verdict(4, "2026-11-27T05:00:08Z", "UNKNOWN", reason="overrun"),
    verdict(5, "2026-11-27T05:01:08Z", "PASS"),
]


def test_shifts_and_days_in_the_configured_time_zone(store: Store) -> None:
    """Counts, reject share and cycle times by shift and day; the night shift begins on the day before."""
    store.set_report("Europe/Berlin", ["06:00", "14:00", "22:00"])
    put(store, SHIFTS)
    query = store.connection.execute
    shifts = query("SELECT shift, parts, passed, failed, unknown, reject_share FROM report_shift ORDER BY shift").fetchall()
    assert [(shift.isoformat(), *counts, float(share)) for shift, *counts, share in shifts] == [
        ("2026-11-26T22:00:00", 1, 1, 0, 0, 0.0),
        ("2026-11-27T06:00:00", 4, 2, 1, 1, 0.5),
    ]
    days = query("SELECT day::text, parts, total_ms_mean FROM report_day").fetchall()
    assert days == [("2026-11-27", 5, 30.0)]
    assert query("SELECT reason, parts FROM report_unknown").fetchall() == [("overrun", 1)]
    cycles = query("SELECT cycles, cycle_s_median FROM report_cycle ORDER BY shift").fetchall()
    assert cycles == [(0, None), (4, 4.0)]


def test_a_moved_cursor_stops_everything(store: Store) -> None:
    """Rows that do not follow the cursor are not written: two archives cannot both write."""
    put(store, SHIFTS[:2])
    late = Batch("press-4", JOURNAL, 2, 3, [verdict_row("press-4", JOURNAL, SHIFTS[2])])
    with pytest.raises(MovedError):
        store.write([late])
    assert store.connection.execute("SELECT count(*) FROM verdict").fetchone() == (2,)


def test_migrations_are_made_once_and_together(database: Database, place: Place) -> None:
    """A second start changes nothing. A step that fails leaves nothing behind."""
    with connect(place) as connection:
        broken = [*schema.migrations()[:1], schema.Migration("002_broken.sql", "CREATE TABLE half (a int); SELECT 1/0")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schema, "migrations", lambda: broken)
            with pytest.raises(psycopg.errors.DivisionByZero):
                schema.migrate(connection, place)
        assert database.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'anoseg'") == [(0,)]
        assert schema.migrate(connection, place) == [step.name for step in schema.migrations()]
        assert schema.migrate(connection, place) == []
        assert schema.version_of(connection, place) == schema.newest_version()


def test_an_older_schema_is_brought_up(place: Place) -> None:
    """Tables of version 1 with rows in them get what is new, and keep their rows."""
    with connect(place) as connection:
        with pytest.MonkeyPatch.context() as patch:
            first = schema.migrations()[:1]
            patch.setattr(schema, "migrations", lambda: first)
            schema.migrate(connection, place)
        store = Store(connection)
        store.begin_journal("press-4", JOURNAL, store.position("press-4"))
        put(store, SHIFTS)
        assert schema.migrate(connection, place) == ["002_views.sql"]
        assert connection.execute("SELECT sum(parts) FROM report_day").fetchone() == (5,)


def test_what_is_old_is_deleted_and_cursors_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows older than keep_days go, in steps; names of persons go after keep_names_days; the cursor stays where it was."""
    put(store, SHIFTS)
    store.write([Batch("press-4", events=[ArchiveEvent("void", False, "x", JOURNAL, 6, 7)])])
    query = store.connection.execute
    query(
        "INSERT INTO change VALUES (%s, 1, 'press-4', now() - interval '9 days', 'swap', NULL, 'a', 'b', 'Anna', '')",
        (JOURNAL,),
    )
    query("UPDATE verdict SET archived_at = now() - interval '8 days' WHERE seq <= 3")
    monkeypatch.setattr("anosegd.archive.retention.STEP_ROWS", 2)
    retention = Retention(msgspec.structs.replace(CONFIG, keep_days=7, keep_names_days=5))
    retention.step(store.connection)
    assert query("SELECT count(*) FROM verdict").fetchone() == (3,)
    retention.step(store.connection)
    assert query("SELECT seq FROM verdict ORDER BY seq").fetchall() == [(4,), (5,)]
    assert query("SELECT who FROM change").fetchall() == [("",)]
    assert store.position("press-4").cursor == 5
    assert STEP_ROWS > 100


def queries() -> list[tuple[str, str]]:
    """Every query of the dashboard, by its title."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["rawSql"]) for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [(each["label"], each["query"]) for each in dashboard["templating"]["list"] if each["type"] == "query"]


def without_macros(query: str) -> str:
    """What Grafana's PostgreSQL data source sends for a query."""
    query = (
        query.replace("$__interval", "1h").replace("${station:sqlstring}", "'press-4'").replace("${camera:sqlstring}", "'top'")
    )
    query = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN '2026-11-27T00:00:00Z' AND '2026-11-28T00:00:00Z'", query)
    return re.sub(r"\$__timeGroupAlias\((\w+), ?1h\)", r"""floor(extract(epoch from \1)/3600)*3600 AS "time" """, query)


@pytest.mark.parametrize(("title", "query"), queries(), ids=lambda text: text[:30])
def test_each_query_of_the_dashboard_runs(store: Store, title: str, query: str) -> None:
    """With Grafana's macros replaced, each gives rows of the right numbers from the real tables."""
    put(store, SHIFTS)
    query_ = store.connection.execute
    at = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)
    query_("UPDATE event SET at = %s, alarm = true", (at,))
    query_("INSERT INTO feedback VALUES (%s, 1, 1, 2, %s, 'false_reject', 'dust', 'Anna', NULL)", (JOURNAL, at))
    query_("INSERT INTO change VALUES (%s, 1, 'press-4', %s, 'swap', NULL, 'a', 'b', 'Anna', '')", (JOURNAL, at))
    sent = without_macros(query)
    assert "$" not in sent
    rows = query_(sent.encode()).fetchall()
    assert rows
    expected = {"Parts": [(5,)], "Reject share": [(0.4,)], "Not inspected (UNKNOWN)": [(1,)], "Alarms of the archive": [(1,)]}
    assert expected.get(title, rows) == rows


def test_the_documentation_names_every_table_and_view(store: Store) -> None:
    """docs/archive.md has each of them, and every kind of event."""
    page = (REPOSITORY / "docs" / "archive.md").read_text()
    relations = "SELECT relname FROM pg_class WHERE relnamespace = 'anoseg'::regnamespace AND relkind IN ('r', 'v')"
    names = [row[0] for row in store.connection.execute(relations)]
    assert [name for name in names if f"`{name}`" not in page and name != "schema_version"] == []
    sources = "".join(path.read_text() for path in (REPOSITORY / "daemon/anosegd/archive").glob("*.py"))
    kinds = set(re.findall(r'(?:ArchiveEvent|_note_trouble)\(\s*"(\w+)"', sources))
    assert len(kinds) > 8
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []


def test_a_reader_is_told_of_retention_by_rows_alone(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], database: Database, tmp_path: Path
) -> None:
    """An archive that deletes what it has stored goes on without a gap, an alarm or a second copy."""
    station = make_station("press-4", 300)
    archive = make_archive(station, more="keep_days: 0.00001")
    database.wait_until("cursor = 300 FROM anoseg.journal")
    archive.kill()
    time.sleep(1.0)  # the rows become old enough: a minute later would be the next time that it deletes
    archive.start()
    archive.wait_for("archive.deleted")
    station.terminate()
    station._command[4] = "400"
    station.start()
    database.wait_until("cursor = 400 FROM anoseg.journal")
    assert archive.terminate() == 0
    assert database.query("SELECT count(*) FROM anoseg.event WHERE kind IN ('gone', 'journal_replaced')") == [(0,)]
