"""`export`, `replay`, `tail --since` and `changes` for a station that is down: they read the file of its journal."""

import csv
import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from support.anosegd_line import run_anosegd
from support.journal_tools import close_journals, open_journal

from anosegd import wire
from anosegd.commands.export import as_text
from anosegd.journal import Change, Entry, Journal, JournalConfig

CONFIG = """
engine: {{bundle: no-bundle}}
publish: {{endpoint: 'ipc://{folder}/pub'}}
control: {{endpoint: 'ipc://{folder}/ctl'}}
journal: {{path: verdicts.db, keep_days: 36500}}
cameras: {{top: {{source: {{kind: device, device: 0}}}}}}
"""


class Station:
    """A station that is down, with its configuration and journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "line.yaml"
        self.config.write_text(CONFIG.format(folder=folder))
        self.journal: Journal = open_journal(JournalConfig(path=str(folder / "verdicts.db"), keep_days=36500))

    def add(self, captured: str, part_id: str = "P", committed: str | None = None) -> None:
        """Commit a verdict of a part that was captured then (ISO 8601 with an offset)."""
        number = self.journal.next_id()
        captured_ns, committed_ns = (
            round(datetime.fromisoformat(at).timestamp() * 1e9) for at in (captured, committed or captured)
        )
        verdict = wire.Verdict(
            station="station", journal_id=number.journal_id, seq=number.seq, run_id="r", camera="top", part_id=part_id,
            sequence=number.seq, captured_at=wire.utc(captured_ns), committed_at=wire.utc(committed_ns), outcome="FAIL",
            score=0.75, threshold=0.5, threshold_from="person", recipe="default", durable=True,
            engine=wire.EngineName(name="tiny", version=3, digest="abc", runtime="cpu"), timings_ms=wire.Timings(total=1.0),
        )  # fmt: skip
        entry = Entry(number.journal_id, number.seq, "top", "FAIL", captured_ns, committed_ns, wire.encode(verdict))
        done: list[Exception | None] = []
        self.journal.submit([entry], lambda entries, error: done.append(error))
        while not done:
            time.sleep(0.005)
        assert done == [None]

    def close(self) -> None:
        assert self.journal.close()

    def export(self, *arguments: str) -> list[dict[str, str]]:
        """The rows of an export to standard output."""
        done = run_anosegd("export", str(self.config), "--csv", "-", *arguments)
        assert done.returncode == 0, done.stderr
        return list(csv.DictReader(io.StringIO(done.stdout, newline="")))

    def files(self) -> dict[str, tuple[bytes, int]]:
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in self.folder.iterdir()}


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield Station(tmp_path)
    close_journals()
    monkeypatch.undo()
    time.tzset()


def ids(rows: list[dict[str, str]]) -> list[str]:
    return [row["part_id"].removeprefix("'") for row in rows]


def test_rows_of_the_two_nights_in_which_clocks_change(station: Station) -> None:
    """A night has the parts of its hours, each once: seven when clocks are set forward, nine when they are set back."""
    for utc in range(20, 30):
        station.add(f"2026-03-{28 + utc // 24}T{utc % 24:02}:30:00+00:00", f"spring {utc % 24}")
        station.add(f"2026-10-{24 + utc // 24}T{utc % 24:02}:30:00+00:00", f"autumn {utc % 24}")
    station.close()
    spring = station.export("--since", "2026-03-28T22:00", "--until", "06:00")
    assert ids(spring) == [f"spring {hour}" for hour in (21, 22, 23, 0, 1, 2, 3)]
    assert [row["time"][11:] for row in spring[3:5]] == ["01:30:00.000+01:00", "03:30:00.000+02:00"]
    autumn = station.export("--since", "2026-10-24T22:00", "--until", "06:00")
    assert ids(autumn) == [f"autumn {hour}" for hour in (20, 21, 22, 23, 0, 1, 2, 3, 4)]
    assert [row["time"][11:] for row in autumn[4:6]] == ["02:30:00.000+02:00", "02:30:00.000+01:00"]
    assert autumn[5]["captured_at"] == "2026-10-25T01:30:00.000000Z"
    first, second = (station.export("--since", *period) for period in (
        ("2026-10-24T22:00", "--until", "02:30"), ("2026-10-25T02:30", "--until", "06:00"),
    ))  # fmt: skip
    assert ids(first) + ids(second) == ids(autumn)


def test_rows_are_chosen_by_their_own_time_when_the_clock_was_set(station: Station) -> None:
    """The clock was an hour fast, set right, then wrong after a boot: each part is where its own time says."""
    for at in ("05:10", "06:40", "07:20", "06:25", "06:50", "07:30"):
        station.add(f"2026-11-28T{at}:00+01:00", at)
    station.add("2000-01-01T00:00:10+01:00", "boot")
    station.add("2026-11-28T06:55:00+01:00", "06:55")
    station.add("2026-11-28T05:59:59+01:00", "late", committed="2026-11-28T06:00:03+01:00")
    station.close()
    assert ids(station.export("--since", "2026-11-28T06:00", "--until", "07:00")) == ["06:40", "06:25", "06:50", "06:55"]
    assert ids(station.export("--since", "2026-11-28T05:00", "--until", "06:00")) == ["05:10", "late"]
    assert ids(station.export("--until", "2026-01-01")) == ["boot"]


def test_nothing_is_changed_where_the_journal_is(station: Station) -> None:
    """The commands of a station that is down write, rename and make no file, as any user, whatever the last daemon left."""
    station.add("2026-11-28T06:00:00+01:00", "lot-1")
    station.journal.note(Change(time.time_ns(), "threshold", "top", "0.5 calibration", "0.4 person", "Anna", "why"))
    station.close()
    before = station.files()
    assert ids(station.export()) == ["lot-1"]
    assert '"part_id":"lot-1"' in run_anosegd("replay", str(station.config)).stdout
    shown = run_anosegd("tail", str(station.config), "--json", "--since", "2026-11-28", "--count", "1")
    assert (shown.returncode, '"part_id":"lot-1"' in shown.stdout) == (0, True)
    assert f"the station is down; read from {station.folder / 'verdicts.db'}" in shown.stderr
    assert "Anna" in run_anosegd("changes", str(station.config)).stdout
    assert station.files() == before


@pytest.mark.parametrize("left", ["all its files", "no -shm"])
def test_the_journal_of_a_killed_daemon(station: Station, tmp_path_factory: pytest.TempPathFactory, left: str) -> None:
    """What is in the write-ahead log is there, a number that was pending is void, and nothing is changed."""
    station.add("2026-11-28T06:00:00+01:00", "one")
    pending = station.journal.next_id()
    station.add("2026-11-28T06:00:01+01:00", "three")
    copy = tmp_path_factory.mktemp("killed")
    for path in station.folder.iterdir():
        shutil.copyfile(path, copy / path.name)
    station.journal.discard([pending])
    station.close()
    if left == "no -shm":
        (copy / "verdicts.db-shm").unlink()
    assert (copy / "verdicts.db-wal").stat().st_size > 0
    killed = Station.__new__(Station)
    killed.folder, killed.config = copy, copy / "line.yaml"
    killed.config.write_text(CONFIG.format(folder=copy))
    before = killed.files()
    done = run_anosegd("export", str(killed.config), "--csv", "-")
    assert ids(list(csv.DictReader(io.StringIO(done.stdout)))) == ["one", "three"]
    assert "void 2…2" in done.stderr
    assert killed.files() == before


def test_what_is_no_journal_is_said(station: Station) -> None:
    """A journal that was never made, another program's file, and a damaged one: one line, no file for the export."""
    station.close()
    path = station.folder / "verdicts.db"
    target = station.folder / "x.csv"
    path.unlink()
    station.folder.joinpath("verdicts.db.seq").unlink()
    for content, said in ((None, "there is no journal yet"), (b"other" * 100, "is not a journal, but another file")):
        if content is not None:
            path.write_bytes(content)
        done = run_anosegd("export", str(station.config), "--csv", str(target))
        assert (done.returncode > 0, said in done.stderr, target.exists()) == (True, True, False)


