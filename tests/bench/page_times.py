"""Measures how long the screen's answers take with twelve hours behind it. `make page-times`; about three minutes.

    python tests/bench/page_times.py [--verdicts 216000] [--pictures 5000] [--marks 5000] [--times 20] [--limit-ms 300]

A journal of the last twelve hours is written, with verdicts of two cameras, parts that persons marked, and pictures in the
evidence. The real daemon goes on with this journal at four parts a second, and the real `anosegd view` serves it. Each address
that a page asks for is then asked several times, one request after the other. The exit code is 1 if an answer took longer than
the limit.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.anosegd_line import Daemon, wait_until
from support.paths import DEMO
from support.view_server import ViewServer

from anosegd.client import Client
from anosegd.evidence.names import PartName, form
from anosegd.journal import Entry, FeedbackChange, Journal, JournalConfig, Mark, VerdictId

HOURS = 12
BATCH = 200
MARKED_AT_ONCE = 200
PAUSE_S = 0.2
"""Between two requests: the station takes a limited number from one client."""
PAGES = ("", "parts", "what-if", "trend", "report", "bundle")
CAMERAS = ("line", "side")


def config(folder: Path, *, good_share: float) -> Path:
    """Write the configuration of the station."""
    path = folder / "station.yaml"
    path.write_text(
        f"station: bench\nengine: {{bundle: {DEMO}, threads: 1}}\npublish: {{endpoint: 'ipc://{folder}/pub'}}\n"
        f"control: {{endpoint: 'ipc://{folder}/control'}}\njournal: {{path: {folder}/verdicts.db}}\n"
        f"evidence: {{folder: {folder}/evidence, good_share: {good_share}}}\ncameras:\n"
        + "".join(f"  {name}: {{source: {{kind: demo, fps: 2, seed: {i}}}, policy: every}}\n" for i, name in enumerate(CAMERAS))
    )
    return path


def template(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return a verdict and the evidence file of a part, as the daemon makes them."""
    folder.mkdir()
    daemon = Daemon(config(folder, good_share=1.0))
    try:
        wait_until(lambda: any((folder / "evidence").rglob("*.zip")), "a part is kept")
        with Client(f"ipc://{folder}/pub", f"ipc://{folder}/control") as client:
            verdict = dict(next(iter(client.replay(1))))
        kept = next((folder / "evidence").rglob("*.zip")).read_bytes()
    finally:
        daemon.terminate()
    return verdict, kept


