"""Stores the files of parts in the evidence folder, and deletes the oldest where a limit asks for it.

Runs on the thread "evidence". The folder has one subfolder a day. Each file is written under a temporary name and then renamed.
It is not synced to the disk: that would hold up the journal on the same disk. A power failure may cost the newest half minute.

Names carry the wall clock's time, which may be wrong. So each file's time of modification is set to the time of the age clock
(`AgeClock`), and a file is too old only by both. The file `.clock` has the age clock's time as its time of modification; it
says at which time of the wall clock that was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from anosegd import logs
from anosegd.age_clock import DAY_NS, AgeClock
from anosegd.evidence.config import EvidenceConfig
from anosegd.evidence.names import PartName, form, is_day, parse

TEMPORARY = ".tmp"
CLOCK = ".clock"
GIB = 1 << 30
REPORT_S = 600.0
"""How often the log repeats that files cannot be deleted."""


class NoRoomError(OSError):
    """There is no room for a part, and deleting older ones would not make any."""


class EvidenceFolder:
    """Stores parts within the limits of the configuration. Only one thread may use it; `size` may be read by any.

    Args:
        config: The limits.
        wall_ns: The wall clock, for tests.

    Attributes:
        size: Bytes of all files of parts.
    """

    def __init__(self, config: EvidenceConfig, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.size = 0
        self._root = Path(config.folder)
        self._config = config
        self._wall_ns = wall_ns
        self._clock: AgeClock | None = None  # decides how old files are; set at the first scan
        self._scanned = False
        self._device = self._mounts = 0  # where the folder was when it was last used
        self._disk_gone = False
        self._oldest: deque[Path] = deque()  # files of the oldest day, the oldest first
        self._undeletable: set[Path] = set()  # files, and folders of days that cannot be read
        self._not_deleted = logs.Throttle("evidence.not_deleted", period_s=REPORT_S)

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
        assert self._clock is not None, "the folder was scanned"
        with contextlib.suppress(OSError):  # then age goes on from the newest part at the next start
            written = self._root / f"{CLOCK}{TEMPORARY}"
            written.write_text(str(self._wall_ns()))
            _set_age(written, self._clock.now_ns())
            written.replace(self._root / CLOCK)

    def _make_root(self) -> None:
        """Make sure that the folder is there and its size is known.

        Raises:
            OSError: The disk that it was on is not mounted. Parts must not fill the disk below.
        """
        mounts = _mount_points(self._root)
        if mounts < self._mounts:
            if not self._disk_gone:
                logs.warning("evidence.folder_lost", folder=self._root)
            self._disk_gone = True
            raise OSError("its disk is not mounted")
        if not self._root.is_dir():
            if self._scanned:
                logs.warning("evidence.folder_lost", folder=self._root)
            self._root.mkdir(parents=True, exist_ok=True)
            self._scanned = False
        device = self._root.stat().st_dev
        if not self._scanned or device != self._device:
            self._oldest.clear()
            self._undeletable.clear()
            self.size = self._scan()
            self._scanned = True
        self._device, self._mounts, self._disk_gone = device, mounts, False

    def _scan(self) -> int:
        """Return the size of all parts' files. Removes what a killed daemon or a power failure left."""
        size, newest_ns, wall_ns = 0, None, self._wall_ns()
        with contextlib.suppress(OSError, ValueError):
            newest_ns = (self._root / CLOCK).lstat().st_mtime_ns
            # Since the last run, not since the age: with a clock that is ahead, each start would add a day.
            wall_ns = newest_ns + max(0, wall_ns - int((self._root / CLOCK).read_text()))
        for day in self._days():
            for entry in self._entries(day):
                is_part = parse(entry.name) is not None
                if not is_part and not (entry.name.startswith(".") and entry.name.endswith(TEMPORARY)):
                    continue
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if is_part and found.st_size:
                        size += found.st_size
                        newest_ns = max(newest_ns or 0, found.st_mtime_ns)
                    else:
                        Path(entry.path).unlink(missing_ok=True)
        if self._clock is None:
            self._clock = AgeClock(newest_ns, wall_ns, time.monotonic_ns)
        return size

    def _entries(self, day: Path) -> list[os.DirEntry[str]]:
        """Return what is in the folder of a day. One that cannot be read is left out from now on."""
        try:
            with os.scandir(day) as entries:
                return list(entries)
        except OSError as error:
            self._leave(day, error)
            return []

    def _leave(self, path: Path, error: OSError) -> None:
        """Leave alone what cannot be read or deleted, until the folder is looked through again."""
        if not isinstance(error, FileNotFoundError):
            self._undeletable.add(path)
            self._not_deleted.warning(path=path, error=error.strerror or str(error))

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
        if self.size + size > most and self._undeletable:
            raise NoRoomError("files that cannot be deleted take all of max_gb")
        disk = os.statvfs(self._root)
        missing = self._config.min_free * disk.f_blocks * disk.f_frsize + size - disk.f_bavail * disk.f_frsize
        if missing > self.size:  # another program has filled the disk, and deleting evidence would not help
            raise NoRoomError(f"the disk has less than {self._config.min_free:.0%} free, which min_free asks for")
        while missing > 0 and (deleted := self._delete_oldest()):
            missing -= deleted
        if missing > 0 and self._undeletable:
            raise NoRoomError("files that cannot be deleted take what min_free asks for")

    def _delete_old(self) -> None:
        assert self._clock is not None, "the folder was scanned"
        until = form(_moment(self._wall_ns()) - timedelta(days=self._config.keep_days))
        until_ns = self._clock.now_ns() - round(self._config.keep_days * DAY_NS)
        while (path := self._next_oldest()) is not None and path.name < until and _stored_before(path, until_ns):
            self._delete_next()

    def _delete_oldest(self) -> int:
        """Delete the oldest file that can be deleted. Return its size, or 0 if no file can be deleted."""
        while self._next_oldest() is not None:
            if size := self._delete_next():
                return size
        return 0

    def _delete_next(self) -> int:
        """Delete the file that `_next_oldest` has returned. Return its size, or 0 if it was not deleted.

        Raises:
            OSError: The disk is read-only.
        """
        path = self._oldest.popleft()
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:  # somebody else has deleted it
            self._scanned = False
            return 0
        except OSError as error:
            if error.errno == errno.EROFS:
                raise
            self._leave(path, error)
            return 0
        self.size = max(0, self.size - size)
        return max(1, size)

    def _next_oldest(self) -> Path | None:
        """Return the oldest file, or None if the folder has no files. Remove the folders of days without files."""
        if self._oldest:
            return self._oldest[0]
        for day in self._days():
            if day in self._undeletable:
                continue
            names = sorted(entry.name for entry in self._entries(day) if parse(entry.name) is not None)
            if left := [day / name for name in names if day / name not in self._undeletable]:
                self._oldest.extend(left)
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
            if self._clock is not None:
                with contextlib.suppress(OSError):  # then the file has the time of the wall clock
                    _set_age(temporary, self._clock.now_ns())
            temporary.replace(folder / name.file_name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _mount_points(path: Path) -> int:
    """Return how many mount points are on the way to a folder: fewer than before if its disk is no longer mounted."""
    path = path.resolve()
    return sum(os.path.ismount(folder) for folder in (path, *path.parents))


def _set_age(path: Path, age_ns: int) -> None:
    os.utime(path, ns=(age_ns, age_ns))


def _stored_before(path: Path, age_ns: int) -> bool:
    try:
        return path.lstat().st_mtime_ns < age_ns
    except OSError:  # deleting it finds out why
        return True


def _moment(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns / 1e9, timezone.utc)
