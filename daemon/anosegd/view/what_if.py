"""Says what another threshold would have made of past parts. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anosegd.view.verdict_table import FAIL, PASS, UNKNOWN, VerdictTable

BINS = 100
"""Of the histogram, over scores from 0 to 1."""
LISTED = 24
"""Parts whose verdict would change that are listed, the newest of each kind."""


def of_marked(
    rows: NDArray[Any], table: VerdictTable, marks: Mapping[int, str], *, bundle: str, tried: float
) -> dict[str, int]:
    """Say what another threshold would have made of the parts that persons marked.

    Args:
        rows, table, bundle, tried: The arguments of `what_if`.
        marks: The marks by the number of the verdict.

    Returns:
        `good` parts and `defective` ones; how many of the good ones were and would be rejected (`good_failed`,
        `good_would_fail`); how many of the defective ones passed and would pass (`defective_passed`,
        `defective_would_pass`).
    """
    judged = _sorted(rows, table, bundle).judged
    judged = judged[np.isin(judged["seq"], list(marks))]
    found = dict.fromkeys(
        ("good", "good_failed", "good_would_fail", "defective", "defective_passed", "defective_would_pass"), 0
    )
    for seq, score, outcome in zip(judged["seq"].tolist(), judged["score"], judged["outcome"].tolist(), strict=True):
        mark, above = marks[seq], bool(score >= np.float32(tried))
        if mark == "false_reject" or (mark == "right" and outcome == PASS):
            found["good"] += 1
            found["good_failed"] += outcome == FAIL
            found["good_would_fail"] += above
        elif mark in ("missed_defect", "right"):
            found["defective"] += 1
            found["defective_passed"] += outcome == PASS
            found["defective_would_pass"] += not above
    return found


def what_if(rows: NDArray[Any], table: VerdictTable, *, bundle: str, tried: float) -> dict[str, Any]:
    """Compare the verdicts of past parts with those of another threshold.

    Args:
        rows: The parts of a camera and a period.
        table: Where the rows are from.
        bundle: Digest of the bundle that inspects. Scores of two bundles cannot be compared.
        tried: The threshold.

    Returns:
        `parts`, how many were judged by the score threshold of this bundle, and how many of them `failed`; `would_fail` and
        `would_pass`, how many verdicts would change; their numbers in `fail_seqs` and `pass_seqs`, the newest first;
        `review`, parts for a person, which stay what they are; `other_bundle` and `by_rules`, parts to which the
        threshold does not apply; and the histogram of scores by verdict.
    """
    judged, review, by_rules, other_bundle = _sorted(rows, table, bundle)
    failed = judged["outcome"] == FAIL
    above = judged["score"] >= np.float32(tried)
    would_fail, would_pass = judged[above & ~failed], judged[~above & failed]
    return {
        "parts": len(judged),
        "failed": int(failed.sum()),
        "would_fail": len(would_fail),
        "would_pass": len(would_pass),
        "fail_seqs": would_fail["seq"][::-1][:LISTED].tolist(),
        "pass_seqs": would_pass["seq"][::-1][:LISTED].tolist(),
        "review": review,
        "other_bundle": other_bundle,
        "by_rules": by_rules,
        "bins": BINS,
        "passed_scores": _histogram(judged[judged["outcome"] == PASS]["score"]),
        "failed_scores": _histogram(judged[failed]["score"]),
    }


class _Sorted(NamedTuple):
    """Holds parts that have a score, by what decided.

    Attributes:
        judged: The rows that this bundle judged PASS or FAIL by the score threshold.
        review: How many parts of this bundle are for a person.
        by_rules: How many parts of this bundle region rules decided.
        other_bundle: How many parts another bundle inspected.
    """

    judged: NDArray[Any]
    review: int
    by_rules: int
    other_bundle: int


def _sorted(rows: NDArray[Any], table: VerdictTable, bundle: str) -> _Sorted:
    numbers = [number for number, name in enumerate(table.bundles.all) if name.endswith(f" {bundle}")]
    scored = rows[~np.isnan(rows["score"])]
    ours = scored[np.isin(scored["bundle"], numbers)]
    by_score = ours[~np.isnan(ours["threshold"])]
    judged = by_score[by_score["outcome"] != UNKNOWN]
    return _Sorted(judged, len(by_score) - len(judged), len(ours) - len(by_score), len(scored) - len(ours))


def _histogram(scores: NDArray[Any]) -> list[int]:
    return [int(count) for count in np.histogram(scores, bins=BINS, range=(0.0, 1.0))[0]]
