"""Presence check and image quality, with the real daemon."""

import cv2
import numpy as np
import pytest
from support.anosegd_line import Line, run_anosegd
from support.tiny_bundle import bad_part, good_part

from anosegd.cameras.presence import Presence
from anosegd.config import PresenceConfig


def test_an_empty_belt_is_no_part(line: Line) -> None:
    """Frames without a part are counted and get no verdict; the parts between them are inspected."""
    (line.folder / "images").mkdir()
    empty = np.full_like(good_part(), 30)
    for i, image in enumerate([empty, good_part(), empty, empty + 3, bad_part(), empty]):
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), image)
    cv2.imwrite(str(line.folder / "empty.png"), empty)
    cameras = "top:\n  source: {kind: folder, path: images}\n  policy: wait\n  presence: {empty: empty.png}\n"
    daemon = line.run(line.config(cameras), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [(v["seq"], v["source"], v["outcome"]) for v in line.listener.verdicts] == [
        (1, "1.png", "PASS"),
        (2, "4.png", "FAIL"),
    ]
    assert line.listener.last_state()["cameras"]["top"]["empty"] == 4


def test_a_picture_of_another_size_is_a_part(line: Line) -> None:
    """It cannot be compared with the empty place, so it is judged."""
    cv2.imwrite(str(line.folder / "empty.png"), good_part())
    present = Presence.load(PresenceConfig(empty=str(line.folder / "empty.png")), None)
    assert not present(good_part())
    assert present(good_part(20, 30))


@pytest.mark.parametrize(
    ("empty", "said"),
    [("none.png", "presence.empty"), ("station.yaml", "not a readable image"), ("cut.jpg", "not a whole JPEG image")],
)
def test_a_missing_picture_of_the_empty_place(line: Line, empty: str, said: str) -> None:
    """Exit code 2, and the message names the key."""
    jpeg = cv2.imencode(".jpg", good_part())[1].tobytes()
    (line.folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2] + jpeg[-2:])
    config = line.config(f"top:\n  source: {{kind: demo}}\n  presence: {{empty: {empty}}}\n")
    for command in ("check", "run"):
        done = run_anosegd(command, str(config))
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert said in done.stderr


def test_a_dark_picture_is_unknown(line: Line) -> None:
    """The verdict gives the picture's brightness and that of the golden images."""
    (line.folder / "images").mkdir()
    for i, image in enumerate([good_part(), good_part() // 3]):
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), image)
    daemon = line.run(line.config("top:\n  source: {kind: folder, path: images}\n  policy: wait\n  quality: {}\n"), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    good, dark = line.listener.verdicts
    assert good["outcome"] == "PASS"
    assert (dark["outcome"], dark["reason"]) == ("UNKNOWN", "image_quality")
    assert "too dark: mean grey 40, golden images have 120" in dark["detail"]
