"""Runs `anosegd archive` and stations for it, and compares what is in the database with the stations' journals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from support.anosegd_line import LIMIT_S, wait_until
from support.paths import SUPPORT
from support.postgres import Postgres

from anosegd.client import Client, NoAnswerError
from anosegd.journal import JournalConfig, offline_reader


class Process:
    """A program that may be killed and started again."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self._command, self._log, self._environment = command, log, {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._from = 0  # where the log of the present process begins

    def start(self) -> None:
        self._from = len(self.log)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def wait_for(self, event: str, **fields: Any) -> None:
        """Wait until the present process has logged an event with these fields."""
        wanted = {"event": event, **fields}

        def logged() -> bool:
            lines = [
                json.loads(line) for line in self.log[self._from :].splitlines() if line.startswith("{") and line[-1] == "}"
            ]
            return any(wanted.items() <= line.items() for line in lines)

        wait_until(lambda: logged() or (self.process is not None and self.process.poll() is not None), event)
        assert logged(), self.log

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class JournalStation(Process):
    """A station without cameras and engine (`journal_station.py`). `name` is what it calls itself."""

    def __init__(self, name: str, verdicts: int, *, rate: float = 0, **journal: Any) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="anoseg-station-"))
        if journal:
            (self.folder / "journal.json").write_text(json.dumps(journal))
        self.control = f"ipc://{self.folder}/control"
        arguments = [str(self.folder), name, str(verdicts), str(rate)]
        super().__init__([sys.executable, str(SUPPORT / "journal_station.py"), *arguments], self.folder / "log")

    def client(self) -> Client:
        return Client(control=self.control)

    def wait_until_stored(self, verdicts: int) -> None:
        """Wait until its journal has so many numbers."""

        def stored() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            with self.client() as client:
                try:
                    return bool(client.status()["journal"]["last_committed"] >= verdicts)
                except NoAnswerError:
                    return False

        wait_until(stored, f"{self.name} stores {verdicts}")

    def journal(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Everything in its journal, which no process may be using."""
        return verdicts_of(self.folder / "verdicts.db")


class Archive(Process):
    """`anosegd archive` in a process of its own."""

    def __init__(self, folder: Path, database: str, stations: dict[str, str], more: str = "", **environment: str) -> None:
        self.config = folder / "archive.yaml"
        lines = [f"  {name}: {{control: '{control}'}}\n" for name, control in stations.items()]
        self.config.write_text(f"database: '{database}'\nstations:\n{''.join(lines)}{more}\n")
        command = [sys.executable, "-m", "anosegd", "archive", str(self.config)]
        super().__init__(command, folder / "archive.log", environment)


class Database:
    """One database of a cluster."""

    def __init__(self, server: Postgres, name: str, *, create: bool = True) -> None:
        self.server, self.name = server, name
        if create:
            server.query(f"CREATE DATABASE {name}")

    @property
    def conninfo(self) -> str:
        return f"host={self.server.folder} user=postgres dbname={self.name}"

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.server.query(text, *values, database=self.name)

    def verdicts(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Every row, by its identity. The primary key alone would not show a row that is there under another number."""
        rows = self.query("SELECT journal_id, seq, header FROM anoseg.verdict")
        return {(journal.hex, seq): header for journal, seq, header in rows}

    def events(self, *kinds: str) -> list[tuple[Any, ...]]:
        """Station, kind, first and last number of what was noted; of all kinds or some."""
        rows = self.query("SELECT station, kind, first, last FROM anoseg.event ORDER BY id")
        return [row for row in rows if not kinds or row[1] in kinds]

    def wait_until(self, condition: str, what: str = "") -> None:
        """Wait until a query's only value is true."""
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                rows = self.query(f"SELECT {condition}")
                if rows and rows[0][0]:
                    return
            except psycopg.Error:  # the server, or the schema, is not there yet
                if time.monotonic() > end:
                    raise
            assert time.monotonic() < end, f"not so in time: {what or condition}"
            time.sleep(0.1)

    def wait_for_verdicts(self, count: int) -> None:
        self.wait_until(f"count(*) >= {count} FROM anoseg.verdict")

    def wait_until_archived(self, station: JournalStation) -> None:
        """Wait until everything in the journal of a station is here, and for a second there was nothing new."""
        last, since = -1, time.monotonic()
        with station.client() as client:
            while time.monotonic() - since < 1:
                now = int(client.status()["journal"]["last_committed"])
                if now != last:
                    last, since = now, time.monotonic()
                time.sleep(0.1)
            journal_id = client.status()["journal_id"]
        self.wait_until(f"cursor = {last} FROM anoseg.journal WHERE journal_id = '{journal_id}'", f"{station.name} to {last}")


def verdicts_of(journal: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Everything in a journal that no process uses, by its identity."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with offline_reader(JournalConfig(path=str(journal))) as reader:
        first = 1
        while True:
            page = reader.page(first)
            for entry in page.entries:
                found[page.journal_id, entry.seq] = json.loads(entry.header)
            if page.next <= first:
                return found
            first = page.next


def differences(stored: dict[tuple[str, int], dict[str, Any]], journals: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    """What differs between the database and the journals."""
    missing, extra = journals.keys() - stored.keys(), stored.keys() - journals.keys()
    wrong = [key for key in journals.keys() & stored.keys() if journals[key] != stored[key]]
    said = [("missing", missing), ("not in a journal", extra), ("different", wrong)]
    return [f"{len(keys)} {what}, such as {sorted(keys)[:3]}" for what, keys in said if keys]
