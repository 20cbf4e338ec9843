"""The tables of `anosegd tail` and `anosegd changes` in a terminal of 80 columns. Pure."""

import io
from typing import Any

import msgspec
from rich.console import Console

from anosegd import wire
from anosegd.commands import changes
from anosegd.commands.tail import Board

NOW = "2026-11-28T06:00:00.000000Z"
ENGINE = wire.EngineName(name="tiny", version=1, digest="0" * 64, runtime="none")


def lines_of(shown: Any, height: int = 12) -> list[str]:
    """What it prints in a window of 80 columns."""
    file = io.StringIO()
    Console(file=file, width=80, height=height).print(shown)
    return file.getvalue().splitlines()


def state(cameras: dict[str, str]) -> dict[str, Any]:
    """A heartbeat with cameras in these states."""
    health = {
        name: wire.CameraHealth(
            state=camera, source="images", last_error="no route to the camera" if camera == "lost" else None
        )  # type: ignore[arg-type]
        for name, camera in cameras.items()
    }
    found = wire.State(
        station="press-4", journal_id="j", run_id="r", version="0", at=NOW, state="ContinuousExecution", uptime_s=0,
        last_seq=0, counts=wire.Counts(), masks_dropped=0, engine=ENGINE, cameras=health,
    )  # fmt: skip
    return dict(msgspec.to_builtins(found))


def verdict(seq: int) -> wire.Verdict:
    """A verdict that passed."""
    return wire.Verdict(
        station="s", journal_id="j", seq=seq, run_id="r", camera="top", part_id=f"part-{seq}", sequence=seq, triggered_at=None,
        captured_at=NOW, read_at=NOW, committed_at=NOW, outcome="PASS", reason=None, detail=None, score=0.1, threshold=0.5,
        threshold_from="calibration", defects=[], recipe="default", engine=ENGINE, source=None, durable=True,
        timings_ms=wire.Timings(total=20.0),
    )  # fmt: skip


def test_the_rate_is_that_of_the_line() -> None:
    """Verdicts from the journal arrive faster than the line inspects: they are counted, but not in the rate."""
    board = Board("tcp://127.0.0.1:5570")
    for seq in range(1, 301):
        board.add_verdict(verdict(seq), replayed=True)
    board.add_verdict(verdict(301))
    foot = " ".join(lines_of(board)[-2:])
    assert "301 verdicts: 301 PASS" in foot
    assert "2.0/s" in foot  # one verdict in the first half second


def test_a_low_window_says_how_many_cameras_it_does_not_show() -> None:
    """At 80×12 there is room for one camera, a lost one first; the others are counted. A higher window shows all."""
    board = Board("tcp://127.0.0.1:5570")
    board.add_state(state({"a": "running", "b": "running", "c": "lost"}))
    for seq in range(1, 20):
        board.add_verdict(verdict(seq))
    low = lines_of(board)
    assert low[1].startswith("c: lost")
    assert low[1].endswith("  and 2 more cameras")
    assert len(low) <= 11
    high = lines_of(board, height=24)
    assert [line[:2] for line in high[1:4]] == ["c:", "a:", "b:"]
    assert "more camera" not in "".join(high)


def test_a_digest_stays_whole_at_80_columns() -> None:
    """A change of the bundle shows both digests in one piece each, beside a long name and reason."""
    change = {
        "at": NOW, "kind": "rollback", "camera": None, "old": f"my-part/1 {'a' * 64}", "new": f"my-part/2 {'b' * 64}",
        "who": "Maximilian", "why": "fewer false rejects since the new lamp",
    }  # fmt: skip
    threshold = {**change, "kind": "threshold", "camera": "side", "old": "0.13966 calibration", "new": "0.05 person"}
    text = "\n".join(lines_of(changes._table([threshold, change]), height=40))
    assert "a" * 12 in text
    assert "b" * 12 in text
