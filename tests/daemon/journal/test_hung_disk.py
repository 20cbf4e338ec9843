"""A real daemon whose journal's disk hangs: a write neither succeeds nor fails."""

import cv2
from support.anosegd_line import Line
from support.paths import SUPPORT
from support.tiny_bundle import good_part

from anosegd.client import Client

CAMERAS = """
top: {policy: wait, source: {kind: folder, path: images, loop: true, fps: 10}}
hand: {policy: every, source: {kind: demo, fps: 20}, trigger: {kind: software}}
"""


def test_the_line_learns_that_the_disk_hangs(line: Line) -> None:
    """State Error and `UNKNOWN: journal` instead of silence, one line in the log; then all works again, and nothing is lost."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    control = line.endpoint.replace("pub", "control")
    config = line.config(CAMERAS, more=f"journal: {{path: verdicts.db}}\ncontrol: {{endpoint: '{control}'}}")
    daemon = line.run(config, program=(str(SUPPORT / "faulty_daemon.py"), str(line.folder)))
    listener = line.listener
    listener.wait_for(lambda m: m.topic == "verdict.top" and m.header["outcome"] == "PASS" and m.header["durable"])
    (line.folder / "journal-hangs").touch()
    unknown = listener.wait_for(lambda m: m.topic == "verdict.top" and m.header["outcome"] == "UNKNOWN").header
    assert (unknown["reason"], unknown["durable"]) == ("journal", False)
    assert "has not answered for" in unknown["detail"]
    state = listener.wait_for_state(lambda s: s["state"] == "Error")
    assert "verdicts cannot be stored: the journal's disk has not answered for" in state["detail"]
    assert not state["journal"]["working"]
    with Client(line.endpoint, control) as client:  # nobody who asks for something waits for the disk
        assert client.request("trigger", camera="hand", part_id="4711")["durable"] is False
        assert client.pause(5, who="Anna", camera="hand")["cameras"] == ["hand"]
    assert listener.wait_for(lambda m: m.topic == "verdict.hand").header["part_id"] == "4711"
    # About a hundred parts had waited. Those after them do not wait.
    listener.wait_for(lambda m: m.topic == "verdict.top" and m.header["seq"] > unknown["seq"] + 120)
    (line.folder / "journal-hangs").unlink()
    passed = listener.wait_for(lambda m: m.topic == "verdict.top" and m.header["outcome"] == "PASS" and m.header["durable"])
    listener.wait_for_state(lambda s: s["state"] == "ContinuousExecution" and s["journal"]["working"])
    assert daemon.terminate() == 0
    numbers = [v["seq"] for v in listener.verdicts if v["seq"] <= passed.header["seq"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    events = [event["event"] for event in daemon.events]
    assert (events.count("journal.hung"), events.count("journal.answers")) == (1, 1)
