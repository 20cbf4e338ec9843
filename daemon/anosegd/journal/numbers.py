"""Reserves verdict numbers on the disk (`SeqFile`), and gives each number out once (`Numbers`).

Neither class has a lock. Only the journal's thread uses `SeqFile`; the journal's lock guards `Numbers`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

from anosegd.journal.types import Entry, JournalError, Range, VerdictId, merged

RESERVED_AHEAD = 500
"""The most numbers reserved and not yet given out. A killed daemon leaves at most this many unused."""
RESERVE_AFTER = 100
"""Numbers given out between two reservations. Each reservation syncs the disk once; while the disk hangs, the other 400 last
8 seconds at 50 verdicts per second."""
FEW_LEFT = 0.5
"""If no more than this share of `RESERVED_AHEAD` is left, even a verdict that waits for its commit waits for a reservation."""

_SLOT = 4096
_RESERVED, _COMMITTED = (0, 1), 2  # reservations alternate between two slots, so that a torn write leaves the previous one
_SIZE = 3 * _SLOT
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Numbers:
    """Gives out each number once, and knows which ones have neither a verdict nor a void in the file yet.

    A verdict also needs an identity when there is no file or no reserved number is left. It then gets the next number under
    `unsaved_id`, an id made for this process: the journal never holds such a verdict. Numbers rise across both ids.

    Attributes:
        journal_id: The file's id; None while there is no file.
        unsaved_id: The id of verdicts that the journal cannot hold.
        highest: The highest number given out, or used by an earlier run.
        reserved_to: Numbers up to here may be given out under `journal_id`.
        pending: Numbers given out that are neither committed nor void, ascending. True: submitted.
        voids: Numbers that will never carry a verdict, still to be written to the file.
    """

    def __init__(self, used_to: int) -> None:
        self.journal_id: str | None = None
        self.unsaved_id = uuid.uuid4().hex
        self.highest = self.reserved_to = used_to
        self.pending: dict[int, bool] = {}
        self.voids: list[Range] = []

    def reserve_next(self, *, urgent: bool = False) -> int | None:
        """Return the number up to which to reserve now. Return None while enough numbers are left.

        Args:
            urgent: Whether only a reservation that cannot wait counts.
        """
        enough = FEW_LEFT * RESERVED_AHEAD if urgent else RESERVED_AHEAD - RESERVE_AFTER
        if self.journal_id is None or self.reserved_to - self.highest > enough:
            return None
        return self.highest + RESERVED_AHEAD

    def next_id(self) -> VerdictId:
        """Return an identity that was never given out before."""
        self.highest += 1
        if self.journal_id is None:
            return VerdictId(self.unsaved_id, self.highest)
        if self.highest > self.reserved_to:
            self.void([self.highest])
            return VerdictId(self.unsaved_id, self.highest)
        self.pending[self.highest] = False
        return VerdictId(self.journal_id, self.highest)

    def claim(self, ids: Iterable[Entry | VerdictId]) -> list[int]:
        """Mark numbers as submitted or discarded. Returns those that belong to the file.

        Raises:
            JournalError: A number was never given out, or was claimed before.
        """
        seqs = [each.seq for each in ids if each.journal_id == self.journal_id]
        for seq in seqs:
            if self.pending.get(seq) is not False:
                raise JournalError(f"verdict {seq} was submitted before, or its number was never given out")
        if len(set(seqs)) != len(seqs):
            raise JournalError(f"a number was submitted twice: {seqs}")
        self.pending.update(dict.fromkeys(seqs, True))
        return seqs

    def claimed(self, ids: Iterable[Entry | VerdictId]) -> list[int]:
        """Return the numbers that were claimed under the current file and are not settled."""
        return [each.seq for each in ids if each.journal_id == self.journal_id and self.pending.get(each.seq)]

    def settle(self, seqs: Iterable[int]) -> None:
        """Record that these numbers carry a committed verdict."""
        for seq in seqs:
            self.pending.pop(seq, None)

    def void(self, seqs: Iterable[int]) -> None:
        """Record that these numbers will never carry a verdict."""
        seqs = list(seqs)
        self.settle(seqs)
        self.voids = merged([*self.voids, *(Range(seq, seq) for seq in seqs)])

    def begin(self, journal_id: str, used_to: int, voids: list[Range]) -> None:
        """Continue after `used_to` in a file that was just opened; up to there, the numbers in `voids` carry no verdict."""
        self.pending.clear()
        given_meanwhile = [Range(used_to + 1, self.highest)] if self.highest > used_to else []
        self.voids = merged([*voids, *given_meanwhile])
        self.journal_id, self.reserved_to, self.highest = journal_id, used_to, max(self.highest, used_to)

    def end(self) -> None:
        """Forget the file, which is closed."""
        self.journal_id = None
        self.pending.clear()
        self.voids = []


class SeqFile:
    """The file beside the journal, `<journal>.seq`. It is locked by the one daemon that may use the journal.

    The file is overwritten in place and never grows. So numbers can be reserved on a full disk, where SQLite cannot commit.
    It also shows when the journal's own file has lost committed verdicts.

    Attributes:
        journal_id: The journal that the numbers belong to; empty if the file was new or unreadable.
        reserved_to: The highest number that may have been used.
        committed: The highest number known to be committed. This record is not synced.
        same_boot: The machine has not restarted since `committed` was written, so every committed verdict must still exist.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.journal_id, self.reserved_to, self.committed, self.same_boot = "", 0, 0, False
        self._path = path
        self._fd, self._boot, self._generation = fd, _boot_id(), 0

    @classmethod
    def open(cls, path: Path) -> SeqFile:
        """Open or create the file, lock it and read it.

        Raises:
            JournalError: The file cannot be opened for writing, or another daemon holds it.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            hint = "give the daemon's user write permission in this folder"
            raise JournalError(f"{path}: cannot be opened for writing ({error.strerror})", hint=hint) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_size < _SIZE:
                _write_at(fd, 0, bytes(_SIZE))
                os.fsync(fd)
                sync_folder(path.parent)
            file = cls(path, fd)
            file._load()
        except BlockingIOError as error:
            os.close(fd)
            hint = "stop the other daemon, or give each station a journal of its own"
            raise JournalError(f"{path}: this journal is in use by another daemon", hint=hint) from error
        except OSError as error:
            os.close(fd)
            raise JournalError(f"{path}: cannot be used ({error.strerror})") from error
        return file

    @property
    def lost(self) -> bool:
        """Whether the file is no longer at its path. Another daemon could lock the one that is there."""
        try:
            return not os.path.samestat(os.fstat(self._fd), self._path.stat())
        except OSError:
            return True

    def restore(self) -> None:
        """Put the file back at its path if it was deleted or replaced.

        Raises:
            JournalError: It cannot be written, or another daemon holds the file that is there now.
        """
        if not self.lost:
            return
        there = SeqFile.open(self._path)
        os.close(self._fd)
        self._fd = there._fd
        self._generation = max(self._generation, there._generation)
        if self.journal_id:
            try:
                self.reserve(self.journal_id, self.reserved_to)
            except OSError as error:
                raise JournalError(f"{self._path}: cannot be written ({error.strerror})") from error

    def reserve(self, journal_id: str, reserved_to: int) -> None:
        """Reserve the numbers up to `reserved_to`. Returns when the reservation is on the disk.

        Raises:
            OSError: It could not be written; the previous reservation still holds.
        """
        generation = self._generation + 1
        self._write(_RESERVED[generation % 2], f"{journal_id} {reserved_to} {generation}")
        os.fdatasync(self._fd)
        self.journal_id, self.reserved_to, self._generation = journal_id, reserved_to, generation

    def note_committed(self, journal_id: str, seq: int) -> None:
        """Record the highest committed number, without syncing: the record must survive the process, not the machine."""
        self.committed, self.same_boot = seq, self._boot != "unknown"
        with contextlib.suppress(OSError):  # only a check depends on it
            self._write(_COMMITTED, f"{journal_id} {seq} {self._boot}")

    def close(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    def _load(self) -> None:
        for slot in _RESERVED:
            fields = self._read(slot)
            if len(fields) == 3 and int(fields[2]) > self._generation:
                self.journal_id, self.reserved_to, self._generation = fields[0], int(fields[1]), int(fields[2])
        fields = self._read(_COMMITTED)
        if len(fields) == 3 and fields[0] == self.journal_id:
            self.committed, self.same_boot = int(fields[1]), fields[2] == self._boot != "unknown"

    def _write(self, slot: int, text: str) -> None:
        _write_at(self._fd, slot * _SLOT, f"anoseg-seq/1 {text} {zlib.crc32(text.encode()):08x}\n".encode())

    def _read(self, slot: int) -> list[str]:
        return _fields(os.pread(self._fd, 256, slot * _SLOT))


def holds_record(path: Path) -> bool:
    """Return whether the file holds the record of a journal. It may be in use."""
    try:
        with path.open("rb") as file:
            return any(_fields(os.pread(file.fileno(), 256, slot * _SLOT)) for slot in _RESERVED)
    except OSError:
        return False


def _fields(data: bytes) -> list[str]:
    """Return a slot's fields; empty if the slot is empty or damaged."""
    kind, _, rest = data.partition(b"\n")[0].decode("ascii", "replace").partition(" ")
    text, _, crc = rest.rpartition(" ")
    return text.split(" ") if kind == "anoseg-seq/1" and crc == f"{zlib.crc32(text.encode()):08x}" else []


def _write_at(fd: int, position: int, data: bytes) -> None:
    if os.pwrite(fd, data, position) != len(data):
        raise OSError(0, "no space left")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def sync_folder(folder: Path) -> None:
    """Make names created or changed in `folder` survive a power failure.

    Raises:
        OSError: The folder cannot be synced.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
