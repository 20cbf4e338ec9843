"""Many threads use one journal while its file is blocked again and again: nothing is lost, mixed up or counted twice."""

import random
import threading
import time
from pathlib import Path

import pytest
from support.journal_tools import config, entry, open_journal, read_all, writing_blocked

from anosegd.journal import Journal, VerdictId
from anosegd.journal import journal as journal_module
from anosegd.journal import store_file as journal_file
from anosegd.journal import writer as journal_writer

SECONDS = 2.0


class Publishing(threading.Thread):
    """Submits verdicts; some are discarded, amended, or held for a while."""

    def __init__(self, journal: Journal, seed: int, until: float) -> None:
        super().__init__()
        self.given: list[VerdictId] = []
        self.discarded: set[VerdictId] = set()
        self.amended: set[VerdictId] = set()
        self.results: list[tuple[VerdictId, Exception | None]] = []
        self._journal, self._chance, self._until = journal, random.Random(seed), until

    def run(self) -> None:
        journal, chance = self._journal, self._chance
        while time.monotonic() < self._until:
            ids = [journal.next_id() for _ in range(chance.choice((1, 1, 3, 20)))]
            self.given += ids
            if chance.random() < 0.1:
                journal.discard(ids)
                self.discarded.update(ids)
                continue
            hold = chance.random() < 0.5
            journal.submit([entry(each) for each in ids], self._note, hold=hold)
            if chance.random() < 0.2:
                journal.amend(entry(ids[0], "UNKNOWN"))
                self.amended.add(ids[0])
            time.sleep(chance.random() / 100)
            if hold:
                for each in ids:
                    journal.release(each.seq)
            journal.ack(f"consumer-{chance.randrange(9)}", ids[0].seq)

    def _note(self, entries: object, error: Exception | None) -> None:
        assert isinstance(entries, list)
        self.results += [(VerdictId(e.journal_id, e.seq), error) for e in entries]


def test_every_number_is_accounted_for_when_many_threads_use_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each submitted verdict is answered once; those answered without an error are stored as last amended, others are void."""
    for module in (journal_module, journal_writer):
        monkeypatch.setattr(module, "RETRY_S", 0.05)
    monkeypatch.setattr(journal_file, "BUSY_S", 0.03)
    path = tmp_path / "journal.db"
    journal = open_journal(config(path))
    threads = [Publishing(journal, seed, time.monotonic() + SECONDS) for seed in range(4)]
    for thread in threads:
        thread.start()
    chance = random.Random(4)
    while any(thread.is_alive() for thread in threads):
        time.sleep(chance.random() / 4)
        with writing_blocked(path):
            time.sleep(chance.random() / 8)
        read_all(journal)
    journal_id = journal.journal_id
    assert journal.close()
    journal = open_journal(config(path))
    contents = read_all(journal)
    assert (journal.journal_id, journal.close()) == (journal_id, True)

    given = [each for thread in threads for each in thread.given]
    discarded, amended = (
        set[VerdictId]().union(*sets) for sets in zip(*((t.discarded, t.amended) for t in threads), strict=True)
    )
    results = dict(result for thread in threads for result in thread.results)
    assert len({each.seq for each in given}) == len(given)
    assert len(results) == sum(len(thread.results) for thread in threads)
    assert results.keys() | discarded == set(given)
    expected: dict[int, str] = {
        each.seq: "UNKNOWN" if each in amended else "PASS" for each, error in results.items() if error is None
    }
    assert {seq: e.outcome for seq, e in contents.entries.items()} == expected
    assert contents.void() == set(range(1, contents.next)) - expected.keys()
    assert any(error is not None for error in results.values())
