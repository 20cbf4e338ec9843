"""Which threads of the daemon let the inspection go first."""

import os
from collections import Counter
from pathlib import Path

import cv2
import pytest
from support.anosegd_line import Line, wait_until
from support.tiny_bundle import good_part

from anosegd.worker import BEHIND_THE_INSPECTION


def nice_values(pid: int) -> Counter[int]:
    """Return how many threads of a process have which nice value."""
    stats = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return Counter(int(stat.rsplit(")", 1)[1].split()[16]) for stat in stats)


def test_what_can_wait_gives_way(line: Line) -> None:
    """Evidence, both encoders and the journal's background thread have a lower priority; no other thread has."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    if own >= BEHIND_THE_INSPECTION:
        pytest.skip("this test runs at a low priority itself")
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    more = f"journal: {{path: {line.folder}/verdicts.db}}\nevidence: {{folder: {line.folder}/kept, min_free: 0}}"
    daemon = line.run(line.config("top: {source: {kind: folder, path: images, fps: 20, loop: true}, policy: every}", more=more))
    line.listener.wait_for_verdicts(1)
    wait_until(lambda: nice_values(daemon.process.pid)[BEHIND_THE_INSPECTION] == 4, "four threads give way")
    assert set(nice_values(daemon.process.pid)) == {own, BEHIND_THE_INSPECTION}
