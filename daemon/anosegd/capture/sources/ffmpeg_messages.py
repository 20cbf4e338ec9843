"""Collects what FFmpeg reports while OpenCV uses it, and finds the reports of lost data. Runs in the capture process.

FFmpeg's decoders fill what is missing in a frame with earlier pixels, and OpenCV returns the frame as a good one. Only FFmpeg's
messages tell. OpenCV prints them to standard output.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

FFMPEG_LOG_LEVEL = 48
"""AV_LOG_DEBUG, which the environment of a capture process sets: FFmpeg reports a missing H.264 frame at no lower level."""
ERROR = 16
"""AV_LOG_ERROR: messages of this level and below are errors."""

_MESSAGE = re.compile(r"\[OPENCV:FFMPEG:(\d+)\] ?(.*)")
_HARMLESS = re.compile(
    r"unable to decode APP fields|SEI type \d+ size \d+ truncated|Invalid SEI|Overread (VUI|SPS|PPS)"
    r"|Could not parse (SEI|metadata)|Stream ends prematurely"
)
"""Errors that concern no pixel."""
_READER_LOSS = re.compile(
    r"RTP: (missed|PT=.* bad cseq|dropping old packet)|[Cc]ircular buffer overrun|Missing packets; dropping"
)
_PACKET_CORRUPT = re.compile(r"Packet corrupt")
_DECODER_LOSS = re.compile(r"concealing \d+ DC|Skipping invalid undecodable NALU")
_MISSING_REFERENCE = re.compile(
    r"Frame num gap|Could not find ref with POC|Missing reference picture|mmco: unref short failure"
)
_NAL = re.compile(r"nal_unit_type: ")
_INTER_NAL = re.compile(r"nal_unit_type: (?:[1-4]\(.*nal_ref_idc|[0-9]\(.*nuh_layer_id)")
"""A part of an H.264 or H.265 frame that is no key frame."""
_LEADING_NAL = re.compile(r"nal_unit_type: [89]\(RASL")
_SET_UP = re.compile(r"Format \w+ chosen by get_format")
"""The decoder was set up for a picture size and pixel format."""
_DROPPED = "Error constructing the frame RPS"
_KEY_NAL = re.compile(r"nal_unit_type: (?:5\(IDR\)|(?:16|17|18|19|20|21)\((?:BLA|IDR|CRA))")
"""The unit that begins an H.264 or H.265 key frame. A decoder names all units of a frame before it decodes them."""

Messages = list[tuple[int, str]]
"""FFmpeg's messages, level and text."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What the messages of one grab say about lost data; each a message of FFmpeg, "" for none.

    Attributes:
        before: Earlier data is missing. A key frame of this grab does not need it; other frames do.
        here: The frame whose packet was decoded in this grab is damaged.
        after: The packet that comes next is damaged too: a container's reader is one packet ahead of the decoder.
        dropped: The decoder dropped frames before the key frame that it gave.
    """

    before: str = ""
    here: str = ""
    after: str = ""
    dropped: bool = False

    @property
    def first(self) -> str:
        """The first message of them that there is."""
        return self.here or self.before or self.after

    def joined(self, other: Losses) -> Losses:
        """Return these losses, and the other's where there are none."""
        return Losses(self.before or other.before, self.here or other.here, self.after or other.after)


class FfmpegMessages:
    """Collects the messages of one call of OpenCV at a time. The process must have no other thread that prints."""

    def __init__(self) -> None:
        self._memory = -1
        self._libc = ctypes.CDLL(None)

    @contextmanager
    def collected(self) -> Iterator[Messages]:
        """Collect the messages of the calls in the `with` block. The list is filled when the block ends."""
        if self._memory < 0:
            self._memory = os.memfd_create("ffmpeg-messages", os.MFD_CLOEXEC)
        messages: Messages = []
        self._libc.fflush(None)
        stdout = os.dup(1)
        os.dup2(self._memory, 1)
        try:
            yield messages
        finally:
            self._libc.fflush(None)
            os.dup2(stdout, 1)
            os.close(stdout)
            messages += self._take()

    def _take(self) -> Messages:
        size = os.lseek(self._memory, 0, os.SEEK_CUR)
        if not size:
            return []
        text = os.pread(self._memory, size, 0).decode(errors="replace")
        os.ftruncate(self._memory, 0)
        os.lseek(self._memory, 0, os.SEEK_SET)
        return [(int(m[1]), m[2].strip()) for line in text.splitlines() if (m := _MESSAGE.match(line))]


