"""Runs `anosegd` and writes how long each part took from stage to stage, for a benchmark.

    python tests/bench/stages.py FILE run CONFIG

A verdict cannot name the time of its own sending, because it is in the journal before it is sent. So this program notes the
time when the publisher's call to ZeroMQ returns. The daemon is the real one otherwise. FILE is written when the daemon ends:
JSON, from the verdict's number to the milliseconds in `STAGES`.
"""

import itertools
import json
import sys
import time
from pathlib import Path

from anosegd import cli
from anosegd.outcome import Inspected
from anosegd.part import Part
from anosegd.picture import Picture
from anosegd.publish.commits import Commits
from anosegd.publish.publisher import Publisher
from anosegd.wire import Verdict

STAGES = ("wait", "inspect", "close", "commit", "send", "total")
"""From capture to the start of the inspection; to its end; to the numbered verdict; to its commit; to the end of the sending.
`total` is their sum."""


def record(file: Path) -> None:
    """Note the stages of each part that is inspected from now on."""
    numbered: dict[int, int] = {}
    found: dict[int, list[float]] = {}
    add, send, work = Commits.add, Publisher._send_verdict, Publisher.work

    def noted_add(self: Commits, part: Part, outcome: object, verdict: Verdict, *, picture: Picture | None = None) -> None:
        numbered[verdict.seq] = time.monotonic_ns()
        add(self, part, outcome, verdict, picture=picture)  # type: ignore[arg-type]

    def noted_send(self: Publisher, verdict: Verdict, part: Part, inspected: Inspected | None, picture: Picture | None) -> None:
        committed_ns = time.monotonic_ns()
        send(self, verdict, part, inspected, picture)
        sent_ns = time.monotonic_ns()
        numbered_ns = numbered.pop(verdict.seq, committed_ns)
        if inspected is not None and part.captured_ns is not None:
            moments = (part.captured_ns, inspected.started_ns, inspected.finished_ns, numbered_ns, committed_ns, sent_ns)
            steps = [(after - before) / 1e6 for before, after in itertools.pairwise(moments)]
            found[verdict.seq] = [*steps, sum(steps)]

    def noted_work(self: Publisher) -> None:
        try:
            work(self)
        finally:
            file.write_text(json.dumps(found))

    Commits.add, Publisher._send_verdict, Publisher.work = noted_add, noted_send, noted_work  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    record(Path(sys.argv.pop(1)))
    sys.exit(cli.main())
