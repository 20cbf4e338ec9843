"""Helpers for tests of the journal: entries, commits, and walks through everything that a reader returns."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from anosegd.journal import Entry, Journal, JournalConfig, JournalReader, Page, Range, VerdictId

WAIT_S = 30.0
_opened: list[Journal] = []


def config(path: Path, **settings: object) -> JournalConfig:
    return JournalConfig(path=str(path), **settings)  # type: ignore[arg-type]


def open_journal(settings: JournalConfig, **kind: object) -> Journal:
    """Open a journal that `close_journals` will close."""
    journal = Journal.open(settings, **kind)  # type: ignore[arg-type]
    _opened.append(journal)
    return journal


def close_journals() -> None:
    """Close the journals that a failed test left open; their threads would keep the process alive."""
    while _opened:
        _opened.pop().close()


@contextmanager
def writing_blocked(path: Path) -> Iterator[None]:
    """Another program holds the file's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def entry(verdict_id: VerdictId, outcome: str = "PASS", *, wall_ns: int | None = None, size: int = 0) -> Entry:
    wall_ns = time.time_ns() if wall_ns is None else wall_ns
    header = json.dumps({"seq": verdict_id.seq, "outcome": outcome, "filler": "x" * size}).encode()
    return Entry(verdict_id.journal_id, verdict_id.seq, "top", outcome, wall_ns, wall_ns, header)


class Answer:
    """A `done` callback that records its result."""

    def __init__(self) -> None:
        self._called = threading.Event()
        self._error: Exception | None = None
        self.threads: list[str] = []

    def __call__(self, entries: Sequence[Entry], error: Exception | None) -> None:
        self.threads.append(threading.current_thread().name)
        self._error = error
        self._called.set()

    @property
    def error(self) -> Exception | None:
        assert self._called.wait(WAIT_S), "done was not called"
        return self._error

    @property
    def called(self) -> bool:
        return self._called.is_set()


def submit(journal: Journal, count: int = 1, **kind: object) -> tuple[list[Entry], Answer]:
    """Submit verdicts together, with new numbers."""
    entries = [entry(journal.next_id(), **kind) for _ in range(count)]  # type: ignore[arg-type]
    answer = Answer()
    journal.submit(entries, answer)
    return entries, answer


def commit(journal: Journal, count: int = 1, **kind: object) -> list[Entry]:
    """Submit verdicts and wait until they are committed."""
    entries, answer = submit(journal, count, **kind)
    assert answer.error is None, answer.error
    return entries


@dataclass
class Contents:
    """Everything that a reader returned, each number once."""

    entries: dict[int, Entry]
    voids: list[Range]
    gone: list[Range]
    next: int

    def void(self) -> set[int]:
        return {seq for first, last in self.voids for seq in range(first, last + 1)}


def walk(reader: JournalReader, first: int = 1, *, limit: int = 500, max_bytes: int = 1 << 20) -> Contents:
    """Page through the journal and assert that each page accounts for every number once."""
    contents = Contents({}, [], [], first)
    while True:
        page = reader.page(contents.next, limit=limit, max_bytes=max_bytes)
        assert gapless(page, contents.next)
        contents.entries.update({e.seq: e for e in page.entries})
        contents.voids += page.voids
        contents.gone += [page.gone] if page.gone else []
        if page.next == contents.next:
            return contents
        contents.next = page.next


def gapless(page: Page, first: int) -> bool:
    """Whether each number from `first` to before the page's `next` is in exactly one of entries, voids and gone."""
    ranges = sorted([*page.voids, *([page.gone] if page.gone else []), *(Range(e.seq, e.seq) for e in page.entries)])
    ends = [first - 1, *(r.last for r in ranges)]
    starts = [*(r.first for r in ranges), page.next]
    return all(end + 1 == start for end, start in zip(ends, starts, strict=True)) and all(a <= b for a, b in ranges)


def read_all(journal: Journal) -> Contents:
    with journal.reader() as reader:
        return walk(reader)


def eventually(condition: Callable[[], object]) -> None:
    """Wait until another thread has made the condition true."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)
