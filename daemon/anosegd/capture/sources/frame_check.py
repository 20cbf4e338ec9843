"""Decides which frames of a video are whole: neither damaged nor built on a damaged one. Runs in the capture process."""

from __future__ import annotations

import time
from collections import deque

from anosegd.capture.sources.ffmpeg_messages import Losses

REORDERED = 16
"""A decoder with one thread gives a frame at most so many packets after it took the frame's own: H.264 and H.265 allow 16."""


READ_AHEAD = 2
"""The reader of a container is at most so many packets ahead of the decoder."""


class FrameCheck:
    """Follows one video through its losses: after a loss no frame is whole until the next whole key frame.

    A packet is counted by the number of the grab in which the decoder took it. The frame may come in a later grab.
    """

    def __init__(self) -> None:
        self._grab = -1
        self._keys: deque[int] = deque([0])  # grabs that took a key frame which has not come yet; a video begins with one
        self._damaged: deque[int] = deque(maxlen=64)  # grabs that took a damaged packet
        self._key: int | None = None  # the grab that took the last whole key frame that came
        self._loss = -1  # the last grab with a loss
        self._distrusted = -1  # no packet that was taken in this grab or before is trusted
        self._message = ""
        self._waiting_since: float | None = None

    @property
    def waiting_s(self) -> float:
        """For how many seconds no frame has been whole and no key frame has come."""
        return 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since

    def grabbed(self, losses: Losses, *, key_packet: bool, frame_type: str | None) -> str | None:
        """Take note of one grab.

        Args:
            losses: What FFmpeg reported in it.
            key_packet: Whether the packet that the decoder took last belongs to a key frame.
            frame_type: Of the frame that came: "I" if it is intra-coded, "" if OpenCV does not know; None if no frame came.

        Returns:
            Why the frame is not whole; None if it is, or if none came.
        """
        self._grab += 1
        if losses.first:
            self._loss = max(self._loss, self._grab + bool(losses.after))
            self._message = losses.first
        if losses.dropped and self._grab in self._damaged:
            self._damaged.remove(self._grab)  # the damaged packet was one that the decoder dropped
        self._damaged += [self._grab] * bool(losses.here) + [self._grab + 1] * bool(losses.after)
        if key_packet and self._grab > 0:
            self._keys.append(self._grab)
        problem = None if frame_type is None else self._problem(frame_type)
        while self._keys and self._keys[0] <= self._grab - REORDERED:
            self._keys.popleft()
        return problem

    def distrust(self, message: str, packets: int) -> None:
        """Trust none of the next packets: some of them are damaged, and it is unknown which."""
        self._message, self._loss = message, self._grab + packets + READ_AHEAD
        self._distrusted = self._loss

    def _problem(self, frame_type: str) -> str | None:
        first, last = self._taken(frame_type)
        if first is not None:
            whole = first > self._distrusted and not any(first <= grab <= last for grab in self._damaged)
            self._key = first if whole else None
            self._waiting_since = None
            return None if whole else f"the frame is damaged: the decoder reports “{self._message}”"
        if self._key is not None and self._loss <= self._key:
            return None
        self._waiting_since = self._waiting_since or time.monotonic()
        return f"the frame is not whole until the next key frame: the decoder reported “{self._message}”"

    def _taken(self, frame_type: str) -> tuple[int | None, int]:
        """If the frame is a key frame, return between which grabs the decoder took its packet."""
        if not self._keys or frame_type not in ("I", ""):
            return None, 0
        if frame_type == "I":
            last = self._keys[-1]
            return self._keys.popleft(), last
        # This OpenCV does not name the type. After so many grabs the key frame has come, whatever the reordering.
        come = self._grab == 0 or 0 < self._keys[0] <= self._grab - REORDERED
        return (self._keys.popleft(), self._grab) if come else (None, 0)
