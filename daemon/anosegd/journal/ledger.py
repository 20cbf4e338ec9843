"""Which seq numbers are taken: a small file beside the journal, `<journal>.seq`, locked by the one daemon that may use it.

It is written in place and never grows, so numbers can be reserved, and synced, also on a full disk, where SQLite cannot
commit. It is apart from the journal's file, so it also tells when what was committed there is no longer there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from pathlib import Path

from anosegd.journal.types import JournalError

_SLOT = 4096
_RESERVED, _COMMITTED = (0, 1), 2  # two slots in turn, so that a torn write leaves the one before; and one for the hint
_SIZE = 3 * _SLOT
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Ledger:
    """The reserved numbers. One thread at a time.

    journal_id: the journal they belong to; empty: nothing could be read. reserved_to: the highest number that may have been
    used. committed: the highest number known to be committed in that journal, not synced. same_boot: the machine has not
    been restarted since `committed` was written, so nothing that was committed can be missing.

    Raises:
        JournalError: the file cannot be opened for writing, or another daemon holds it.
    """

    def __init__(self, path: Path) -> None:
        self.journal_id, self.reserved_to, self.committed, self.same_boot = "", 0, 0, False
        self._path, self._boot = path, _boot_id()
        self._generation = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            hint = "the daemon's user needs to write in this folder"
            raise JournalError(f"{path}: cannot be opened for writing ({error.strerror})", hint=hint) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._fd).st_size < _SIZE:
                self._allocate()
            self._load()
        except BlockingIOError as error:
            os.close(self._fd)
            hint = "stop it, or give each station a journal of its own"
            raise JournalError(f"{path}: this journal is in use by another daemon", hint=hint) from error
        except OSError as error:
            os.close(self._fd)
            raise JournalError(f"{path}: cannot be used ({error.strerror})") from error

    def reserve(self, journal_id: str, reserved_to: int) -> None:
        """Numbers up to `reserved_to` may be used from now on: returns when that is on the disk.

        Raises:
            OSError: it could not be written; what was reserved before still holds.
        """
        self._write(_RESERVED[(self._generation + 1) % 2], f"{journal_id} {reserved_to} {self._generation + 1}")
        os.fdatasync(self._fd)
        self._generation += 1
        self.journal_id, self.reserved_to = journal_id, reserved_to

    def note_committed(self, journal_id: str, seq: int) -> None:
        """Remember the highest committed number. Not synced: it has to outlive the process, not the machine."""
        with contextlib.suppress(OSError):  # only a hint, and the numbers do not depend on it
            self._write(_COMMITTED, f"{journal_id} {seq} {self._boot}")

    def close(self) -> None:
        """Let another daemon have it."""
        os.close(self._fd)

    def _allocate(self) -> None:
        if os.pwrite(self._fd, bytes(_SIZE), 0) != _SIZE:
            raise OSError(0, "no space left for it")
        os.fsync(self._fd)
        sync_folder(self._path.parent)

    def _load(self) -> None:
        for slot in _RESERVED:
            fields = self._read(slot)
            if len(fields) == 3 and int(fields[2]) > self._generation:
                self.journal_id, self.reserved_to, self._generation = fields[0], int(fields[1]), int(fields[2])
        fields = self._read(_COMMITTED)
        if len(fields) == 3 and fields[0] == self.journal_id:
            self.committed, self.same_boot = int(fields[1]), fields[2] == self._boot != "unknown"

    def _write(self, slot: int, text: str) -> None:
        record = f"anoseg-seq/1 {text} {zlib.crc32(text.encode()):08x}\n".encode()
        if os.pwrite(self._fd, record, slot * _SLOT) != len(record):
            raise OSError(0, "written in part only")

    def _read(self, slot: int) -> list[str]:
        """A slot's fields; none if it is empty or damaged."""
        kind, _, rest = os.pread(self._fd, 256, slot * _SLOT).partition(b"\n")[0].decode("ascii", "replace").partition(" ")
        text, _, crc = rest.rpartition(" ")
        return text.split(" ") if kind == "anoseg-seq/1" and crc == f"{zlib.crc32(text.encode()):08x}" else []


def sync_folder(folder: Path) -> None:
    """Make names created or changed in `folder` survive a power failure.

    Raises:
        OSError: it cannot be synced.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip() or "unknown"
    except OSError:
        return "unknown"
