"""The daemon's side of the cameras: one thread a camera starts, watches and restarts its capture process.

`supervisor` is the thread. `capture_handle`: its process. `intake`: what happens to a frame. `parts`, `triggered_parts`: making
parts of frames and of software triggers. `presence`: whether a frame shows a part. `camera_set`: all cameras.
"""

from anosegd.cameras.camera_set import CameraSet
from anosegd.cameras.capture_handle import CaptureHandle
from anosegd.cameras.parts import Trigger
from anosegd.cameras.presence import Presence
from anosegd.cameras.supervisor import SPAWN_TIMEOUT_S, WAITING_SLOTS, CameraSupervisor

__all__ = ["SPAWN_TIMEOUT_S", "WAITING_SLOTS", "CameraSet", "CameraSupervisor", "CaptureHandle", "Presence", "Trigger"]
