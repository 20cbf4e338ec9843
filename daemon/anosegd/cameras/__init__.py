"""Runs the daemon's side of the cameras: one thread for each camera starts, watches and restarts a capture process.

`camera_set` has all cameras. `supervisor` is a camera's thread, and `capture_handle` is this thread's handle of the process.
`logins` limits how often a password is tried. `intake` makes a part of each frame, with `parts`. `triggered_parts` makes a part
of each software trigger. `presence` finds out whether a frame shows a part.
"""

from anosegd.cameras.camera_set import CameraSet
from anosegd.cameras.capture_handle import CaptureHandle
from anosegd.cameras.logins import Login, login_of, without_login
from anosegd.cameras.parts import InForce, Trigger
from anosegd.cameras.presence import Presence
from anosegd.cameras.supervisor import SPAWN_TIMEOUT_S, WAITING_SLOTS, CameraSupervisor, in_force

__all__ = [
    "SPAWN_TIMEOUT_S",
    "WAITING_SLOTS",
    "CameraSet",
    "CameraSupervisor",
    "CaptureHandle",
    "InForce",
    "Login",
    "Presence",
    "Trigger",
    "in_force",
    "login_of",
    "without_login",
]
