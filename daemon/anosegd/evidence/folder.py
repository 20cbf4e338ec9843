"""Stores the files of parts in the evidence folder, and deletes the oldest where a limit asks for it.

Runs on the thread "evidence". The folder has one subfolder a day. Each file is written under a temporary name and then renamed.
It is not synced to the disk: that would hold up the journal on the same disk. A power failure may cost the newest half minute.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from datetime import datetime, timedelta, timezone
from pathlib import Path

from anosegd import logs
from anosegd.evidence.config import EvidenceConfig
from anosegd.evidence.names import PartName, form, is_day, parse

TEMPORARY = ".tmp"
GIB = 1 << 30


class NoRoomError(OSError):
    """There is no room for a part, and deleting older ones would not make any."""


class EvidenceFolder:
    """Stores parts within the limits of the configuration. Only one thread may use it; `size` may be read by any.

    Attributes:
        size: Bytes of all files of parts.
    """

    def __init__(self, config: EvidenceConfig) -> None:
        self.size = 0
        self._root = Path(config.folder)
        self._config = config
        self._scanned = False
        self._oldest: deque[Path] = deque()  # files of the oldest day, the oldest first

    def store(self, name: PartName, data: bytes) -> None:
        """Write a part's file, after the oldest ones have made room for it.

        Raises:
            OSError: It cannot be written.
        """
        self._make_root()
        self._make_room(len(data))
        try:
            self._write(name, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            freed = 0
            while freed < len(data) and (deleted := self._delete_oldest()):
                freed += deleted
            if not freed:
                raise
            self._write(name, data)
        self.size += len(data)

    def tidy(self) -> None:
        """Find out what is there, and delete what is older than `keep_days`.

        Raises:
            OSError: The folder cannot be read.
        """
        self._make_root()
        self._delete_old()

    def _make_root(self) -> None:
        """Make sure that the folder is there and its size is known."""
        if not self._root.is_dir():
            if self._scanned:
                logs.warning("evidence.folder_lost", folder=self._root)
            self._root.mkdir(parents=True, exist_ok=True)
            self._scanned = False
        if not self._scanned:
            self.size = self._scan()
            self._oldest.clear()
            self._scanned = True

    def _scan(self) -> int:
        """Return the size of all parts' files. Removes what a killed daemon or a power failure left."""
        size = 0
        for day in self._days():
            with os.scandir(day) as entries:
                for entry in entries:
                    is_part = parse(entry.name) is not None
                    if not is_part and not (entry.name.startswith(".") and entry.name.endswith(TEMPORARY)):
                        continue
                    found = entry.stat(follow_symlinks=False).st_size
                    if is_part and found:
                        size += found
                    else:
                        Path(entry.path).unlink(missing_ok=True)
        return size

    def _days(self) -> list[Path]:
        with os.scandir(self._root) as entries:
            return sorted(Path(entry.path) for entry in entries if is_day(entry.name) and entry.is_dir(follow_symlinks=False))

    def _make_room(self, size: int) -> None:
        """Delete the oldest files until a file of this size is within the limits.

        Raises:
            NoRoomError: It cannot be.
        """
        self._delete_old()
        most = round(self._config.max_gb * GIB)
        if size > most:
            raise NoRoomError(f"one part takes {size / GIB:.3f} GiB, and max_gb is {self._config.max_gb:g}")
        while self.size + size > most and self._delete_oldest():
            pass
        disk = os.statvfs(self._root)
        missing = self._config.min_free * disk.f_blocks * disk.f_frsize + size - disk.f_bavail * disk.f_frsize
        if missing > self.size:  # another program has filled the disk: what was kept stays
            raise NoRoomError(f"the disk has less than {self._config.min_free:.0%} free, which min_free asks for")
        while missing > 0 and (deleted := self._delete_oldest()):
            missing -= deleted

    def _delete_old(self) -> None:
        until = form(datetime.now(timezone.utc) - timedelta(days=self._config.keep_days))
        while (path := self._next_oldest()) is not None and path.name < until:
            self._delete_oldest()

    def _delete_oldest(self) -> int:
        """Delete the oldest file and return its size; 0 if there is none."""
        while (path := self._next_oldest()) is not None:
            self._oldest.popleft()
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:  # somebody else has deleted it
                self._scanned = False
                continue
            self.size = max(0, self.size - size)
            return max(1, size)
        return 0

    def _next_oldest(self) -> Path | None:
        """Return the oldest file; None if there is none. Removes the folders of days without files."""
        if self._oldest:
            return self._oldest[0]
        for day in self._days():
            with os.scandir(day) as entries:
                names = sorted(entry.name for entry in entries if parse(entry.name) is not None)
            if names:
                self._oldest.extend(day / name for name in names)
                return self._oldest[0]
            with contextlib.suppress(OSError):  # it has files of somebody else
                day.rmdir()
        return None

    def _write(self, name: PartName, data: bytes) -> None:
        folder = self._root / name.day
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{name.file_name}{TEMPORARY}"
        try:
            temporary.write_bytes(data)
            temporary.replace(folder / name.file_name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
