"""Figures of a finished training that nobody trained."""

from typing import Any

import msgspec

from anoseg_trainer.fit_status import Figures

GOOD = Figures(
    version=1,
    digest="",
    report="report-1.html",
    level="good",
    answer="Good enough.",
    defects="real defects",
    defective=20,
    escapes=0,
    good=99,
    false_rejects=1,
    asked=0.01,
    promised=0.01,
    look_at="",
    score_threshold=0.5,
    synthetic_caught=1.0,
    image_auroc=1.0,
    images=500,
    steps=40,
    seconds=2.0,
)


def figures(**changes: Any) -> Figures:
    """Return the figures of a good bundle with some of them changed."""
    return msgspec.structs.replace(GOOD, **changes)
