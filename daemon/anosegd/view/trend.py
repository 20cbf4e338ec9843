"""Computes how scores and rejects went over time. Pure functions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anosegd.view.verdict_table import OUTCOMES, UNKNOWN, VerdictTable

POINTS = 96


def trend(rows: NDArray[Any], *, since: float, until: float) -> dict[str, Any]:
    """Return the trend of one camera's parts, in `POINTS` equal steps.

    Args:
        rows: Its parts of the period.
        since, until: The period, Unix time in s.

    Returns:
        Lists with one value for each step: `at`, the Unix time of its middle; `median` and `p95` of the scores;
        `threshold`, the last one; `share` of rejects among the judged parts; and the counts `passed`, `failed`, `unknown`.
        A value is None where there is no such part.
    """
    edges = np.linspace(since, until, POINTS + 1)
    if np.any(np.diff(rows["at"]) < 0):
        rows = rows[np.argsort(rows["at"], kind="stable")]
    cuts = np.searchsorted(rows["at"], edges)
    found: dict[str, list[Any]] = {name: [] for name in ("median", "p95", "threshold", "share", "passed", "failed", "unknown")}
    for first, end in pairwise(cuts):
        step = rows[first:end]
        scores = step["score"][~np.isnan(step["score"])]
        thresholds = step["threshold"][~np.isnan(step["threshold"])]
        median, p95 = np.percentile(scores, (50, 95)).tolist() if len(scores) else (None, None)
        passed, failed, unknown = np.bincount(step["outcome"], minlength=len(OUTCOMES)).tolist()
        found["median"].append(median)
        found["p95"].append(p95)
        found["threshold"].append(float(thresholds[-1]) if len(thresholds) else None)
        found["share"].append(failed / (passed + failed) if passed + failed else None)
        for name, count in (("passed", passed), ("failed", failed), ("unknown", unknown)):
            found[name].append(count)
    return {"at": ((edges[:-1] + edges[1:]) / 2).tolist(), **found}


def totals(table: VerdictTable, rows: NDArray[Any]) -> dict[str, Any]:
    """Count parts by camera and outcome, and the reasons for UNKNOWN.

    Returns:
        `cameras`: by name, the counts `passed`, `failed`, `unknown`, and `reasons` by name; `bundles`: names and digests of
        the bundles that judged.
    """
    cameras = {}
    for number, name in enumerate(table.cameras.all):
        ours = rows["camera"] == number
        if not ours.any():
            continue
        passed, failed, unknown = np.bincount(rows["outcome"][ours], minlength=len(OUTCOMES)).tolist()
        reasons, counts = np.unique(rows["reason"][ours & (rows["outcome"] == UNKNOWN)], return_counts=True)
        by_reason = {table.reasons.all[reason]: int(count) for reason, count in zip(reasons, counts, strict=True)}
        cameras[name] = {"passed": passed, "failed": failed, "unknown": unknown, "reasons": by_reason}
    judged = rows["bundle"][~np.isnan(rows["score"])]
    return {"cameras": cameras, "bundles": [table.bundles.all[number] for number in np.unique(judged)]}
