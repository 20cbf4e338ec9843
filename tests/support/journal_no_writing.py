"""A process whose journal cannot write at all: the kernel refuses every write to a file (RLIMIT_FSIZE 0).

journal_no_writing.py PATH    prints the result as JSON
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.journal_tools import commit, config, entry, eventually, read_all, submit

from anosegd.journal import Journal, VerdictId


def refuse_writes(refuse: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if refuse else hard, hard))


def main(path: Path) -> dict[str, object]:
    journal = Journal.open(config(path))
    before = commit(journal, 20)
    file_id = journal.journal_id
    refuse_writes(True)
    failed: list[VerdictId] = []
    errors = set()
    for _ in range(700):  # more than are reserved
        entries, answer = submit(journal)
        errors.add(type(answer.error).__name__)
        failed.append(VerdictId(entries[0].journal_id, entries[0].seq))
    journal.amend(entry(VerdictId(file_id, before[0].seq), "UNKNOWN"))
    working = journal.stats().working
    alive = all(worker.alive for worker in journal.workers)
    refuse_writes(False)
    eventually(lambda: journal.next_id().journal_id == file_id)
    after = commit(journal)
    eventually(lambda: read_all(journal).entries[before[0].seq].outcome == "UNKNOWN")
    assert journal.close()
    journal = Journal.open(config(path))
    contents = read_all(journal)
    assert journal.close()
    return {
        "before": [e.seq for e in before],
        "file_id": file_id,
        "failed": failed,
        "errors": sorted(errors),
        "working": working,
        "alive": alive,
        "after": [e.seq for e in after],
        "entries": {e.seq: e.outcome for e in contents.entries.values()},
        "void": sorted(contents.void()),
        "next": contents.next,
        "notices": list(journal.notices),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(main(Path(sys.argv[1]))))
    except BaseException:  # noqa: BLE001 - ends the process
        traceback.print_exc()
        os._exit(1)  # the journal's threads would keep the process alive