def losses_in(messages: Messages) -> Losses:
    """Find what the messages of one grab say about lost data."""
    messages = _without_dropped_leading_frames(messages)
    key = next((i for i, (_, text) in enumerate(messages) if _KEY_NAL.match(text)), None)
    if key is None:
        return _losses(messages)
    while key and _NAL.match(messages[key - 1][1]) and not _INTER_NAL.match(messages[key - 1][1]):
        key -= 1  # the parameters that come before the key frame's picture
    earlier, own = messages[:key], _losses(messages[key:])
    if not any(_INTER_NAL.match(text) for _, text in earlier):
        reader, decoder = _split(earlier)
        return own.joined(Losses(before=_losses(decoder).first)).joined(_losses(reader))
    # The decoder dropped frames in this grab until the key frame. The reader of a network protocol speaks of the packet that it
    # reads, the reader of a container of the packet after that.
    last = max(i for i, (_, text) in enumerate(earlier) if _INTER_NAL.match(text))
    begin = last
    while begin and _NAL.match(earlier[begin - 1][1]):
        begin -= 1
    while_reading = max((i for i, (_, text) in enumerate(earlier[:begin]) if _INTER_NAL.match(text)), default=0)
    next_damaged = _losses(_split(earlier[while_reading:begin])[0]).after
    reader, _ = _split(earlier[last:])
    protocol = next((text for _, text in reader if _READER_LOSS.match(text)), "")
    return Losses(
        before=_losses(earlier).first or own.before,
        here=own.here or protocol or next_damaged,
        after=own.after or _losses(reader).after,
        dropped=True,
    )


def _without_dropped_leading_frames(messages: Messages) -> Messages:
    """Leave out what the decoder says about H.265 frames that it drops at a key frame after a loss.

    They are shown before the key frame and lack what is before it. No later frame is built on them.
    """
    kept: Messages = []
    block: Messages = []
    for message in [*messages, (0, "nal_unit_type: ")]:
        if not _NAL.match(message[1]):
            block.append(message)
            continue
        if any(text.startswith(_DROPPED) for _, text in block) and _LEADING_NAL.match(block[0][1]):
            block = [block[0], *_split(block)[0]]
        kept += block
        block = [message]
    return kept


def _losses(messages: Messages) -> Losses:
    """Find the losses that messages about one packet speak of."""
    before = here = after = ""
    for level, text in messages:
        if _PACKET_CORRUPT.match(text):
            here, after = here or text, after or text
        elif _MISSING_REFERENCE.match(text):
            before = before or text
        elif (level <= ERROR and not _HARMLESS.search(text)) or _DECODER_LOSS.match(text) or _READER_LOSS.match(text):
            here = here or text
    return Losses(before, here, after)


def _split(messages: Messages) -> tuple[Messages, Messages]:
    """Separate what the reader of the container or network protocol says from what the decoder says."""
    reader = [m for m in messages if _READER_LOSS.match(m[1]) or _PACKET_CORRUPT.match(m[1])]
    return reader, [m for m in messages if m not in reader]


def frames_dropped_in(messages: Messages) -> int:
    """Count the H.265 frames that the decoder dropped because frames before them are missing."""
    return sum(text.startswith(_DROPPED) for _, text in messages)


def set_up_in(messages: Messages) -> bool:
    """Return whether the decoder was set up, as it is at the first frame and whenever the picture's size or format changes."""
    return any(_SET_UP.match(text) for _, text in messages)


def conversion_error_in(messages: Messages) -> str:
    """Return the first error about a frame that was to be converted to BGR, or an empty string.

    OpenCV takes no notice of these errors: it returns whatever was in the memory before, such as the frame before.
    """
    return next((text for level, text in messages if level <= ERROR), "")


def connection_end_in(messages: Messages) -> str:
    """Return the message that a connection has ended, or an empty string. What came before may end within a frame."""
    return next((text for _, text in messages if text.startswith("Stream ends prematurely")), "")


def reader_loss_in(messages: Messages) -> str:
    """Return the first message about data that was lost in the container or on the network, or an empty string."""
    return next((text for _, text in _split(messages)[0]), "")
