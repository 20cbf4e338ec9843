"""Models what is heard of a station, which is a part of the handshake. No sockets, no threads and no clock."""

from __future__ import annotations

from collections import deque

from anosegd.bridge.events import Heartbeat, Judged
from anosegd.bridge.tags import ErrorCode

HEARTBEAT_S = 1.0
"""The station's heartbeat, and the bridge's."""
SILENT_S = 2 * HEARTBEAT_S + 0.1
SETTLED_S = 0.9 * HEARTBEAT_S
"""Heartbeats count only after they have arrived for this long: those that waited in a suspended connection arrive together."""
HEARTBEATS_KEPT = 10
CLOCK_SET_S = 0.1
"""The station's clock was set if it moved by more than this against its uptime. NTP corrects smaller differences gradually:
meanwhile both run at another speed."""
SKIPPED_KEPT = 1000
"""How many numbers of verdicts that did not come in their turn are remembered."""
WORKING = {"Ready", "SingleExecution", "ContinuousExecution"}


class HeardStation:
    """Holds the last heartbeat, the numbers of the next verdicts, and the difference of the two clocks.

    Attributes:
        beat: The last heartbeat; None while the station is not heard.
        online: Whether the station has been heard for long enough, and works.
    """

    def __init__(self, now: float) -> None:
        self.beat: Heartbeat | None = None
        self.online = False
        self._heard_at = self._heard_since = now
        self._offsets: deque[float] = deque(maxlen=HEARTBEATS_KEPT)
        self._next_seq: int | None = None  # of the next verdict; None: not known
        self._skipped: deque[int] = deque(maxlen=SKIPPED_KEPT)  # lower numbers that may still come
        self._last_sequence: int | None = None  # of the camera's last verdict; None: not known, 0: before its first
        self._frames_before = 0  # of the camera, when the station was first heard

    @property
    def silent_at(self) -> float | None:
        """When it counts as silent unless it is heard again; None if it is not heard."""
        return None if self.beat is None else self._heard_at + SILENT_S

    def is_other_run(self, run_id: str) -> bool:
        """Whether the station was started again since its last heartbeat."""
        return self.beat is not None and self.beat.run_id != run_id

    def forget(self) -> None:
        """Forget the station: it is silent, or was started again."""
        self.beat, self.online, self._next_seq = None, False, None
        self._offsets.clear()
        self._skipped.clear()

    def hear(self, now: float, beat: Heartbeat) -> ErrorCode:
        """Take a heartbeat of the same run.

        Returns:
            Why the order may no longer say which result belongs to which part: since the last heartbeat, a part got no verdict,
            or the station's clock was set, and a part may have been taken for one from before the opening. NONE if neither.
        """
        missed = ErrorCode.NONE
        if self.beat is None:
            self._heard_since = now
            self._last_sequence = 0 if beat.last_seq == 0 else None
            self._frames_before = beat.frames
        elif abs(beat.started_s - self.beat.started_s) > CLOCK_SET_S:
            missed = ErrorCode.VERDICT_LOST
            self._offsets.clear()
        elif beat.dropped > self.beat.dropped:
            missed = ErrorCode.VERDICT_LOST
        elif beat.restarts > self.beat.restarts:
            missed = ErrorCode.CAMERA_LOST
        if not beat.camera_runs and missed is ErrorCode.NONE:
            missed = ErrorCode.CAMERA_LOST
        self.beat, self._heard_at = beat, now
        self._offsets.append(now - beat.at_s)
        self.online = now - self._heard_since >= SETTLED_S and beat.state in WORKING
        return missed

    def take_last_number(self, last_seq: int) -> bool:
        """Take the number of the last verdict, from a heartbeat; return whether verdicts up to it are missing."""
        if not last_seq or (self._next_seq is not None and last_seq < self._next_seq):
            return False
        missing = self._next_seq is not None
        self._note_skipped(last_seq + 1)
        self._next_seq = last_seq + 1
        return missing

    def was_skipped(self, seq: int) -> bool:
        """Whether the verdict of this number has not come in its turn: a higher number has come before it."""
        return seq in self._skipped

    def take_number(self, seq: int) -> bool:
        """Take the number of a verdict; return whether verdicts before it are missing.

        At its deadline, a verdict is sent before those of other cameras that have lower numbers and wait for the journal. They
        are missing then, and no gap when they come.
        """
        if self.was_skipped(seq):
            self._skipped.remove(seq)
            return False
        missing = self._next_seq is not None and seq != self._next_seq
        self._note_skipped(seq)
        self._next_seq = seq + 1
        return missing

    def _note_skipped(self, seq: int) -> None:
        """Note the numbers before this one that have not come."""
        if self._next_seq is not None:
            self._skipped.extend(range(max(self._next_seq, seq - SKIPPED_KEPT), seq))

    def take_part(self, sequence: int) -> bool:
        """Take the number of a part of the camera; return whether the verdict of an earlier part is missing."""
        last, self._last_sequence = self._last_sequence, sequence
        return sequence > self._frames_before + 1 if last is None else sequence != last + 1

    def since(self, judged: Judged) -> float | None:
        """Return when a part was triggered or captured, by the bridge's clock; None before the first heartbeat.

        The smallest delay of the latest heartbeats is taken for the difference of the two clocks.
        """
        return judged.since_s + min(self._offsets) if self._offsets else None
