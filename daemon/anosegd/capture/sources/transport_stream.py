"""Finds out whether an MPEG transport stream file was cut. Runs in the capture process.

A transport stream has no end marker, and FFmpeg's H.265 decoder does not report that a frame's last rows are missing. But the
last packet of a frame is filled up, and the frame may say its length.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

PACKET = 188
_SYNC = 0x47
_LAYOUTS = ((188, 0), (192, 4), (204, 0))
"""Bytes from packet to packet, and where the first one begins: plain, after a time code each, before a checksum each."""
_PROBED = 8
"""Packets that must begin where a layout says."""
_FIRST_FRAMES = 32
"""Frames among which the first one to be shown is looked for."""
_CLOCK = 90_000
_WRAP = 1 << 33


@dataclass(frozen=True, slots=True)
class _Packet:
    """One packet: its stream, whether a frame begins in it, its payload, and whether it was filled up."""

    pid: int
    begins: bool
    payload: bytes
    filled: bool


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """Says how a transport stream ends.

    Attributes:
        cut: Whether its end is missing.
        cut_frame_s: The time of the frame within which it ends, in seconds after its first frame; None if it ends between two.
    """

    cut: bool = False
    cut_frame_s: float | None = None


def stream_end(path: Path) -> StreamEnd:
    """Look at the end of a file. One that is no transport stream with a video counts as not cut.

    A whole file whose last frame happens to need no filling counts as cut: one of 184, if frames do not say their lengths.
    """
    if not path.is_file() or not path.stat().st_size:  # a pipe has only one reader
        return StreamEnd()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _end(data)


def _end(data: mmap.mmap) -> StreamEnd:
    found = next((layout for layout in _LAYOUTS if _fits(data, *layout)), None)
    if found is None:
        return StreamEnd()
    size, first = found
    starts = range(first, len(data) - PACKET + 1, size)
    tail = data[starts[-1] + size :]  # a packet that was cut
    streams: dict[int, tuple[int, bool]] = {}  # bytes from here to the end, and whether the last packet is filled up
    for at in reversed(starts):
        packet = _packet(data, at)
        length, filled = streams.get(packet.pid, (0, packet.filled))
        length += len(packet.payload)
        streams[packet.pid] = length, filled
        if packet.begins and _is_video(packet.payload):
            break
    else:
        return StreamEnd(cut=bool(tail))
    announced = int.from_bytes(packet.payload[4:6], "big")
    complete = length >= announced + 6 if announced else filled
    if complete and not (len(tail) >= 3 and _pid(tail) == packet.pid):
        return StreamEnd(cut=bool(tail))
    shown, begin = _time(packet.payload), _first_time(data, starts, packet.pid)
    return StreamEnd(cut=True, cut_frame_s=None if shown is None or begin is None else (shown - begin) % _WRAP / _CLOCK)


def _first_time(data: mmap.mmap, starts: range, pid: int) -> int | None:
    """Return when the video's first frame is shown, which need not be the one that comes first."""
    packets = (_packet(data, at) for at in starts)
    all_times = (_time(packet.payload) for packet in packets if packet.pid == pid and packet.begins)
    times = list(islice((time for time in all_times if time is not None), _FIRST_FRAMES))
    return min(times, key=lambda time: (time - times[0] + _WRAP // 2) % _WRAP, default=None)


def _fits(data: mmap.mmap, size: int, first: int) -> bool:
    starts = range(first, min(len(data), first + _PROBED * size), size)
    return len(starts) == _PROBED and all(data[at] == _SYNC for at in starts)


def _pid(packet: bytes) -> int:
    return (packet[1] & 31) << 8 | packet[2]


def _packet(data: mmap.mmap, at: int) -> _Packet:
    raw = data[at : at + PACKET]
    begin, filled = 4, False
    if raw[3] & 0x20:  # an adaptation field: flags, clocks, and what the packet is filled up with
        length = raw[4]
        flags = raw[5] if length else 0
        used = 1 + 6 * bool(flags & 0x10) + 6 * bool(flags & 8) + bool(flags & 4)
        filled = length == 0 or length > used
        begin = 5 + length
    payload = raw[begin:] if raw[3] & 0x10 else b""
    return _Packet(_pid(raw), bool(raw[1] & 0x40), payload, filled)


def _is_video(payload: bytes) -> bool:
    return len(payload) > 13 and payload.startswith(b"\0\0\1") and 0xE0 <= payload[3] <= 0xEF


def _time(payload: bytes) -> int | None:
    """Read when a frame is to be shown, by the stream's clock."""
    if not _is_video(payload) or not payload[7] & 0x80:
        return None
    a, b, c = payload[9], int.from_bytes(payload[10:12], "big"), int.from_bytes(payload[12:14], "big")
    return (a >> 1 & 7) << 30 | b >> 1 << 15 | c >> 1
