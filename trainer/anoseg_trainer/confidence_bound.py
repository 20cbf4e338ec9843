"""Bounds the share of good parts that fixed rules reject, from a count on held-out good parts. Pure functions.

The bound is the one-sided bound of Clopper and Pearson (Biometrika 26, 1934), which is a quantile of the beta distribution.
scipy.stats computes it. That module takes a second to import, so it is imported only when it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anoseg_engines.errors import DataError
from anoseg_engines.words import agreeing
from anoseg_trainer.thresholds import SAME_KIND, withheld

CONFIDENCE = 0.95
"""Share of all calibrations in which the true share is at most the bound."""


@dataclass(frozen=True, slots=True)
class RejectedShare:
    """The share of good parts that fixed rules reject.

    Attributes:
        rejected: Rejected parts. A part is rejected if one of its images is.
        n: Held-out good parts.
        upper_bound: The share is at most this, with `CONFIDENCE`.
        met: Whether the bound is at most the requested share.
        allowed: The largest number of the n parts that may be rejected if the request is to be met; −1: n is too small.
        needed: The number of good parts that the request needs if no part is rejected.
    """

    rejected: int
    n: int
    upper_bound: float
    met: bool
    allowed: int
    needed: int


def upper_bound(rejected: int, n: int) -> float:
    """Return the upper Clopper–Pearson bound of the share after `rejected` out of n."""
    from scipy.stats import beta

    return 1.0 if rejected >= n else float(beta.ppf(CONFIDENCE, rejected + 1, n - rejected))


def rejected_share(rejected: int, n: int, false_reject: float) -> RejectedShare:
    """Bound the share of good parts that rules reject, and compare it with the requested share.

    Raises:
        DataError: There are no images.
    """
    from scipy.stats import beta

    if n == 0:
        raise DataError("no good images to calibrate with", hint="add good images")
    counts = np.arange(n)
    allowed = int(np.count_nonzero(beta.ppf(CONFIDENCE, counts + 1, n - counts) <= false_reject)) - 1
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-false_reject) - 1e-9)
    return RejectedShare(
        rejected, n, upper_bound=upper_bound(rejected, n), met=rejected <= allowed, allowed=allowed, needed=needed
    )


def describe_rejected_share(found: RejectedShare, false_reject: float, *, images: int, parts_known: bool = True) -> str:
    """State the bound and its assumption, for the manifest and the user.

    Args:
        found: The bound.
        false_reject: The requested share.
        images: Number of images that show the parts.
        parts_known: Whether it is known which images show the same part. If not, nothing is promised.
    """
    if not parts_known:
        return withheld(images)
    parts = f"good parts on {images} images" if found.n < images else "good images"
    are = agreeing(found.rejected, "is", "are")
    text = (
        f"at most {found.upper_bound:.4g} of good parts are rejected, with {CONFIDENCE:.0%} confidence: {found.rejected} of "
        f"{found.n} {parts} {are}; provided that parts on the line are like these images ({SAME_KIND})"
    )
    if not found.met and found.allowed < 0:
        text += f"; {false_reject:g} was asked for, which needs {found.needed} held-out good images of which none is rejected"
    elif not found.met:
        text += f"; {false_reject:g} was asked for, which allows {found.allowed} rejected of {found.n}"
    return text
