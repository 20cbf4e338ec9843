"""A station without cameras and engine, for tests that need many verdicts fast.

    journal_station.py FOLDER NAME VERDICTS RATE

Real: the journal, the publisher with its socket, the control socket, their threads, and therefore numbers, commits, voids after
a kill, pages, feedback and acknowledgements. Not real: the outcomes, which come from a counter instead of an engine. It makes
parts until the journal has had VERDICTS of them, RATE a second (0: as fast as it can), and then serves until SIGTERM.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from anoseg_engines.judgement import Inspection, Judgement
from anoseg_engines.placement import InputSpec, Placement, Region
from anosegd import logs, wire
from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig, Config, EngineConfig, PublishConfig
from anosegd.control.server import Control
from anosegd.journal import Change, Journal, JournalConfig
from anosegd.outcome import Inspected, Outcome, Unknown
from anosegd.part import Part
from anosegd.publish import Identity, Publisher

ENGINE = wire.EngineName(name="tiny", version=1, digest="0" * 64, runtime="none")
CAMERAS = ("top", "side")
MOST_OPEN = 200
"""Parts without a stored verdict. With 20 more, these are fewer than the numbers that are left when a commit begins (250), so
that numbers do not run out during a slow commit."""
MAP = np.zeros((8, 8), np.float32)
PLACEMENT = Placement.of(InputSpec(8, 8), Region(0, 0, 8, 8))


def outcome(number: int) -> Outcome:
    if number % 17 == 0:
        return Unknown("overrun")
    score = 0.9 if number % 11 == 0 else 0.01 + (number % 40) / 100
    now = time.monotonic_ns()
    judgement = Judgement("FAIL" if score >= 0.5 else "PASS", score, 0.5, ())
    return Inspected(judgement, Inspection(score, MAP, 1), PLACEMENT, ENGINE, now, now)


def main(folder: Path, name: str, verdicts: int, rate: float) -> None:
    logs.set_up()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = json.loads((folder / "journal.json").read_text()) if (folder / "journal.json").exists() else {}
    journal = Journal.open(JournalConfig(path=str(folder / "verdicts.db"), **settings))
    camera = CameraConfig(source=DemoSource(), policy="every")
    config = Config(
        station=name,
        engine=EngineConfig(bundle="none"),
        cameras=dict.fromkeys(CAMERAS, camera),
        publish=PublishConfig(endpoint=f"ipc://{folder}/pub", masks=False, images=False),
    )

    def describe(publisher: Publisher) -> wire.State:
        stats = journal.stats()
        health = wire.JournalHealth(
            working=stats.working,
            first_kept=stats.first_kept,
            last_committed=stats.last_committed,
            size_mb=0,
            waiting=stats.waiting,
            failures=stats.failures,
            last_error=stats.last_error,
        )
        return wire.State(
            station=name, journal_id=journal.journal_id, run_id=run_id, version="0", at=wire.utc(time.time_ns()), state="Ready",
            uptime_s=0, last_seq=publisher.last_seq, counts=wire.Counts(), masks_dropped=0, engine=ENGINE, journal=health,
            cameras={},
        )  # fmt: skip

    run_id = f"{random.getrandbits(128):032x}"
    publisher = Publisher(config, Identity(journal.journal_id, run_id), describe, journal)
    publisher.engine = ENGINE
    publisher.start()

    def unused(*_: object) -> None:
        """A station without an engine takes no such request."""

    def threshold(request: object) -> None:  # noted as the station does, for archives of changes
        value = request.value  # type: ignore[attr-defined]
        journal.note(Change(time.time_ns(), "threshold", "top", "0.5 calibration", f"{value} person", *request.asker))  # type: ignore[attr-defined]
        request.answer({"old": None, "new": None})  # type: ignore[attr-defined]

    control = Control(
        f"ipc://{folder}/control",
        journal,
        state=lambda: publisher.last_state,
        drain=unused,
        engine=lambda: None,
        reload=unused,
        swap=unused,
        roll_back=unused,
        set_threshold=threshold,
        pause=unused,
        prove=unused,
        trigger=unused,
        recipe=unused,
    )
    control.start()
    try:
        produce(journal, publisher, verdicts, rate, stopping)
        while not stopping.wait(0.5):
            pass
    finally:
        control.stop()
        control.join(10)
        publisher.stop()
        publisher.join(10)
        journal.close(10)


def produce(journal: Journal, publisher: Publisher, verdicts: int, rate: float, stopping: threading.Event) -> None:
    """Make parts until the journal has enough."""
    started, made = time.monotonic(), 0
    had = sum(journal.stats().stored.counts.values())
    sequence = dict.fromkeys(CAMERAS, 0)
    while had + made < verdicts and not stopping.is_set():
        if rate and made / rate > time.monotonic() - started:
            stopping.wait(0.01)
            continue
        stored = sum(journal.stats().stored.counts.values())
        if had + made - stored > MOST_OPEN:
            stopping.wait(0.002)
            continue
        for _ in range(20):
            made += 1
            name = CAMERAS[made % 2]
            sequence[name] += 1
            now = time.monotonic_ns()
            part = Part(
                camera=name,
                sequence=sequence[name],
                part_id=f"Teil „{made}“ 'x' \\u0041\t",
                captured_ns=now,
                captured_wall_ns=time.time_ns(),
            )
            publisher.open_part(part)
            publisher.report_outcome(part, outcome(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