def write_past(folder: Path, options: argparse.Namespace) -> None:
    """Write the journal and the evidence of the last hours."""
    verdict, kept = template(folder / "template")
    rng = np.random.default_rng(0)
    threshold = verdict["threshold"]
    high = rng.random(options.verdicts) < 0.03
    scores = np.where(high, rng.uniform(threshold, 1, options.verdicts), rng.beta(2, 20, options.verdicts))
    begin_ns = time.time_ns() - HOURS * 3600 * 10**9
    step_ns = HOURS * 3600 * 10**9 // options.verdicts
    (folder / "evidence").mkdir()
    one_file = folder / "evidence-part.zip"
    one_file.write_bytes(kept)
    every = max(1, options.verdicts // options.pictures)
    journal = Journal.open(JournalConfig(path=str(folder / "verdicts.db")))
    seqs: list[tuple[int, str]] = []
    try:
        for first in range(0, options.verdicts, BATCH):
            entries = []
            for i in range(first, min(first + BATCH, options.verdicts)):
                number = reserved(journal)
                at_ns = begin_ns + i * step_ns
                at = datetime.fromtimestamp(at_ns / 1e9, timezone.utc)
                outcome = "FAIL" if scores[i] >= threshold else "PASS"
                camera = CAMERAS[i % len(CAMERAS)]
                moment = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
                own = {"seq": number.seq, "journal_id": number.journal_id, "camera": camera, "outcome": outcome}
                own |= {"score": float(scores[i]), "part_id": f"part-{i:06}", "captured_at": moment, "committed_at": moment}
                header = {**verdict, **own}
                header.pop("replayed", None)
                entries.append(Entry(number.journal_id, number.seq, camera, outcome, at_ns, at_ns, json.dumps(header).encode()))
                seqs.append((number.seq, outcome))
                if i % every == 0:
                    name = PartName(form(at), number.seq, camera, outcome, None, number.journal_id)
                    (folder / "evidence" / name.day).mkdir(exist_ok=True)
                    os.link(one_file, folder / "evidence" / name.day / name.file_name)
            done: list[Exception | None] = []
            journal.submit(entries, lambda _, error, done=done: done.append(error))
            wait_until(lambda done=done: bool(done), "the verdicts are stored")
            assert done == [None], done
        write_marks(journal, seqs, options.marks, rng)
    finally:
        journal.close()


def reserved(journal: Journal) -> VerdictId:
    """Return a new number, as soon as the journal has reserved one."""
    while True:
        number = journal.next_id()
        if number.journal_id == journal.journal_id:
            return number
        journal.discard([number])
        time.sleep(0.002)


def write_marks(journal: Journal, seqs: list[tuple[int, str]], count: int, rng: np.random.Generator) -> None:
    """Mark so many parts, spread over the period, some of them twice."""
    chosen = [seqs[int(i)] for i in sorted(rng.choice(len(seqs), min(count, len(seqs)), replace=False))]
    kinds: dict[Mark, str] = {"right": "PASS", "missed_defect": "PASS", "false_reject": "FAIL"}
    for mark, outcome in kinds.items():
        ours = [seq for seq, had in chosen if had == outcome]
        ours = ours[: len(ours) // 10] if mark == "missed_defect" else ours
        for first in range(0, len(ours), MARKED_AT_ONCE):
            done: list[Exception | None] = []
            some = ours[first : first + MARKED_AT_ONCE]
            change = FeedbackChange(journal.journal_id, time.time_ns(), "Anna", seqs=some, mark=mark, comment="seen")
            journal.note_feedback(change, done.append)
            wait_until(lambda done=done: bool(done), "the marks are stored")
            assert done == [None], done


def cpu_s(pid: int) -> float:
    """Return the processor time of a process. It tells a slow answer from a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def addresses(view: ViewServer) -> dict[str, str]:
    """Return what the pages ask for, by a name for the table."""
    now = time.time()
    hours = {"since": datetime.fromtimestamp(now - HOURS * 3600, timezone.utc).isoformat().replace("+00:00", "Z")}
    week = {"since": datetime.fromtimestamp(now - 7 * 86400, timezone.utc).isoformat().replace("+00:00", "Z")}
    digest = next(one["digest"] for one in view.get("/bundles.json").json()["versions"] if one["current"])
    tried = {**hours, "camera": "line", "threshold": "0.2", "bundle": digest}
    found = {f"page {name or 'live'}": f"/{name}" for name in PAGES}
    found |= {
        "parts: newest": "/journal",
        "parts: of 12 hours": f"/journal?{urlencode(hours)}",
        "parts: rejects": f"/journal?{urlencode({**hours, 'outcome': 'REJECT'})}",
        "parts: with feedback": f"/journal?{urlencode({'feedback': 'marked'})}",
        "parts: one mark": f"/journal?{urlencode({'feedback': 'missed_defect'})}",
        "parts: without feedback": f"/journal?{urlencode({'feedback': 'unmarked'})}",
        "parts: no such part": f"/journal?{urlencode({'part': 'there-is-none'})}",
        "trend, 12 hours": f"/trend.json?{urlencode(hours)}",
        "trend, 7 days": f"/trend.json?{urlencode(week)}",
        "what if": f"/what-if.json?{urlencode(tried)}",
        "what if, with parts": f"/what-if.json?{urlencode({**tried, 'parts': 'yes'})}",
        "report, 12 hours": f"/report.json?{urlencode(hours)}",
        "report, 7 days": f"/report.json?{urlencode(week)}",
        "changes": "/changes.json",
        "bundles": "/bundles.json",
        "settings": "/settings",
    }
    newest = view.get(f"/journal?{urlencode({**hours, 'outcome': 'REJECT'})}").json()["parts"][0]
    found["one part"] = f"/part?{urlencode({'journal': newest['journal_id'], 'seq': newest['seq']})}"
    return found


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--verdicts", type=int, default=216_000)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--marks", type=int, default=5000)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--limit-ms", type=float, default=300)
    options = parser.parse_args()
    table = Table("answer", "median ms", "worst ms", "screen's CPU ms", "kB")
    slow = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_past(folder, options)
        daemon = Daemon(config(folder, good_share=0.02))
        view = ViewServer(folder, str(folder / "station.yaml"))
        try:
            began = time.monotonic()
            while view.get("/report.json").json().get("complete") is not True:
                time.sleep(1)
            print(f"the journal was read after {time.monotonic() - began:.0f} s")
            for name, path in addresses(view).items():
                took, answer = [], view.get(path)
                before = cpu_s(view.process.pid)
                for _ in range(options.times):
                    time.sleep(PAUSE_S)
                    began = time.monotonic()
                    answer = view.get(path)
                    took.append(1e3 * (time.monotonic() - began))
                    assert answer.status == 200, (path, answer.status, answer.body[:200])
                cpu_ms = 1e3 * (cpu_s(view.process.pid) - before) / options.times
                slow += [name] if max(took) > options.limit_ms else []
                table.add_row(
                    name, f"{np.median(took):.0f}", f"{max(took):.0f}", f"{cpu_ms:.0f}", f"{len(answer.body) / 1024:.0f}"
                )
        finally:
            view.close()
            daemon.terminate()
    Console().print(table)
    if slow:
        print(f"longer than {options.limit_ms:g} ms: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