def test_a_daemon_that_starts_meanwhile_is_noticed(station: Station) -> None:
    """What was read may then be half of each: the command says so instead of writing a file that looks whole."""
    for number in range(3):
        station.add(f"2026-11-28T06:00:0{number}+01:00", "P")
    station.close()
    path = station.folder / "verdicts.db"
    script = f"""
import sqlite3
from anosegd.commands import export
from anosegd.cli import main

row = export.row

def slow(verdict):
    db = sqlite3.connect({str(path)!r})
    db.execute("UPDATE journal SET begun_ns = begun_ns + 1")
    db.commit()
    db.close()
    return row(verdict)

export.row = slow
main()
"""
    target = station.folder / "shift.csv"
    done = subprocess.run(
        [sys.executable, "-c", script, "export", str(station.config), "--csv", str(target)], capture_output=True, text=True
    )
    assert (done.returncode, "the station was started meanwhile" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    "text",
    [
        *(
            "=1+1",
            '=HYPERLINK("http://x","y")',
            "+49 170",
            "-5",
            "@SUM(A1)",
            "\t=1",
            "'7",
            "\u00a07",
            "007",
            "4711",
            "1E5",
            "1e-5",
            "3/4",
            "June 3",
        ),
        *("12:30", "2026-11-28", "28.11.2026", "MAR1", "1-DEC", "Mai 3", "TRUE", "falsch", "1,5", "1.000,50 €", " 007", "|cmd"),
    ],
)
def test_what_a_spreadsheet_would_change_begins_with_an_apostrophe(text: str) -> None:
    """A part id that looks like a formula, number, date or truth value stays text, and so does one that begins with one."""
    assert as_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "P-4711", "lot[a1]-3", "Teil [/A] 7", "Gehäuse", "demo-000012", "A007", "0x1F", "a\nb"])
