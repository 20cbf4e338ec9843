"""A process that writes a journal and prints what it does, for tests that kill or trace it.

    journal_process.py PATH SYNC GROUPS END SEED    GROUPS 0: without end; END: kill (itself, with SIGKILL) or close

`given ID SEQ…` before a group is submitted, `done SEQ…` from its callback, `discarded SEQ…` for numbers given back. Groups,
sizes, amendments and acknowledgements vary with SEED; an amended verdict says UNKNOWN.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.journal_tools import WAIT_S, Answer, config, entry

from anosegd.journal import Entry, Journal

IN_FLIGHT = 180
"""Numbers in use at once: less than half of the numbers that are always reserved."""


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class SayingAnswer(Answer):
    def __call__(self, entries: Sequence[Entry], error: Exception | None) -> None:
        say("failed" if error else "done", *(e.seq for e in entries))
        super().__call__(entries, error)


def write(path: Path, sync: str, groups: int, end: str, seed: int) -> None:
    chance = random.Random(seed)
    journal = Journal.open(config(path, sync=sync))
    say("ready", journal.journal_id)
    last: Answer | None = None
    in_flight = 0
    for _ in range(groups) if groups else iter(int, 1):
        ids = [journal.next_id() for _ in range(chance.choice((1, 1, 1, 2, 20)))]
        say("given", ids[0].journal_id, *(each.seq for each in ids))
        in_flight += len(ids)
        if not groups and chance.random() < 0.05:
            say("discarded", *(each.seq for each in ids))
            journal.discard(ids)
            continue
        entries = [entry(each, size=chance.choice((0, 600, 9000))) for each in ids]
        journal.submit(entries, last := SayingAnswer())
        if not groups and chance.random() < 0.05:
            journal.amend(entry(ids[0], "UNKNOWN"))
        if in_flight >= (1 if groups else chance.randrange(1, IN_FLIGHT)):
            last.error  # noqa: B018 - waits for the result
            in_flight = 0
        if chance.random() < 0.05:
            journal.ack("archive", chance.randrange(1, ids[0].seq + 1))
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    assert journal.close(WAIT_S)


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    except BaseException:  # noqa: BLE001 - ends the process
        traceback.print_exc()
        os._exit(1)  # the journal's threads would keep the process alive
