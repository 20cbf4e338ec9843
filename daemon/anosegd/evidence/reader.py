"""Finds kept parts in an evidence folder and reads them. Any program and thread; the daemon may run or not.

    reader = EvidenceReader(Path("/var/lib/anoseg/line/evidence"))
    for name in reader.find(outcomes={"FAIL"}):
        part = reader.read(name)      # verdict, picture, map

Finding parts looks at names only. A part may be deleted between `find` and `read`, because the daemon keeps its limits.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anosegd.evidence.names import PartName, form, is_day, parse
from anosegd.evidence.part_file import KeptPart, read_part, read_verdict

UTC = timezone.utc


class EvidenceReader:
    """Reads an evidence folder. It keeps nothing open and changes nothing.

    Args:
        folder: `evidence.folder` of the station's configuration. It may be missing: then there is nothing in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        cameras: Collection[str] | None = None,
        outcomes: Collection[str] | None = None,
        newest_first: bool = False,
    ) -> Iterator[PartName]:
        """Yield the kept parts in the order of their own times.

        Args:
            since: The first time, with an offset.
            until: The end, which is not included.
            cameras: Only these cameras.
            outcomes: Only these; an outcome (`FAIL`, `UNKNOWN`) or a reason (`review`).
            newest_first: The other order.

        Raises:
            ConfigError: The folder cannot be read.
        """
        first = "" if since is None else form(since)
        end = "~" if until is None else form(until)
        for day in sorted(self._days(), reverse=newest_first):
            if not first[: len(day)] <= day <= end:
                continue
            for name in sorted(self._names(day), reverse=newest_first):
                chosen = outcomes is None or name.outcome in outcomes or name.reason in outcomes
                if first <= name.at < end and chosen and (cameras is None or name.camera in cameras):
                    yield name

    def by_seq(self, seq: int, journal_id: str | None = None, *, at: datetime | None = None) -> PartName | None:
        """Return the part of a verdict; None if it was not kept, or not for so long.

        Args:
            seq: The verdict's number.
            journal_id: The verdict's journal; None takes the newest part of this number.
            at: The verdict's `captured_at`, else `triggered_at`, else `committed_at`: then only one folder is looked at.

        Raises:
            ConfigError: The folder cannot be read.
        """
        days = sorted(self._days(), reverse=True) if at is None else [at.astimezone(UTC).strftime("%Y%m%d")]
        number = f".{seq:012d}."
        for day in days:
            found = [
                name
                for file_name in self._files(day)
                if number in file_name
                and (name := parse(file_name)) is not None
                and name.seq == seq
                and journal_id in (None, name.journal_id)
            ]
            if found:
                return max(found, key=lambda name: name.at)
        return None

    def path(self, name: PartName) -> Path:
        """Return the path of a part's file."""
        return self._folder / name.day / name.file_name

    def read(self, name: PartName) -> KeptPart:
        """Return the verdict and the pictures of a part.

        Raises:
            DataError: The file is gone, or cannot be read, or is not whole.
        """
        return read_part(self.path(name))

    def verdict(self, name: PartName) -> dict[str, Any]:
        """Return the verdict of a part.

        Raises:
            DataError: As `read`.
        """
        return read_verdict(self.path(name))

    def _names(self, day: str) -> Iterator[PartName]:
        return (name for file_name in self._files(day) if (name := parse(file_name)) is not None)

    def _days(self) -> list[str]:
        return [name for name in self._files("") if is_day(name)]

    def _files(self, below: str) -> list[str]:
        """Return the names in the folder, or in one below it; none if it does not exist.

        Raises:
            ConfigError: It cannot be read.
        """
        folder = self._folder / below
        try:
            with os.scandir(folder) as entries:
                return [entry.name for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"evidence folder {shown_name(folder)}: cannot be read ({error.strerror})") from error
