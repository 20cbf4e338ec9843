"""Feedback at the control socket of a real daemon: marks, undo, refusals, restart, export."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anosegd_line import Daemon, Line, run_anosegd, wait_until

from anoseg_trainer.data.evaluation_images import find_evaluation_images
from anoseg_trainer.data.good_images import find_good_images
from anosegd.client import Client, RefusedError
from anosegd.control.requests import MAX_COMMENT

N = 12
WHO = "Anna"


class Station:
    """A line that has judged N parts, every fourth FAIL (numbers 1, 5, 9), with journal and evidence."""

    def __init__(self, line: Line, sockets: Path) -> None:
        self.runs: tuple[str, ...] = ()
        self.line = line
        control = f"ipc://{sockets}/ctl"
        images = line.folder / "images"
        images.mkdir()
        for i in range(N):
            cv2.imwrite(str(images / f"{i:03d}.png"), np.full((32, 32, 3), 120 if i % 4 else 250, np.uint8))
        cv2.imwrite(str(images / "999.png"), np.zeros((16, 16, 3), np.uint8))
        (images / "998.png").write_bytes(b"no picture")
        evidence = "evidence: {folder: evidence, good_share: 1, min_free: 0}"
        more = f"control: {{endpoint: '{control}'}}\njournal: {{path: verdicts.db}}\n{evidence}"
        self.config = line.config("line: {policy: wait, source: {kind: folder, path: images, fps: 10}}", more=more)
        self.daemon = self.start()
        self.client = Client(line.endpoint, control)
        wait_until(lambda: self.client.status()["journal"]["last_committed"] >= N + 2, "all parts committed")
        wait_until(lambda: self.client.status()["evidence"]["kept"] >= N, "all pictures kept")
        self.journal_id = str(self.client.status()["journal_id"])

    def start(self) -> Daemon:
        daemon = self.line.run(self.config)
        self.line.listener.wait_for_state(lambda s: s["state"] == "Ready" and s["run_id"] not in self.runs)
        return daemon

    def marks(self) -> dict[int, tuple[str, str, str]]:
        return {m["seq"]: (m["mark"], m["comment"], m["who"]) for m in self.client.marks()}


@pytest.fixture
def station(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    made = Station(line, tmp_path_factory.mktemp("c"))
    with contextlib.closing(made.client):
        yield made


def test_the_last_mark_counts_and_undo_returns_to_the_one_before(station: Station) -> None:
    """Several parts at once; a second person's mark replaces; undo by number and by person; everything may be repeated."""
    client, journal = station.client, station.journal_id
    first = client.feedback(journal, [5, 1, 5], "false_reject", who=WHO, comment="only dust")
    assert first["seqs"] == [1, 5]
    assert client.feedback(journal, [1, 5], "false_reject", who=WHO, comment="only dust") == first
    second = client.feedback(journal, [5], "right", who="Jörg")
    assert station.marks() == {1: ("false_reject", "only dust", WHO), 5: ("right", "", "Jörg")}
    for _ in range(2):
        assert client.undo_feedback(journal, who="Hall", change=second["change"]) in ([5], [])
        assert station.marks() == dict.fromkeys((1, 5), ("false_reject", "only dust", WHO))
    with pytest.raises(RefusedError, match="no feedback of Jörg") as refused:
        client.undo_feedback(journal, who="Jörg")
    assert refused.value.code == "nothing_to_undo"
    assert client.undo_feedback(journal, who=WHO) == [1, 5]
    assert station.marks() == {}


def test_marks_are_in_the_replay_and_in_the_csv(station: Station) -> None:
    """A script's text in the comment stays text, also in a spreadsheet."""
    station.client.feedback(station.journal_id, [2], "right", who=WHO, comment="=HYPERLINK(1)")
    assert {v["seq"]: v.mark["mark"] for v in station.client.replay(1) if v.mark} == {2: "right"}
    out = run_anosegd("export", str(station.config), "--csv", "-").stdout
    rows = {int(row["seq"]): row for row in csv.DictReader(io.StringIO(out))}
    assert (rows[2]["mark"], rows[2]["comment"], rows[2]["marked_by"]) == ("right", "'=HYPERLINK(1)", WHO)
    assert rows[2]["marked_at"]
    assert [rows[3][name] for name in ("mark", "comment", "marked_by", "marked_at")] == [""] * 4


