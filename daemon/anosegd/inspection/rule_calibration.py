"""Reports which share of good parts a camera's region rules may reject. Pure functions."""

from __future__ import annotations

import math

from anoseg_engines.bundle import Bundle
from anoseg_engines.judgement import rules_digest
from anoseg_engines.words import counted
from anosegd.config import CameraConfig

DECIDE = "region rules decide"
NOT_CALIBRATED = f"{DECIDE}: the share of good parts rejected is not calibrated for these rules"
NOT_HELD_OUT = "that the network was trained on: more good parts of the line may be rejected"


def rules_note(camera: CameraConfig, bundle: Bundle) -> str | None:
    """Return a note on the camera's rules with this bundle, or None if the camera has no rules."""
    if not camera.rules:
        return None
    digest = rules_digest(camera.rules, camera.region, camera.rotate)
    found = next((entry for entry in bundle.rule_calibrations if entry.digest == digest), None)
    if found is None:
        return NOT_CALIBRATED
    percent = math.ceil(found.guaranteed * 1000 - 1e-9) / 10  # rounded up: never less than guaranteed
    images = f"{counted(found.n_images, 'image')} of {found.width}×{found.height}"
    note = f"{DECIDE}; at most {percent:.1f} % of good parts rejected, from {images}"
    return note if found.held_out else f"{note} {NOT_HELD_OUT}"


def is_worrying(note: str) -> bool:
    """Return whether the note is a warning."""
    return note.endswith((NOT_CALIBRATED, NOT_HELD_OUT))
