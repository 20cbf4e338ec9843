"""Decides whether a part's deadline has passed, and words the outcome UNKNOWN: deadline. Pure functions."""

from __future__ import annotations

import time

from anosegd.outcome import Unknown
from anosegd.part import Part


def overdue(part: Part) -> bool:
    """Return whether the part's deadline has passed."""
    return part.deadline_ns is not None and time.monotonic_ns() >= part.deadline_ns


def deadline_missed(part: Part) -> Unknown:
    """Return the outcome of a part whose deadline has passed."""
    of = "the trigger" if part.triggered_ns is not None else "capture"
    assert part.deadline_ns is not None
    return Unknown("deadline", f"no verdict within {(part.deadline_ns - part.began_ns) / 1e6:g} ms of {of}")
