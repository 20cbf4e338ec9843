"""Parts that a real station kept are inspected again: `anosegd evidence list --json` feeds `anoseg-engine reinspect`."""

import cv2
import numpy as np
import pytest
from support.anosegd_line import Line, run_anosegd
from support.commands import run_here
from support.tiny_bundle import bad_part, good_part

from anoseg_engines.cli import main

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

CAMERA = (
    "top:\n  source: {kind: folder, path: images, fps: 20}\n  policy: wait\n  review_from: 0.15\n"
    "  region: {x: 10, y: 5, width: 60, height: 40}\n"
)
KEEP = "evidence: {folder: kept, good_share: 1, min_free: 0}"


def test_kept_parts_are_judged_as_the_station_did(line: Line) -> None:
    """Each part has the station's score and defects, and what its verdict says; the station's review is the bundle's PASS."""
    (line.folder / "images").mkdir()
    for i in range(8):
        image = (good_part(), bad_part(), good_part() - 20, good_part()[:, :, :1])[i % 4] + np.uint8(i // 4)
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), image)
    config = line.config(CAMERA, more=KEEP)
    assert line.run(config, "--once").wait() == 0
    line.listener.drain()
    listed = run_anosegd("evidence", "list", str(config), "--json")
    (line.folder / "parts.jsonl").write_text(listed.stdout)
    arguments = ("--bundle", line.store, "--images", line.folder / "parts.jsonl", "--out", line.folder / "out")
    done = run_here(main, "anoseg-engine", "reinspect", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    (shard,) = (line.folder / "out").glob("*.parquet")
    rows = pq.read_table(shard).to_pylist()
    assert len(rows) == len(line.listener.verdicts) == 8
    for row, verdict in zip(rows, line.listener.verdicts, strict=True):
        for key in ("part_id", "camera", "captured_at", "journal_id", "seq"):
            assert row[key] == verdict[key]
        assert (row["earlier_outcome"], row["earlier_reason"]) == (verdict["outcome"], verdict["reason"])
        assert row["outcome"] == ("PASS" if verdict["reason"] == "review" else verdict["outcome"])
        assert row["score"] == pytest.approx(verdict["score"], abs=1e-6)
    (bad,) = {tuple(row["defects"][0].values()) for row in rows if row["seq"] == 2}
    (published,) = (verdict["defects"][0] for verdict in line.listener.verdicts if verdict["seq"] == 2)
    assert bad == pytest.approx([published[key] for key in ("x", "y", "width", "height", "area", "peak")] + list(bad[6:]))


def test_a_kept_part_that_is_not_whole(line: Line) -> None:
    """A part's file that was cut, a picture beside which the region is missing, and a ZIP archive of others are UNKNOWN."""
    (line.folder / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), good_part() + np.uint8(i))
    config = line.config(CAMERA, more=KEEP)
    assert line.run(config, "--once").wait() == 0
    first, second, _ = sorted((line.folder / "kept").rglob("*.zip"))
    first.write_bytes(first.read_bytes()[:-40])
    second.write_bytes(b"PK\x05\x06" + bytes(18))
    listed = sorted(map(str, (line.folder / "kept").rglob("*.zip")))
    (line.folder / "list.txt").write_text("\n".join(listed))
    arguments = ("--bundle", line.store, "--images", line.folder / "list.txt", "--out", line.folder / "out")
    assert run_here(main, "anoseg-engine", "reinspect", *arguments).returncode == 0
    (shard,) = (line.folder / "out").glob("*.parquet")
    rows = pq.read_table(shard).to_pylist()
    assert [row["outcome"] for row in rows] == ["UNKNOWN", "UNKNOWN", "PASS"]
    assert [row["error"] for row in rows[:2]] == [f"{path}: is not a whole file of a part" for path in listed[:2]]
