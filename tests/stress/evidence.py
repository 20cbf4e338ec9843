"""Keeps evidence at full rate on a small disk. `python tests/stress/evidence.py [--minutes 10]`; needs root for the disk.

Every part is rejected and to be kept, as PNG of noise, which does not compress. Four times, the daemon is killed. Once a
second, while files come and go, all of this must hold:

- the files take no more than max_gb, and the share min_free of the disk is free;
- what is there is the newest: no part that was kept is gone while an older one is still there;
- every file is whole, with a verdict that was published under its number;
- verdicts come without a gap within a run, and no part is UNKNOWN.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.anosegd_line import Daemon, Listener
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.errors import DataError
from anosegd.evidence import EvidenceReader, PartName
from anosegd.evidence.folder import CLOCK

DISK_MB = 64
MAX_MB = 40
MIN_FREE = 0.3
RUNS = 5


class Rig:
    """The disk, the daemon, and what was seen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.disk = folder, folder / "disk"
        self.problems: Counter[str] = Counter()
        self.published: dict[tuple[str, int], dict[str, Any]] = {}
        self.seen: dict[PartName, float] = {}  # when each kept part was first found
        self.read = self.kept = self.dropped = 0
        self.largest_mb, self.least_free = 0.0, 1.0
        (folder / "images").mkdir()
        for i in range(12):
            image = np.random.default_rng(i).integers(0, 256, (480, 640, 3)).astype(np.uint8)
            image[100:300, 160:320] = 255
            cv2.imwrite(str(folder / "images" / f"{i:02}.png"), image)
        write_tiny_bundle(folder / "store" / "tiny")
        self.listener = Listener(f"ipc://{folder}/pub")
        self.config = folder / "station.yaml"
        self.config.write_text(
            f"engine: {{bundle: store/tiny}}\npublish: {{endpoint: 'ipc://{folder}/pub', masks: false}}\n"
            "journal: {path: verdicts.db}\n"
            f"evidence: {{folder: disk/kept, max_gb: {MAX_MB / 1024}, min_free: {MIN_FREE}}}\n"
            "cameras:\n  top: {policy: wait, source: {kind: folder, path: images, preload: true, loop: true}}\n"
        )

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.problems[what] += 1

    def run(self, seconds: float, *, kill: bool) -> None:
        """Run the daemon for so long, look once a second, then kill or end it."""
        daemon = Daemon(self.config)
        first = len(self.listener.verdicts)
        end = time.monotonic() + seconds
        look_at = 0.0
        while time.monotonic() < end:
            self.listener.take()
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + 1.0
                self.look()
        if kill:
            daemon.close()
        else:
            self.expect(daemon.terminate() == 0, "the daemon did not end cleanly")
        self.listener.drain()
        self.look()
        self.expect("evidence.dropped" in daemon.log or self.dropped == 0, "dropped parts are not in the log")
        verdicts = self.listener.verdicts[first:]
        seqs = [v["seq"] for v in verdicts]
        self.expect(bool(seqs) and seqs == list(range(seqs[0], seqs[0] + len(seqs))), "numbers of verdicts have a gap")
        bad = [v for v in verdicts if v["outcome"] != "FAIL" and v["reason"] != "shutdown"]
        self.expect(not bad, "a part was not inspected")
        states = [m.header["evidence"] for m in self.listener.received if m.topic == "state" and m.header["evidence"]]
        self.kept, self.dropped = self.kept + states[-1]["kept"], self.dropped + states[-1]["dropped"]
        self.listener.received = [m for m in self.listener.received if m.topic != "state"]

    def look(self) -> None:
        """Check everything that must hold at any time."""
        self.published.update({(v["journal_id"], v["seq"]): v for v in self.listener.verdicts})
        if not (self.disk / "kept").exists():
            return
        now = time.monotonic()
        size = sum(path.stat().st_size for path in (self.disk / "kept").rglob("*.zip") if path.exists())
        status = os.statvfs(self.disk)
        self.largest_mb = max(self.largest_mb, size / 2**20)
        self.least_free = min(self.least_free, status.f_bavail / status.f_blocks)
        reader = EvidenceReader(self.disk / "kept")
        there = list(reader.find())
        self.seen.update({name: now for name in there if name not in self.seen})
        oldest = min(there, default=None)
        gone = [name for name in self.seen if oldest is not None and name > oldest and name not in set(there)]
        self.expect(not gone, "a newer part went before an older one")
        self.seen = {name: at for name, at in self.seen.items() if name in set(there)}
        for name in there[:: max(1, len(there) // 10)]:
            try:
                part = reader.read(name)
            except DataError:
                self.expect(not reader.path(name).exists(), "a file is not whole")
                continue
            self.read += 1
            known = self.published.get((name.journal_id, name.seq))
            if known is None:  # sent and kept, but the listener has not come to it
                continue
            self.expect(part.verdict == known, "a kept verdict is not the published one")
            image = cv2.imdecode(np.frombuffer(part.picture, np.uint8), cv2.IMREAD_COLOR)
            original = cv2.imread(str(self.folder / "images" / part.verdict["source"]))
            self.expect(image is not None and np.array_equal(image, original), "a picture is not the camera's")


def full_rate(minutes: float, runs: int = RUNS) -> list[str]:
    """Run the rig for so long, with a kill between two runs. Return what was wrong."""
    with tempfile.TemporaryDirectory(prefix="evidence") as made:
        folder = Path(made)
        disk = folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", disk], check=True)
        try:
            rig = Rig(folder)
            for number in range(runs):
                rig.run(60 * minutes / runs, kill=number < runs - 1)
            left = [path.name for path in disk.rglob("*") if path.is_file() and path.suffix != ".zip" and path.name != CLOCK]
            rig.expect(not left, f"files are left: {left[:3]}")
            rig.listener.close()
        finally:
            subprocess.run(["umount", disk], check=True)
    rig.expect(rig.largest_mb <= MAX_MB, "the files took more than max_gb")
    rig.expect(rig.least_free >= MIN_FREE, "less than min_free was free")
    rig.expect(rig.kept > 50, "hardly anything was kept")
    verdicts = len(rig.published)
    print(f"{verdicts} verdicts, {rig.kept} parts kept, {rig.dropped} dropped, {rig.read} files read, {runs - 1} kills")
    print(f"largest size {rig.largest_mb:.1f} of {MAX_MB} MiB, least free {rig.least_free:.1%} of {MIN_FREE:.0%} asked for")
    return [f"{n} times: {what}" for what, n in rig.problems.items()]


def main() -> int:
    """Run the rig and print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    wrong = full_rate(parser.parse_args().minutes)
    for what in wrong:
        print(f"WRONG, {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
