"""The first screen's answer: is the bundle good enough?"""

import pytest

from anoseg_trainer.operating_point import OperatingPoint
from anoseg_trainer.report.lead import answer_of


@pytest.mark.parametrize(
    ("false_rejects", "asked", "level"), [(3, 0.01, "good"), (6, 0.01, "bad"), (6, 0.1, "good"), (11, 0.1, "bad")]
)
def test_rejected_good_parts_are_judged_by_what_was_asked_for(false_rejects: int, asked: float, level: str) -> None:
    """If the user has allowed 10 % of good parts to be rejected, the report does not call 6 % too many."""
    point = OperatingPoint(0.5, escapes=0, defective=50, false_rejects=false_rejects, good=100)
    assert answer_of(point, "defects", asked=asked, promised=True)[0] == level