def test_other_text_is_as_it_is(text: str) -> None:
    """Nothing is put in front of what stays text anyway."""
    assert as_text(text) == text


def test_a_long_text_of_words_takes_no_time() -> None:
    """Whatever the word: text of a foreign system must not stop an export."""
    script = (
        "from anosegd.commands.export import _WORDS, as_text\n"
        "for word in [*_WORDS.split('|'), 'june', 'janfebmar', 'e1']: assert as_text(word * 60 + 'x') == word * 60 + 'x'"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_file_opens_in_a_spreadsheet(station: Station) -> None:
    """A byte order mark, so that umlauts are read; bundle, version, threshold, and local time with its offset and UTC."""
    part_ids = ["Gehäuse größer", "=1+1", "007", "a\nb", '"q",;', "x" * 3000, "[/A]", "\x1b[31m"]
    for number, part_id in enumerate(part_ids):
        station.add(f"2026-07-01T06:00:0{number}+02:00", part_id)
    station.close()
    target = station.folder / "shift.csv"
    done = run_anosegd("export", str(station.config), "--csv", str(target), "--since", "2026-07-01", "--until", "24:00")
    assert done.stdout == f"8 verdicts from 2026-07-01 00:00:00+02:00 to 2026-07-02 00:00:00+02:00 in {target}\n"
    assert target.read_bytes().startswith(b"\xef\xbb\xbftime,")
    with target.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["part_id"].removeprefix("'") for row in rows] == part_ids
    first = rows[0]
    assert (first["time"], first["captured_at"]) == ("2026-07-01T06:00:00.000+02:00", "2026-07-01T04:00:00.000000Z")
    assert (first["bundle"], first["version"], first["threshold"], first["threshold_from"]) == ("tiny", "3", "0.5", "person")
    again = run_anosegd("export", str(station.config), "--csv", str(target))
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
