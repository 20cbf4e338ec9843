"""The publisher with its real socket: the first outcome counts, order of capture, deadlines."""

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.anosegd_line import Listener, wait_until

from anoseg_engines.judgement import Inspection, Judgement
from anoseg_engines.placement import InputSpec, Placement, Region
from anosegd import wire
from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig, Config, EngineConfig, PublishConfig
from anosegd.journal import Journal, JournalConfig
from anosegd.outcome import Inspected, Unknown
from anosegd.part import Part
from anosegd.publish import Identity, Publisher
from anosegd.publish import publisher as publisher_module
from anosegd.publish.masks import MaskEncoder, MaskJob, encode_map

ENGINE = wire.EngineName(name="tiny", version=1, digest="0" * 64, runtime="none")


def state(publisher: Publisher) -> wire.State:
    return wire.State(
        station="s", journal_id="j", run_id="r", version="0", at="", state="Ready", uptime_s=0, last_seq=publisher.last_seq,
        counts=wire.Counts(), masks_dropped=0, engine=ENGINE, cameras={},
    )  # fmt: skip


@pytest.fixture
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    folder = tmp_path_factory.mktemp("p")
    listener = Listener(f"ipc://{folder}/pub")
    yield listener
    listener.close()


@pytest.fixture
def publisher(listener: Listener) -> Iterator[Publisher]:
    camera = CameraConfig(source=DemoSource(), policy="every", deadline_ms=1000)
    config = Config(
        engine=EngineConfig(bundle="none"),
        cameras={"a": camera, "b": camera},
        publish=PublishConfig(endpoint=listener.endpoint),
    )
    publisher = Publisher(config, Identity("journal", "run"), state)
    publisher.engine = ENGINE
    publisher.start()
    listener.wait_for_state(lambda s: True)
    yield publisher
    publisher.stop()
    assert publisher.join(10)
    assert publisher.failure is None


def part(camera: str, sequence: int, *, deadline_s: float | None = None) -> Part:
    now = time.monotonic_ns()
    deadline = None if deadline_s is None else now + round(deadline_s * 1e9)
    return Part(
        camera=camera,
        sequence=sequence,
        part_id=f"{camera}{sequence}",
        captured_ns=now,
        captured_wall_ns=time.time_ns(),
        deadline_ns=deadline,
    )


def inspected(score: float = 0.1) -> Inspected:
    now = time.monotonic_ns()
    placement = Placement.of(InputSpec(8, 8), Region(0, 0, 8, 8))
    inspection = Inspection(score, np.full((8, 8), score, np.float32), 1)
    return Inspected(Judgement("FAIL" if score >= 0.5 else "PASS", score, 0.5, ()), inspection, placement, ENGINE, now, now)


def summary(verdicts: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(v["seq"], v["part_id"], v["reason"] or v["outcome"]) for v in verdicts]


def test_verdicts_keep_the_order_of_capture(publisher: Publisher, listener: Listener) -> None:
    """A part waits for the earlier parts of its camera, not for those of another."""
    parts = [part("a", i) for i in (1, 2, 3)]
    other = part("b", 1)
    for p in (*parts, other):
        publisher.open_part(p)
    publisher.report_outcome(parts[2], Unknown("overrun"))
    publisher.report_outcome(parts[1], inspected(0.9))
    publisher.report_outcome(other, inspected())
    assert summary(listener.wait_for_verdicts(1)) == [(1, "b1", "PASS")]
    publisher.report_outcome(parts[0], inspected())
    assert summary(listener.wait_for_verdicts(4))[1:] == [(2, "a1", "PASS"), (3, "a2", "FAIL"), (4, "a3", "overrun")]


def test_the_first_outcome_counts(publisher: Publisher, listener: Listener) -> None:
    """A later result is counted as late, not sent."""
    first, second = part("a", 1), part("a", 2)
    publisher.open_part(first)
    publisher.report_outcome(first, Unknown("engine", "broke"))
    publisher.report_outcome(first, inspected(0.9))
    publisher.open_part(second)
    publisher.report_outcome(second, inspected())
    verdicts = listener.wait_for_verdicts(2)
    assert summary(verdicts) == [(1, "a1", "engine"), (2, "a2", "PASS")]
    assert verdicts[0]["detail"] == "broke"
    assert publisher.counts["a"].published.late == 1


