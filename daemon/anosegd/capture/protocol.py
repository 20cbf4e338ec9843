"""Defines the messages between the daemon and a capture process. Pure data.

They travel over a socket pair that keeps the boundaries of messages.
"""

from __future__ import annotations

import msgspec

from anosegd.capture.config import CaptureConfig

MAX_BYTES = 65536


class Job(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Daemon → capture, the first message: what to read.

    Attributes:
        camera: The camera's configuration.
        slots: Number of frame slots in the shared memory.
        frame_bytes: Size of one slot.
        start_at: Position in a file or folder at which to begin.
        after: The file of a folder that was read before that position; None if none was.
        size: Height and width that a live camera had when it was first opened, after turning; None before.
        reopen_s: First and longest time between attempts to open the camera; None fails at the first attempt.
    """

    camera: CaptureConfig
    slots: int
    frame_bytes: int
    start_at: int = 0
    after: str | None = None
    size: tuple[int, int] | None = None
    reopen_s: tuple[float, float] | None = None


class Release(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Daemon → capture: this slot is free again."""

    slot: int


class TakeFrame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Daemon → capture: take a frame for a software trigger.

    Attributes:
        number: The part's number, which the answer repeats.
        at_ns: When the part is in front of the camera; monotonic clock.
    """

    number: int
    at_ns: int


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: libraries are loaded, the source is being opened."""


class Opened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the source is open, or a camera that was away is back."""

    description: str


class Away(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the camera cannot be opened, or is open but silent. The process tries again within pause_s."""

    error: str
    pause_s: float


class Reading(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: this file of a folder is decoded next. If that kills the process, the daemon knows the file."""

    position: int
    source: str


class Origin(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Where a part comes from.

    Attributes:
        position: Counts the parts of this source from 0.
        captured_ns, captured_wall_ns: When the frame was captured, by the source's own stamp where that can be used, else when
            the read returned; monotonic clock and Unix time.
        read_wall_ns: When the read returned; Unix time.
        part_id, source: As in `Shot`.
        trigger: Number of the software trigger that the frame was taken for.
    """

    position: int
    captured_ns: int
    captured_wall_ns: int
    read_wall_ns: int
    part_id: str | None = None
    source: str | None = None
    trigger: int | None = None


class Captured(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Capture → daemon: a frame is in a slot, which belongs to the daemon until it releases it.

    Attributes:
        origin: Where the part comes from.
        slot, shape: Where the frame is, and its height, width and channels; uint8.
        lost: Frames discarded since the last message because no slot was free (policy latest).
    """

    origin: Origin
    slot: int
    shape: tuple[int, int, int]
    lost: int


class Uncaptured(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: a part without a usable image; `reason` is one of the reasons of a verdict."""

    origin: Origin
    reason: str
    detail: str


class Repeated(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: a frame that equals the one of the part before. It is no new part. `captured_ns` is as in `Origin`."""

    captured_ns: int


class Remarks(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Capture → daemon: facts about the camera that an operator should know; sent when they change.

    Attributes:
        stamps: Why the camera's time stamps are not used; None if they are, or if that is not known yet.
        still: Whether its picture stands still.
    """

    stamps: str | None = None
    still: bool = False


class Tick(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: alive: waiting for a slot, a trigger or the next frame's time, or busy opening a file or folder."""


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the file or folder has ended; `lost` as in `Captured`."""

    lost: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Capture → daemon: the source cannot be opened or read; the process ends.

    Attributes:
        error: The reason.
        login_refused: The camera refuses the user name or the password. It must not be tried again soon.
        ended_early: The file ended before all of its frames were read.
    """

    error: str
    login_refused: bool = False
    ended_early: bool = False


FromCapture = Started | Opened | Away | Reading | Captured | Uncaptured | Repeated | Remarks | Tick | Finished | Failed
ToCapture = Job | Release | TakeFrame

encode = msgspec.msgpack.Encoder().encode
decode_from_capture = msgspec.msgpack.Decoder(FromCapture).decode
decode_to_capture = msgspec.msgpack.Decoder(ToCapture).decode
