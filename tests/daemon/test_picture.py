"""A frame's slot that is shared: it is given back once, when nobody needs it, and never while somebody reads it."""

from pathlib import Path

import numpy as np

from anosegd import wire
from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig, Config, EngineConfig
from anosegd.evidence import EvidenceConfig, EvidenceKeeper
from anosegd.picture import HoldLimit, Picture
from anosegd.publish import Identity, Publisher
from anosegd.publish.publisher import EVIDENCE_PICTURES, PICTURE_USERS

IMAGE = np.zeros((2, 3, 3), np.uint8)


def shared(limit: HoldLimit) -> tuple[Picture, list[int]]:
    released: list[int] = []
    return Picture(IMAGE, lambda: released.append(1), limit), released


def test_the_slot_goes_back_when_the_last_holder_is_done() -> None:
    """Inspection, publisher and keeper may end in any order."""
    limit = HoldLimit(1)
    for order in (("inspected", "done", "done"), ("done", "inspected", "done"), ("done", "done", "inspected")):
        picture, released = shared(limit)
        picture.share()
        for step in order:
            assert released == []
            getattr(picture, step)()
        assert released == [1]


def test_a_picture_is_given_up_if_too_many_are_held() -> None:
    """Its slot goes back with the inspection; the holder finds no pixels. A place that becomes free is used again."""
    limit = HoldLimit(1)
    first, first_released = shared(limit)
    second, second_released = shared(limit)
    first.inspected()
    second.inspected()
    assert (first_released, second_released) == ([], [1])
    assert first.there
    assert not second.there
    with second.use() as image:
        assert image is None
    second.done()
    assert second_released == [1]
    first.done()
    assert first_released == [1]
    third, third_released = shared(limit)
    third.inspected()
    assert third.there
    assert third_released == []


def test_pixels_stay_while_somebody_reads_them() -> None:
    """A picture without a place goes back only after the reader has finished."""
    picture, released = shared(HoldLimit(0))
    with picture.use() as image:
        picture.inspected()
        assert image is IMAGE
        assert released == []
    assert released == [1]
    assert not picture.there


def test_parts_in_the_network_leave_the_places_of_the_others(tmp_path: Path) -> None:
    """However many parts the engine runs at a time, each has its picture when its outcome is known."""
    parallel = 9
    config = Config(engine=EngineConfig(bundle="none"), cameras={"a": CameraConfig(source=DemoSource())})
    keeper = EvidenceKeeper(EvidenceConfig(folder=str(tmp_path), min_free=0))
    publisher = Publisher(config, Identity("journal", "run"), never, evidence=keeper)
    publisher.parallel = parallel
    limit = HoldLimit(publisher.most_pictures)
    pictures = [shared(limit)[0] for _ in range(parallel + EVIDENCE_PICTURES)]
    for picture in pictures:
        picture.inspected()  # the network has its copy
    assert all(picture.there for picture in pictures)
    assert publisher.picture_slots("every") == len(pictures) + PICTURE_USERS


def never(_: Publisher) -> wire.State:
    raise AssertionError("no thread runs")
