"""Measures how many verdicts a second an archive stores, and three ways to write them, in one run. Quiet machine.

    python tests/bench/archive_rate.py --stations 20 --verdicts 100000

First the ways to write alone: batches of 280 rows (a page) and 2000, through one connection, with fsync. Then the whole
archive: stations whose journals are full already (`support/journal_station.py`), from the first row to the last.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.postgres import Postgres
from support.verdict_archive import Archive, Database, JournalStation

from anosegd.archive import schema
from anosegd.archive import store as store_module
from anosegd.archive.database import Database as Place
from anosegd.archive.rows import VERDICT_COLUMNS, Row, verdict_row


def rows(count: int) -> list[Row]:
    """Rows like those of a station with one camera."""
    journal = uuid.uuid4().hex
    engine = {"name": "my-part", "version": 1, "digest": "9" * 64, "runtime": "openvino 2026.4.1 cpu bf16"}
    times = dict.fromkeys(("captured_at", "read_at", "committed_at"), "2026-11-27T06:00:01.289000Z")
    verdict: dict[str, Any] = {
        "schema": "anoseg.verdict/1", "station": "press-4", "journal_id": journal, "run_id": journal, "camera": "top",
        "outcome": "PASS", "reason": None, "detail": None, "score": 0.1234, "threshold": 0.4304,
        "threshold_from": "calibration", "defects": [],
        "recipe": "default", "recipe_asked": None, "settings": "b" * 64, "engine": engine, "source": None,
        "triggered_at": None, "durable": True, **times,
        "timings_ms": {"capture": None, "wait": 0.4, "inspect": 6.1, "inference": 4.2, "total": 54.0},
    }  # fmt: skip
    made = ({**verdict, "seq": n, "part_id": str(n), "sequence": n} for n in range(1, count + 1))
    return [verdict_row("press-4", journal, each) for each in made]


def insert_many(cursor: Any, batch: list[Row]) -> None:
    holes = ", ".join(["%s"] * len(batch[0]))
    cursor.executemany(f"INSERT INTO verdict ({VERDICT_COLUMNS}) VALUES ({holes}) ON CONFLICT DO NOTHING", batch)


def copy(cursor: Any, batch: list[Row], table: str = "verdict") -> None:
    with cursor.copy(f"COPY {table} ({VERDICT_COLUMNS}) FROM STDIN") as to:
        for row in batch:
            to.write_row(row)


def copy_staged(cursor: Any, batch: list[Row]) -> None:
    copy(cursor, batch, "staged_verdict")
    cursor.execute(store_module._UNSTAGE)


def writing(database: Database, count: int) -> None:
    """Print the rate of each way to write."""
    place = Place({}, "anoseg", "bench")
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("SET search_path TO anoseg")
        schema.migrate(connection, place)
        connection.execute(store_module._STAGE)
        made = rows(count)
        ways = {"INSERT … ON CONFLICT": insert_many, "COPY into a staging table": copy_staged, "COPY into the table": copy}
        for size in (280, 2000):
            for name, write in ways.items():
                connection.execute("TRUNCATE verdict")
                begun = time.perf_counter()
                for first in range(0, count, size):
                    with connection.transaction(), connection.cursor() as cursor:
                        write(cursor, made[first : first + size])
                print(f"{name:26} {size:5} rows a transaction  {count / (time.perf_counter() - begun):7.0f} rows/s", flush=True)
        bytes_a_row = connection.execute("SELECT pg_total_relation_size('verdict') / count(*) FROM verdict").fetchone()
        print(
            f"{len(made[0][-1].encode())} bytes of header, {bytes_a_row[0] if bytes_a_row else 0} bytes a row with its indexes"
        )


def archiving(server: Postgres, stations: int, verdicts: int, folder: Path) -> None:
    """Print the rate of the whole archive."""
    each = verdicts // stations
    made = [JournalStation(f"station-{n:02}", each) for n in range(stations)]
    database = Database(server, "plant")
    archive = Archive(folder, database.conninfo, {station.name: station.control for station in made})
    try:
        for station in made:
            station.start()
            station.wait_until_stored(each)
        rows = sum(len(station.journal()) for station in made)  # at full speed, a journal may leave a few numbers void
        archive.start()
        archive.wait_for("archive.started")
        database.wait_for_verdicts(1)
        begun, first = time.monotonic(), database.query("SELECT count(*) FROM anoseg.verdict")[0][0]
        database.wait_for_verdicts(rows)
        took = time.monotonic() - begun
        assert archive.process is not None
        status = Path(f"/proc/{archive.process.pid}/status").read_text()
        memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        files = len(list(Path(f"/proc/{archive.process.pid}/fd").iterdir()))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        archive.terminate()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the archive too, now that it has ended
        print(
            json.dumps(
                {
                    "stations": stations,
                    "rows": rows,
                    "rows_per_s": round((rows - first) / took),
                    "most_memory_mb": int(memory) // 1024,
                    "open_files": files,
                    "archive_cpu_s": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
                }
            )
        )
    finally:
        archive.close()
        for station in made:
            station.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=20)
    parser.add_argument("--verdicts", type=int, default=100_000)
    options = parser.parse_args()
    server = Postgres()
    try:
        server.start()
        writing(Database(server, "ways"), min(options.verdicts, 40_000))
        with tempfile.TemporaryDirectory(prefix="anoseg-rate-") as name:
            archiving(server, options.stations, options.verdicts, Path(name))
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
