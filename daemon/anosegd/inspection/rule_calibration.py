"""Reports which share of good parts a camera's region rules may reject. Pure functions."""

from __future__ import annotations

from anoseg_engines.bundle import Bundle, RuleCalibration
from anoseg_engines.judgement import rules_digest
from anoseg_engines.words import counted, rounded_up
from anosegd.config import CameraConfig

DECIDE = "region rules decide"
NOT_CALIBRATED = f"{DECIDE}: the share of good parts rejected is not calibrated for these rules"
NOT_HELD_OUT = "that the network was trained on: more good parts of the line may be rejected"


def rules_note(camera: CameraConfig, bundle: Bundle, size: tuple[int, int] | None) -> str | None:
    """Return a note on the camera's rules with this bundle, or None if the camera has no rules.

    Args:
        camera: The camera's configuration.
        bundle: The bundle in use.
        size: Height and width of the camera's frames, after turning. None: not known yet.
    """
    if not camera.rules:
        return None
    digest = rules_digest(camera.rules, camera.region, camera.rotate)
    found = [entry for entry in bundle.rule_calibrations if entry.digest == digest]
    if not found:
        return NOT_CALIBRATED
    if size is None:
        shares = (f"in frames of {_size(entry)}, {_share(entry)}" for entry in found)
        return f"{DECIDE}; {'; '.join(shares)}"
    height, width = size
    for entry in found:
        if (entry.height, entry.width) == size:
            return f"{DECIDE}; {_share(entry)}"
    measured = ", ".join(_size(entry) for entry in found)
    return f"{NOT_CALIBRATED} in frames of {width}×{height}, only in frames of {measured}"


def is_worrying(note: str) -> bool:
    """Return whether the note is a warning."""
    return NOT_CALIBRATED in note or NOT_HELD_OUT in note


def _share(entry: RuleCalibration) -> str:
    images = f"{counted(entry.n_images, 'image')} of {_size(entry)}"
    share = f"at most {100 * rounded_up(entry.guaranteed):.1f} % of good parts rejected, from {images}"
    return share if entry.held_out else f"{share} {NOT_HELD_OUT}"


def _size(entry: RuleCalibration) -> str:
    return f"{entry.width}×{entry.height}"
