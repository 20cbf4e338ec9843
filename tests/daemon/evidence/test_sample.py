"""Which good parts are kept, and that the others let their pictures go at once."""

import numpy as np
import pytest

from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig
from anosegd.evidence import EvidenceConfig, EvidenceKeeper
from anosegd.outcome import Unknown
from anosegd.part import Part
from anosegd.picture import HoldLimit, Picture
from anosegd.publish.open_parts import OpenParts


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_share_of_good_parts(share: float) -> None:
    """The share is that of the configuration, for every camera; another run chooses other parts."""
    keeper, another = (EvidenceKeeper(EvidenceConfig(folder="none", good_share=share)) for _ in range(2))
    chosen = {camera: [n for n in range(10_000) if keeper.samples(camera, n)] for camera in ("a", "b")}
    assert [len(found) / 10_000 for found in chosen.values()] == pytest.approx([share, share], abs=0.02)
    assert chosen["a"] == [n for n in range(10_000) if keeper.samples("a", n)]
    if share == 0.1:
        assert chosen["a"] != chosen["b"]
        assert chosen["a"] != [n for n in range(10_000) if another.samples("a", n)]


def test_a_picture_that_nobody_needs_goes_before_the_verdict() -> None:
    """Its slot is free as soon as the outcome is known, while the verdict waits for its commit."""
    parts, released = OpenParts(), list[int]()
    settings = CameraConfig(source=DemoSource())
    for sequence, keep in ((1, False), (2, True)):
        part = Part(camera="a", sequence=sequence, part_id="", captured_ns=1, captured_wall_ns=1, settings=settings)
        image = np.zeros((2, 2, 3), np.uint8)
        picture = Picture(image, lambda sequence=sequence: released.append(sequence), HoldLimit(2))  # type: ignore[misc]
        parts.open(part, picture=picture)
        picture.inspected()
        assert parts.close(part, Unknown("review"), keep_picture=keep)
    assert released == [1]
    assert [entry.picture is None for entry in parts.take_closed()] == [True, False]