BAD: tuple[tuple[Callable[[Client, str], object], str], ...] = (
    (lambda c, j: c.feedback(j, [1, 4711, 4712], "right", who=WHO), "no verdict (any more) with the number 4711, 4712"),
    (lambda c, j: c.feedback("another", [1], "right", who=WHO), "the journal is now"),
    (lambda c, j: c.feedback(j, [2], "false_reject", who=WHO), "a part with PASS takes right, missed_defect or unsure"),
    (lambda c, j: c.feedback(j, [1], "missed_defect", who=WHO), "a part with FAIL takes right, false_reject or unsure"),
    (lambda c, j: c.feedback(j, [1, 13], "right", who=WHO), "UNKNOWN: unreadable was not inspected, so it takes no mark"),
    (lambda c, j: c.feedback(j, [1], "wrong", who=WHO), "mark 'wrong' is unknown"),
    (lambda c, j: c.feedback(j, [], "right", who=WHO), "seqs must have at least 1 entries"),
    (lambda c, j: c.feedback(j, list(range(1, 202)), "right", who=WHO), "seqs must have at most 200 entries"),
    (lambda c, j: c.feedback(j, [1], "right", who=" "), "who is empty"),
    (lambda c, j: c.feedback(j, [1], "right", who="x" * 201), "who is too long"),
    (lambda c, j: c.feedback(j, [1], "right", who="A\u202enna"), "who contains a control character"),
    (lambda c, j: c.feedback(j, [1], "right", who=WHO, comment="x" * (MAX_COMMENT + 1)), "comment is too long"),
    (lambda c, j: c.feedback(j, [1], "right", who=WHO, comment="x\n"), "comment contains a control character"),
    (lambda c, j: c.feedback(j, [1], "right", who=WHO, comment="\x1b[2J"), "comment contains a control character"),
    (lambda c, j: c.undo_feedback(j, who=WHO, change=99), "the journal has no such feedback"),
    (lambda c, j: c.undo_feedback("another", who=WHO), "the journal is now"),
)


def test_what_does_not_fit_is_refused_and_nothing_is_noted(station: Station) -> None:
    """Each refusal says why, and no part is marked, also not those of the same request that could be."""
    for request, said in BAD:
        with pytest.raises(RefusedError) as refused:
            request(station.client, station.journal_id)
        assert said in refused.value.message
    assert station.marks() == {}


def test_a_restart_between_mark_and_undo(station: Station) -> None:
    """After the daemon was killed, the marks are there, and can be taken back."""
    station.client.feedback(station.journal_id, [1, 2], "right", who=WHO)
    change = station.client.feedback(station.journal_id, [2], "missed_defect", who=WHO)["change"]
    station.runs = (station.client.status()["run_id"],)
    station.daemon.process.kill()
    station.daemon.process.wait()
    station.start()
    assert {seq: mark[0] for seq, mark in station.marks().items()} == {1: "right", 2: "missed_defect"}
    assert station.client.undo_feedback(station.journal_id, who=WHO, change=change) == [2]
    assert {seq: mark[0] for seq, mark in station.marks().items()} == {1: "right", 2: "right"}


def test_the_command_marks_and_takes_back(station: Station) -> None:
    """What a script would do; the answer names the number for taking it back."""
    said = run_anosegd("feedback", str(station.config), "--seq", "1", "5", "--mark", "false_reject", "--who", WHO).stdout
    assert said.startswith("feedback: 2 parts marked as false_reject; to take it back: --undo ")
    change = said.split()[-1]
    assert len(station.marks()) == 2
    assert "for 2 parts" in run_anosegd("feedback", str(station.config), "--undo", change, "--who", WHO).stdout
    assert "taken back before" in run_anosegd("feedback", str(station.config), "--undo", change, "--who", WHO).stdout
    assert station.marks() == {}
    assert run_anosegd("feedback", str(station.config), "--seq", "1", "--who", WHO).returncode == 2