def test_the_end_waits_no_longer_for_the_journal(listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk hangs, the last verdicts are sent when the time for it is over, not at the heartbeat after that."""
    monkeypatch.setattr(publisher_module, "LAST_COMMITS_S", 0.1)
    monkeypatch.setattr(publisher_module, "HEARTBEAT_S", 20.0)
    journal = Journal.open(JournalConfig(path=str(tmp_path / "journal.db")))
    monkeypatch.setattr(journal, "submit", lambda entries, done, *, hold: None)  # is never answered
    config = Config(
        engine=EngineConfig(bundle="none"),
        cameras={"a": CameraConfig(source=DemoSource())},
        publish=PublishConfig(endpoint=listener.endpoint),
    )
    publisher = Publisher(config, Identity("journal", "run"), state, journal)
    publisher.engine = ENGINE
    publisher.start()
    listener.wait_for_state(lambda s: True)
    first = part("a", 1)
    publisher.open_part(first)
    publisher.report_outcome(first, inspected())
    wait_until(lambda: not publisher._open, "the publisher has taken the part")
    publisher.stop()
    ended = publisher.join(10)
    assert journal.close()
    assert ended
    assert summary(listener.wait_for_verdicts(1)) == [(1, "a1", "journal")]


def test_the_deadline_closes_a_part(publisher: Publisher, listener: Listener) -> None:
    """Without an outcome the part is UNKNOWN: deadline, and the parts behind it go on."""
    first, second = part("a", 1, deadline_s=0.2), part("a", 2, deadline_s=60)
    publisher.open_part(first)
    publisher.open_part(second)
    publisher.report_outcome(second, inspected())
    assert summary(listener.wait_for_verdicts(2)) == [(1, "a1", "deadline"), (2, "a2", "PASS")]
    publisher.report_outcome(first, inspected())
    listener.wait_for_state(lambda s: True)
    assert len(listener.verdicts) == 2


def test_result_after_its_deadline_is_not_a_verdict(publisher: Publisher, listener: Listener) -> None:
    """The verdict must be sent by the deadline: a result that comes later is UNKNOWN: deadline."""
    late = part("a", 1, deadline_s=-1)
    publisher.open_part(late)
    publisher.report_outcome(late, inspected())
    assert summary(listener.wait_for_verdicts(1)) == [(1, "a1", "deadline")]


def test_dropped_frames_take_no_number(publisher: Publisher, listener: Listener) -> None:
    """A dropped frame has no verdict and leaves no gap."""
    first, second = part("a", 1), part("a", 2)
    publisher.open_part(first)
    publisher.open_part(second)
    publisher.drop_part(first)
    publisher.report_outcome(second, inspected())
    assert summary(listener.wait_for_verdicts(1)) == [(1, "a2", "PASS")]
    assert publisher.counts["a"].dropped == 1


def test_stop_closes_what_is_open(publisher: Publisher, listener: Listener) -> None:
    """Parts that are not inspected when the daemon stops are UNKNOWN: shutdown."""
    for i in (1, 2):
        publisher.open_part(part("a", i))
    publisher.stop()
    assert summary(listener.wait_for_verdicts(2)) == [(1, "a1", "shutdown"), (2, "a2", "shutdown")]


def test_masks_are_dropped_if_encoding_is_too_slow() -> None:
    """Maps beyond the queue are dropped and counted; those in the queue are delivered even at the end."""
    delivered: queue.SimpleQueue[int] = queue.SimpleQueue()
    encoder = MaskEncoder(3, lambda header, png: delivered.put(header.seq))
    for seq in range(10):
        header = wire.Mask(
            station="s", journal_id="j", seq=seq, camera="a", part_id="p", region=Region(0, 0, 8, 8),
            width=8, height=8, scale_x=1, scale_y=1,
        )  # fmt: skip
        encoder.offer(MaskJob(header, np.zeros((8, 8), np.float32)))
    assert encoder.dropped == 7
    encoder.stop()
    encoder.start()
    assert encoder.join(10)
    assert [delivered.get_nowait() for _ in range(3)] == [0, 1, 2]


def test_map_values_outside_the_range_are_clipped() -> None:
    """0 becomes 0, 1 becomes 255, values outside become the nearest of these."""
    import cv2

    data = encode_map(np.array([[-0.5, 0.0, 0.5, 1.0, 7.0]], np.float32))
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.tolist() == [[0, 0, 128, 255, 255]]


def test_endpoint_that_cannot_be_bound(tmp_path: Path) -> None:
    """The error of the thread that owns the socket ends the start."""
    camera = CameraConfig(source=DemoSource())
    config = Config(
        engine=EngineConfig(bundle="none"), cameras={"a": camera}, publish=PublishConfig(endpoint=f"ipc://{tmp_path}/none/pub")
    )
    publisher = Publisher(config, Identity("journal", "run"), state)
    with pytest.raises(Exception, match="cannot be bound"):
        publisher.start()
    assert publisher.join(10)
