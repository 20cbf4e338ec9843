"""Kills the daemon and an archiving client at random. No verdict may be lost. `make torture`.

    python tests/stress/torture.py --verdicts 20000 --kills 50      # the defaults

At the end the client has stored every committed verdict exactly once and in order, and the published verdicts agree with the
journal. The client is written as an integrator would write it: it uses `anosegd.client`, and stores verdict and cursor in one
SQLite transaction.
"""

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.tiny_bundle import write_tiny_bundle

from anosegd.client import Client, Cursor, Key

PATIENCE_S = 60.0


def archive(database: str, publish: str, control: str) -> None:
    """The client: follow from the stored cursor on, and store each verdict and its cursor in one transaction."""
    db = sqlite3.connect(database, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE IF NOT EXISTS verdicts (n INTEGER PRIMARY KEY, journal_id TEXT, seq INTEGER, header TEXT)")
    db.execute("CREATE TABLE IF NOT EXISTS cursor (one INTEGER PRIMARY KEY, journal_id TEXT, seq INTEGER)")
    row = db.execute("SELECT journal_id, seq FROM cursor").fetchone()
    with Client(publish, control) as station:
        where = {"after": Cursor(*row)} if row else {"first": 1}
        for verdict in station.follow(**where):
            if not verdict["durable"]:
                continue
            db.execute("BEGIN")
            insert = "INSERT INTO verdicts (journal_id, seq, header) VALUES (?, ?, ?)"
            db.execute(insert, (*verdict.cursor, json.dumps(verdict)))
            db.execute("INSERT OR REPLACE INTO cursor VALUES (1, ?, ?)", verdict.cursor)
            db.execute("COMMIT")


class Killed:
    """A program that is killed and started again. `kills` counts how often."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log = command, log
        self.kills = 0
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill_and_start(self) -> None:
        self.process.kill()
        self.process.wait()
        self.kills += 1
        self.start()


class Recorder(threading.Thread):
    """A subscriber that is never killed. It records the published verdicts by their identity."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(name="recorder")
        self.sent: dict[tuple[str, int], dict[str, object]] = {}
        self.twice = 0
        self.done = threading.Event()
        self._endpoint = endpoint

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set(zmq.RCVHWM, 0)
            socket.set(zmq.RECONNECT_IVL, 10)
            socket.subscribe("verdict.")
            socket.connect(self._endpoint)
            while not self.done.is_set():
                while socket.poll(100):
                    header = json.loads(socket.recv_multipart()[1])
                    key = (header["journal_id"], header["seq"])
                    self.twice += key in self.sent
                    self.sent[key] = header


def make_line(folder: Path, rate: float | None) -> Path:
    """Write the configuration of a station that inspects the same few images in a loop."""
    write_tiny_bundle(folder / "store" / "tiny")
    (folder / "images").mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), np.full((32, 32, 3), 120 if i % 3 else 250, np.uint8))
    config = folder / "station.yaml"
    pace = f", fps: {rate}" if rate else ""
    config.write_text(
        f"engine: {{bundle: store/tiny, threads: 1}}\n"
        f"publish: {{endpoint: 'ipc://{folder}/pub', masks: false}}\n"
        f"control: {{endpoint: 'ipc://{folder}/ctl'}}\n"
        f"journal: {{path: verdicts.db}}\n"
        f"cameras:\n  line: {{policy: wait, source: {{kind: folder, path: images, loop: true{pace}}}}}\n"
    )
    return config


