"""Runs `anosegd set-threshold`: sets the score from which a camera's parts fail, and says what that would have meant so far."""

from __future__ import annotations

import argparse
import sys

import msgspec

from anosegd.commands.connection import connect, endpoints_of, refuse_if_down
from anosegd.commands.observed import observed, observed_note
from anosegd.commands.shown import shown
from anosegd.inspection.score_thresholds import threshold_note
from anosegd.wire import State, ThresholdInUse

TIMEOUT_S = 10.0
"""The file and the journal are written before the answer."""


def main(options: argparse.Namespace) -> int:
    """Set the threshold and print the old and the new one, and the share of past parts that the new one would have rejected.

    Raises:
        PublishError: The station is down, does not answer, or refuses; the message gives the reason.
    """
    endpoints = endpoints_of(options)
    refuse_if_down(endpoints)
    with connect(endpoints, request_timeout_s=TIMEOUT_S) as client:
        answer = client.set_threshold(options.camera, options.value, who=options.who, why=options.why)
        old, new = (msgspec.convert(answer[name], ThresholdInUse) for name in ("old", "new"))
        state = msgspec.convert(client.status(), State)
        lines = [f"set-threshold: {options.camera} is FAIL from {_in_words(new)} on; before, from {_in_words(old)}"]
        if note := threshold_note(new):
            found = observed(client, state, options.camera, (new.value, old.value, new.calibrated))
            lines += [f"  {shown(note)}", f"  {observed_note(found, new.value, before=old.value)}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _in_words(found: ThresholdInUse) -> str:
    origin = {"calibration": "calibrated", "configuration": "configured", "person": f"set by {shown(found.who or '')}"}[
        found.origin
    ]
    return f"{found.value:g} ({origin})"