def test_the_dataset_follows_the_marks(station: Station, tmp_path: Path) -> None:
    """The trainer finds good and defective parts. A second run adds what is new and moves what is marked differently. What has
    no picture is listed. Another person's folder stays as it is."""
    client, journal, data = station.client, station.journal_id, tmp_path / "marked"

    def dataset(*arguments: str) -> str:
        done = run_anosegd("evidence", "dataset", str(station.config), "--data", str(data), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pictures() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for path in sorted(data.rglob("*.png")):
            place = path.parent.relative_to(data).as_posix()
            found.setdefault(place, []).append(int(path.stem.removesuffix("_mask").rsplit("-", 2)[1]))
        return found

    client.feedback(journal, [2, 3, 4, 6, 7], "right", who=WHO)
    client.feedback(journal, [1], "false_reject", who=WHO)
    client.feedback(journal, [5], "right", who=WHO)
    change = client.feedback(journal, [8], "missed_defect", who=WHO)["change"]
    assert dataset().count("\n") == 3
    first = {"train/good": [1, 2, 3, 4, 7], "test/good": [6], "test/defective": [5, 8], "ground_truth/defective": [5, 8]}
    assert pictures() == first
    assert {len(find_good_images(data, least=1)), len(find_evaluation_images(data))} == {5, 3}
    assert "nothing new" in dataset()
    client.undo_feedback(journal, who=WHO, change=change)
    client.feedback(journal, [5], "false_reject", who=WHO)
    for name in (station.line.folder / "evidence").rglob("*.000000000009.*"):
        name.unlink()
    client.feedback(journal, [9, 10], "unsure", who=WHO)
    client.feedback(journal, [9], "right", who=WHO)
    assert "without a picture in the evidence: 9\n" in dataset()
    assert "without a picture in the evidence: 9\n" in dataset("--camera", "line")
    assert "without a picture" not in dataset("--camera", "another")  # it is not a part of that camera
    assert pictures() == {"train/good": [1, 2, 3, 4, 5, 7], "test/good": [6], "not_used": [8]}
    client.feedback(journal, [8], "right", who=WHO)
    dataset()
    assert sorted(pictures()["train/good"]) == [1, 2, 3, 4, 5, 7, 8]
    of_side = tmp_path / "side" / "train" / "good" / f"side-20261127T060001289000Z-000000000001-{journal}.png"
    of_side.parent.mkdir(parents=True)
    of_side.write_bytes(b"a picture")
    mixed = run_anosegd("evidence", "dataset", str(station.config), "--data", str(tmp_path / "side"))
    assert (mixed.returncode, "come from several cameras: line, side" in mixed.stderr) == (2, True)
    assert [path for path in (tmp_path / "side").rglob("*") if path.is_file()] == [of_side]
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    refused = run_anosegd("evidence", "dataset", str(station.config), "--data", str(other))
    assert (refused.returncode, [path.name for path in other.iterdir()]) == (2, ["notes.txt"])
    refused = run_anosegd("evidence", "dataset", str(station.config), "--data", str(other / "notes.txt"))
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)


def test_notes_are_read_after_a_number(station: Station) -> None:
    """A reader that keeps the last number gets every mark and every undo once, in their order; a restart changes nothing."""
    station.client.feedback(station.journal_id, [1, 5], "false_reject", who=WHO, comment="dust")
    first = station.client.notes(0, 1)
    rest = station.client.notes(first[-1]["number"])
    station.client.undo_feedback(station.journal_id, who=WHO)
    undone = station.client.notes(rest[-1]["number"])
    assert [(n["seq"], n["mark"], n["comment"], n["undoes"]) for n in first + rest] == [
        (1, "false_reject", "dust", None),
        (5, "false_reject", "dust", None),
    ]
    assert [(n["seq"], n["mark"], n["undoes"]) for n in undone] == [(1, "", first[0]["number"]), (5, "", rest[0]["number"])]
    numbers = [n["number"] for n in first + rest + undone]
    assert numbers == sorted(set(numbers))
    station.runs = (station.client.status()["run_id"],)
    station.daemon.terminate()
    station.daemon = station.start()
    assert station.client.notes(0) == first + rest + undone
    assert station.client.request("notes", after=numbers[-1]) | {"id": 0} == {
        "id": 0,
        "ok": True,
        "journal_id": station.journal_id,
        "notes": [],
    }


def test_changes_are_read_after_a_number(station: Station) -> None:
    """A reader that keeps the last number gets every change once, the oldest first; without one, it gets the newest."""
    for value in (0.6, 0.7, 0.8):
        station.client.set_threshold("line", value, who=WHO, why="tests")
    everything = station.client.changes(after=0)
    assert [change["new"] for change in everything] == ["0.6 person", "0.7 person", "0.8 person"]
    one = station.client.changes(1, after=0)
    assert one == everything[:1]
    assert station.client.changes(after=one[0]["number"]) == everything[1:]
    assert station.client.changes(1) == everything[-1:]
    assert station.client.request("changes", limit=1)["journal_id"] == station.journal_id