def torture(verdicts: int, kills: int, rate: float | None, seed: int) -> list[str]:
    """Run the test. Returns what went wrong."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="anoseg-torture-") as name:
        folder = Path(name)
        config = make_line(folder, rate)
        publish, control = f"ipc://{folder}/pub", f"ipc://{folder}/ctl"
        recorder = Recorder(publish)
        recorder.start()
        daemon = Killed([sys.executable, "-m", "anosegd", "run", str(config)], folder / "daemon.log")
        arguments = ["--archive", str(folder / "archive.db"), publish, control]
        client = Killed([sys.executable, __file__, *arguments], folder / "client.log")
        try:
            while daemon.kills < kills or client.kills < kills or len(recorder.sent) < verdicts:
                time.sleep(rng.uniform(0.1, 2.0))
                if daemon.kills < kills and rng.random() < 0.5:
                    daemon.kill_and_start()
                elif client.kills < kills:
                    client.kill_and_start()
                show(f"{len(recorder.sent)} received, daemon killed {daemon.kills} times, client {client.kills}")
            wait_for_state(control)
            committed = stop_and_read(daemon, config, publish, control)
            stored = wait_for_archive(folder / "archive.db", len(committed))
            return compare(committed, stored, recorder)
        finally:
            for program in (daemon, client):
                program.process.kill()
                program.process.wait()
            recorder.done.set()
            recorder.join()


def wait_for_state(control: str, key: Key | None = None) -> None:
    """Wait until the station answers."""
    end = time.monotonic() + PATIENCE_S
    with Client(control=control, key=key) as station:
        while True:
            try:
                station.status()
                return
            except Exception:
                if time.monotonic() > end:
                    raise


def stop_and_read(daemon: Killed, config: Path, publish: str, control: str) -> list[dict[str, object]]:
    """Stop the daemon with SIGTERM, start one that inspects a single image, and read the whole journal through it."""
    daemon.process.send_signal(signal.SIGTERM)
    if daemon.process.wait(PATIENCE_S):
        raise SystemExit(f"the daemon ended with {daemon.process.returncode}")
    empty = config.parent / "one"
    empty.mkdir()
    cv2.imwrite(str(empty / "last.png"), np.full((32, 32, 3), 120, np.uint8))
    config.write_text(config.read_text().replace("path: images, loop: true", "path: one"))
    daemon.start()
    wait_for_state(control)
    with Client(publish, control) as station:
        end = time.monotonic() + PATIENCE_S
        while station.status()["cameras"]["line"]["state"] != "finished" and time.monotonic() < end:
            time.sleep(0.1)
        return [dict(v) for v in station.replay(1)]


def wait_for_archive(database: Path, wanted: int) -> list[dict[str, object]]:
    """Wait until the client has stored this many verdicts, or until time is up."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with sqlite3.connect(database) as db:
            rows = [json.loads(header) for (header,) in db.execute("SELECT header FROM verdicts ORDER BY n")]
        db.close()
        if len(rows) >= wanted or time.monotonic() > end:
            return rows
        time.sleep(0.2)


def compare(committed: list[dict[str, object]], stored: list[dict[str, object]], recorder: Recorder) -> list[str]:
    """Compare journal, archive and published verdicts. Returns the differences."""
    wrong = []
    keys = [(v["journal_id"], v["seq"]) for v in committed]
    stored_keys = [(v["journal_id"], v["seq"]) for v in stored]
    if len(set(keys)) != len(keys) or sorted(keys) != keys:
        wrong.append("the journal's numbers are not unique and ascending")
    if stored_keys != keys:
        missing, extra = set(keys) - set(stored_keys), set(stored_keys) - set(keys)
        wrong.append(
            f"the archive differs: {len(missing)} missing, {len(extra)} extra, {len(stored_keys)} stored of {len(keys)}"
        )
    if stored != committed:
        wrong.append("a stored verdict differs from the journal's")
    by_key = dict(zip(keys, committed, strict=True))
    for key, header in recorder.sent.items():
        if header["durable"] and by_key.get(key) != header:
            wrong.append(f"the published verdict {key} differs from the journal's")
            break
    if recorder.twice:
        wrong.append(f"{recorder.twice} numbers were published twice")
    hole = max((after - before - 1 for (_, before), (_, after) in pairwise(keys)), default=0)
    show(f"{len(keys)} committed, {len(stored_keys)} stored, {len(recorder.sent)} received live, largest hole {hole} numbers\n")
    return wrong


def show(text: str) -> None:
    sys.stdout.write(f"\r{text:80}")
    sys.stdout.flush()


def main() -> int:
    if sys.argv[1:2] == ["--archive"]:
        archive(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=20_000, help="publish at least this many (20000)")
    parser.add_argument("--kills", type=int, default=50, help="kill the daemon and the client this often, each (50)")
    parser.add_argument("--rate", type=float, help="parts a second (as fast as they are inspected)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = torture(options.verdicts, options.kills, options.rate, options.seed)
    print("\n".join(wrong) or "no verdict lost, none twice, all in order")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
