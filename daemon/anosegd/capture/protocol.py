"""What daemon and capture process say to each other, over a socket pair that keeps message boundaries. Pure data."""

from __future__ import annotations

import msgspec

from anosegd.capture.config import FreeRun, Policy, Source, Trigger

MAX_BYTES = 65536


class Job(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Daemon → capture, first: what to do. start_at: position in a file or folder to go on from. rotate: degrees clockwise.

    size: height and width that a live camera had when it was first opened, after turning; None before.
    reopen: seconds between the beginnings of attempts to open it, doubled from the first to the second; None gives up at once.
    """

    source: Source
    policy: Policy
    slots: int
    frame_bytes: int
    start_at: int
    open_timeout_s: float
    stall_timeout_s: float
    rotate: int = 0
    trigger: Trigger = FreeRun()
    size: tuple[int, int] | None = None
    reopen: tuple[float, float] | None = None


class Release(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Daemon → capture: this slot is free again."""

    slot: int


class Triggered(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Daemon → capture: take a frame. number: the part's, for the answer. at_ns: monotonic, when the part lies there."""

    number: int
    at_ns: int


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: libraries are loaded, the source is being opened."""


class Opened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the source is open."""

    description: str


class Away(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the camera cannot be opened, or is open and silent; the process goes on trying, the next time within
    pause_s: it has its libraries loaded. `Opened` says that the camera is back."""

    error: str
    pause_s: float


class Reading(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: about to decode this file of a folder; should that kill the process, the daemon knows which it was."""

    position: int
    source: str


class Captured(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: a frame lies in a slot, which belongs to the daemon until it is released.

    position: count of parts in this source from 0. captured_ns, captured_wall_ns: when the read returned.
    lost: frames read since the last message that found no free slot and were let go (policy latest).
    trigger: number of the trigger that it was taken for.
    """

    slot: int
    height: int
    width: int
    position: int
    captured_ns: int
    captured_wall_ns: int
    part_id: str | None
    source: str | None
    lost: int
    trigger: int | None = None


class Uncaptured(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: a part of which there is no image: an unreadable file, no free slot (policy every), a frame that is the
    one before once more, or of another size than before (live cameras)."""

    reason: str
    detail: str
    position: int
    captured_ns: int
    captured_wall_ns: int
    part_id: str | None
    source: str | None
    trigger: int | None = None


class Tick(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: waiting for a slot or for the next frame's time; alive."""


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the file or folder has come to its end. lost: frames let go since the last message."""

    lost: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the source cannot be opened or read; the process ends."""

    error: str


FromCapture = Started | Opened | Away | Reading | Captured | Uncaptured | Tick | Finished | Failed
ToCapture = Job | Release | Triggered

encode = msgspec.msgpack.Encoder().encode
decode_from_capture = msgspec.msgpack.Decoder(FromCapture).decode
decode_to_capture = msgspec.msgpack.Decoder(ToCapture).decode
