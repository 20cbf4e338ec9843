"""Pictures from the evidence, as the screen serves them."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anoseg_engines.placement import Region
from anosegd.evidence import EvidenceReader, KeptPart, PartName
from anosegd.view.kept_pictures import LONGEST_SIDE, KeptPictures

AT = "2026-11-27T06:00:00.000000Z"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the reader returns; a test sets `region`."""
    done, png = cv2.imencode(".png", np.zeros((300, 5000, 3), np.uint8))
    assert done
    part: dict[str, Any] = {"region": Region(0, 0, 5000, 300)}

    def read(self: EvidenceReader, name: PartName) -> KeptPart:
        return KeptPart({}, part["region"], png.tobytes(), "png", b"\x89PNG", None)

    def by_seq(self: EvidenceReader, *_: Any, **__: Any) -> Any:
        return type("Name", (), {"camera": "top", "at": datetime.now(timezone.utc)})

    monkeypatch.setattr(EvidenceReader, "by_seq", by_seq)
    monkeypatch.setattr(EvidenceReader, "read", read)
    return part


def test_large_picture_is_scaled_down(kept: dict[str, Any], tmp_path: Path) -> None:
    """A picture with more pixels than a screen shows takes no more memory than one that fits."""
    pictures = KeptPictures(tmp_path).read("j", 1, AT)
    assert pictures is not None
    image = cv2.imdecode(np.frombuffer(pictures.files["image"][1], np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (round(300 * LONGEST_SIDE / 5000), LONGEST_SIDE, 3)
    assert pictures.region["width"] == 5000  # boxes stay in camera pixels


def test_region_outside_the_picture_leaves_the_map(kept: dict[str, Any], tmp_path: Path) -> None:
    """A part whose region is not in its picture is shown without the picture."""
    kept["region"] = Region(6000, 0, 10, 10)
    pictures = KeptPictures(tmp_path).read("j", 1, AT)
    assert pictures is not None
    assert pictures.files.keys() == {"map"}


@pytest.mark.parametrize("at", ["never", "0001-01-01T00:00:00+23:00", "9999-12-31T23:00:00-23:00"])
def test_a_time_that_does_not_exist_has_no_picture(at: str, tmp_path: Path) -> None:
    """Anybody can write any time into the address: there is no picture, and no error."""
    assert KeptPictures(tmp_path).thumbnail("j", 1, at) is None
