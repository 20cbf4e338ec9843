"""Names the file of a kept part: names sort by time, and say enough to choose parts without opening files. Pure functions.

`20261127/20261127T060001289000Z.000000001042.top.FAIL.5f0c3c1e9d6f4d7c8f5b1c2d3e4f5a6b.zip`: the part's own time (UTC), seq,
camera, outcome, journal_id. A reason follows the outcome: `UNKNOWN-review`.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import NamedTuple

from anosegd import wire

FORM = "%Y%m%dT%H%M%S%fZ"
DAY_LETTERS = 8
_NAME = re.compile(
    r"(\d{8}T\d{12}Z)\.(\d{12,19})\.([A-Za-z0-9][A-Za-z0-9_-]{0,62})\.(PASS|FAIL|UNKNOWN)(?:-([a-z_]{1,40}))?\.([0-9A-Za-z-]{1,64})\.zip",
    re.ASCII,
)
_DAY = re.compile(r"\d{8}", re.ASCII)


class PartName(NamedTuple):
    """Identifies a kept part. Names sort by time, then by number.

    Attributes:
        at: The part's own time, UTC: its capture, else its trigger, else the commit. In the form of file names.
        seq: The number of its verdict.
        camera: The camera's name.
        outcome: PASS, FAIL or UNKNOWN.
        reason: Why it is UNKNOWN, else None.
        journal_id: Together with seq, the identity of its verdict.
    """

    at: str
    seq: int
    camera: str
    outcome: str
    reason: str | None
    journal_id: str

    @property
    def day(self) -> str:
        """The folder of its day."""
        return self.at[:DAY_LETTERS]

    @property
    def file_name(self) -> str:
        """The name of its file."""
        outcome = self.outcome if self.reason is None else f"{self.outcome}-{self.reason}"
        return f"{self.at}.{self.seq:012d}.{self.camera}.{outcome}.{self.journal_id}.zip"

    @property
    def moment(self) -> datetime:
        """The part's own time."""
        return datetime.strptime(self.at, FORM).replace(tzinfo=timezone.utc)


def name_of(verdict: wire.Verdict) -> PartName:
    """Return the name of a verdict's part."""
    at = verdict.captured_at or verdict.triggered_at or verdict.committed_at
    moment = datetime.fromisoformat(at.replace("Z", "+00:00"))
    return PartName(form(moment), verdict.seq, verdict.camera, verdict.outcome, verdict.reason, verdict.journal_id)


def form(moment: datetime) -> str:
    """Return a moment as it is written in names."""
    return moment.astimezone(timezone.utc).strftime(FORM).rjust(len("20261127T060001289000Z"), "0")


def parse(file_name: str) -> PartName | None:
    """Return what a file's name says; None if it is not the file of a part."""
    found = _NAME.fullmatch(file_name)
    return None if found is None else PartName(found[1], int(found[2]), found[3], found[4], found[5], found[6])


def is_day(folder_name: str) -> bool:
    """Return whether a folder holds the parts of one day."""
    return _DAY.fullmatch(folder_name) is not None
