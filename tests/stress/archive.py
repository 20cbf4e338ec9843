"""Kills an archive, its database and its stations at random; no verdict may be lost or be there twice. `make archive-kills`.

    python tests/stress/archive.py --stations 20 --verdicts 200000 --kills 50     # the defaults

Real: `anosegd archive` as a user starts it, PostgreSQL (fsync on) in a cluster of its own, and of each station the journal, the
publisher and the control socket in a process of its own. Not real: the outcomes come from a counter instead of cameras and an
engine, because 20 engines would take all processors (`support/journal_station.py`). Every kill is SIGKILL; that of the database
goes to the postmaster, as when the kernel is out of memory. Each kill comes when a random number of verdicts is stored.
Feedback and threshold changes are sent meanwhile.

At the end, the rows are compared with the stations' journals, one for one, with the whole header. The table `event` must
account for every number that is not a verdict.
"""

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.postgres import Postgres
from support.verdict_archive import Archive, Database, JournalStation, differences

from anosegd.client import ClientError

PATIENCE_S = 300.0


class Plant:
    """The stations, the database and the archive."""

    def __init__(self, folder: Path, stations: int, verdicts: int, rate: float) -> None:
        self.server = Postgres()
        self.server.start()
        self.database = Database(self.server, "plant")
        self.wanted = verdicts
        each = -(-verdicts // stations)
        self.stations = [JournalStation(f"station-{n:02}", each, rate=rate / stations) for n in range(stations)]
        places = {station.name: station.control for station in self.stations}
        self.archive = Archive(folder, self.database.conninfo, places, "poll_s: 0.2\nsilent_after_s: 10\n")
        self.kills: Counter[str] = Counter()
        self.changed = 0
        self.marked: set[tuple[str, int]] = set()  # the same mark again is no new note

    def start(self) -> None:
        for station in self.stations:
            station.start()
        self.archive.start()

    def close(self) -> None:
        self.archive.close()
        for station in self.stations:
            station.close()
            shutil.rmtree(station.folder, ignore_errors=True)
        self.server.close()

    def kill(self, rng: random.Random) -> None:
        """Kill one of the three kinds, and start it again after a moment."""
        what = rng.choice(("archive", "archive", "database", "station", "station"))
        self.kills[what] += 1
        if what == "database":
            self.server.kill()
            time.sleep(rng.uniform(0, 1.0))
            self.server.start()
        else:
            killed = self.archive if what == "archive" else rng.choice(self.stations)
            killed.kill()
            time.sleep(rng.uniform(0, 0.5))
            killed.start()

    def say_something(self, rng: random.Random) -> None:
        """Give feedback on a part, and change a threshold."""
        station = rng.choice(self.stations)
        with contextlib.suppress(ClientError), station.client() as client:
            state = client.status()
            last = state["journal"]["last_committed"]
            part = rng.randint(1, max(last, 1))
            client.feedback(state["journal_id"], [part], "unsure", who="rig")
            self.marked.add((state["journal_id"], part))
            client.set_threshold("top", round(rng.uniform(0.2, 0.8), 3), who="rig", why="rig")
            self.changed += 1

    def stored(self) -> int:
        """How many verdicts are stored; while some are missing, void numbers count too: counting all rows takes long."""
        try:
            settled = int(self.database.query("SELECT coalesce(sum(cursor), 0) FROM anoseg.journal")[0][0])
            if settled < self.wanted:
                return settled
            return int(self.database.query("SELECT count(*) FROM anoseg.verdict")[0][0])
        except psycopg.Error:  # not there yet, or just killed
            return 0


def run(options: argparse.Namespace, folder: Path) -> list[str]:
    """Run the rig. Returns what went wrong."""
    rng = random.Random(options.seed)
    plant = Plant(folder, options.stations, options.verdicts, options.rate)
    try:
        plant.start()
        begun, stored = time.monotonic(), 0
        kill_at = sorted((rng.uniform(0.01, 0.97) * options.verdicts for _ in range(options.kills)), reverse=True)
        while stored < options.verdicts:
            plant.say_something(rng)
            time.sleep(0.2)
            if kill_at and stored >= kill_at[-1]:
                kill_at.pop()
                plant.kill(rng)
            stored = plant.stored()
            show(f"{time.monotonic() - begun:5.0f} s  {stored} stored  killed: {dict(plant.kills)}")
            if time.monotonic() - begun > options.limit_s:
                return [f"not done after {options.limit_s:.0f} s"]
        show(f"{stored} verdicts after {time.monotonic() - begun:.0f} s\n")
        print(f"kills that were left when everything was stored: {len(kill_at)}")
        for _ in kill_at:
            plant.kill(rng)
        return finish(plant)
    finally:
        plant.close()


def finish(plant: Plant) -> list[str]:
    """Let the archive catch up, stop everything, and compare."""
    wait_until_caught_up(plant)
    wrong = [] if plant.archive.terminate() == 0 else [f"the archive did not end in order: {plant.archive.log[-2000:]}"]
    journals: dict[tuple[str, int], dict[str, Any]] = {}
    for station in plant.stations:
        station.terminate()
        journals |= station.journal()
    database = plant.database
    wrong += differences(database.verdicts(), journals)
    voids = int(database.query("SELECT coalesce(sum(last - first + 1), 0) FROM anoseg.event WHERE kind = 'void'")[0][0])
    accounted = int(database.query("SELECT sum(cursor) FROM anoseg.journal")[0][0])
    if accounted != len(journals) + voids:
        wrong.append(f"{accounted} numbers, but {len(journals)} verdicts and {voids} void numbers")
    alarms = database.query("SELECT kind, count(*) FROM anoseg.event WHERE alarm AND kind <> 'silent' GROUP BY kind")
    wrong += [f"{count} alarms of the kind {kind}" for kind, count in alarms]
    marks, changes = (database.query(f"SELECT count(*) FROM anoseg.{table}")[0][0] for table in ("feedback", "change"))
    if marks < len(plant.marked) or changes < plant.changed:
        wrong.append(f"{marks} notes of at least {len(plant.marked)}, {changes} changes of at least {plant.changed}")
    print(f"{len(journals)} verdicts in {len(plant.stations)} journals, {voids} void numbers, {marks} notes, {changes} changes")
    print(f"killed: {dict(plant.kills)}, {plant.kills.total()} in all")
    print(f"the log: {Counter(line['event'] for line in plant.archive.events)}")
    return wrong


def wait_until_caught_up(plant: Plant) -> None:
    end = time.monotonic() + PATIENCE_S
    for station in plant.stations:
        with station.client() as client:
            while True:
                with contextlib.suppress(ClientError):
                    state = client.status()
                    rows = plant.database.query(
                        "SELECT cursor, change_cursor FROM anoseg.journal WHERE journal_id = %s", state["journal_id"]
                    )
                    changes = client.changes(1)
                    last = changes[-1]["number"] if changes else 0
                    if rows == [(state["journal"]["last_committed"], last)]:
                        break
                if time.monotonic() > end:
                    raise SystemExit(f"{station.name} is not archived to its end: {plant.archive.log[-2000:]}")
                time.sleep(0.2)
    time.sleep(3)  # feedback is asked for once in five rounds


def show(text: str) -> None:
    sys.stdout.write(f"\r{text:100}")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=20)
    parser.add_argument("--verdicts", type=int, default=200_000, help="of all stations (200000)")
    parser.add_argument("--kills", type=int, default=50, help="of all three kinds (50)")
    parser.add_argument("--rate", type=float, default=1500, help="verdicts a second of all stations; 0: as fast as they can")
    parser.add_argument("--limit-s", type=float, default=1800, help="give up after this long (1800)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anoseg-archive-") as name:
        wrong = run(options, Path(name))
    print("\n".join(wrong) or "every durable verdict is in the database once")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
