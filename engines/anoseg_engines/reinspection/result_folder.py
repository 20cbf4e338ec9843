"""The folder of a result: one Parquet file a shard, and `run.json`, which says what it is the result of. Main thread.

A shard is written under a temporary name and renamed, so a file that is there is whole. A run that begins again in the same
folder must be of the same bundle, images and options; it leaves out the shards that are there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.files import shown_name, sync_folder, write_synced
from anoseg_engines.reinspection.result_rows import RECORD, SCHEMA, SHARD
from anoseg_engines.result_files import try_folder
from anoseg_engines.words import counted

RUN = "run.json"
LOCK = ".lock"


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a result is the result of; `run.json`.

    Attributes:
        images: How many there are.
        images_digest: SHA-256 of their list.
        source: The folder or list that was given.
        runtime: As it was asked for.
        shard_size: The images of a shard; the last one may have fewer.
    """

    schema: Literal["anoseg.reinspection/1"] = "anoseg.reinspection/1"
    bundle: str
    engine_digest: str
    source: str
    images: int
    images_digest: str
    runtime: str
    shard_size: int

    @property
    def shards(self) -> int:
        """How many shards the result has when it is complete."""
        return -(-self.images // self.shard_size)

    def rows_of(self, shard: int) -> range:
        """The numbers of the images in a shard."""
        return range(shard * self.shard_size, min(self.images, (shard + 1) * self.shard_size))

    def differences(self, other: RunRecord) -> Iterator[str]:
        """Yield what differs from `other`, an earlier run, in words."""
        if self.engine_digest != other.engine_digest:
            mine, its = (f"{each.bundle} (digest {each.engine_digest[:12]})" for each in (self, other))
            yield f"the bundle is {mine}, it was {its}"
        if self.images_digest != other.images_digest:
            mine, its = (f"{counted(each.images, 'image')} of {each.source}" for each in (self, other))
            yield f"the list has {mine}, it had {its}" + (", others" if self.images == other.images else "")
        if self.runtime != other.runtime:
            yield f"--runtime is {self.runtime}, it was {other.runtime}"
        if self.shard_size != other.shard_size:
            yield f"--shard-size is {self.shard_size}, it was {other.shard_size}"


class ResultFolder:
    """A result that is being written. Use it as a context: only one run at a time writes a folder.

    Attributes:
        record: What it is the result of; if an earlier run began it, that run's record.
        finished: The shards that an earlier run has written.
        damaged: Files of shards that are not whole or not of this run; they are written again.
    """

    def __init__(self, folder: Path, record: RunRecord, *, retry_unreadable: bool = False) -> None:
        """Name the folder; nothing is read yet.

        Args:
            record: What is to be inspected.
            retry_unreadable: Whether a shard with an image that could not be read counts as not finished.
        """
        self.folder, self.record, self._retry_unreadable = folder, record, retry_unreadable
        self.finished: set[int] = set()
        self.damaged: list[Path] = []
        self._lock: int | None = None

    def look(self) -> None:
        """Find the finished shards. Changes nothing.

        Raises:
            ConfigError: The folder cannot be written, is of another run, or has other files.
        """
        found = self._names_of_this_run()
        for shard in range(self.record.shards):
            path = shard_path(self.folder, shard)
            if path.name in found:
                if not _is_whole(path, self.record, shard):
                    self.damaged.append(path)
                elif not self._retry_unreadable or not _has_unreadable(self.folder, shard):
                    self.finished.add(shard)

    def _names_of_this_run(self) -> set[str]:
        try_folder(self.folder, "--out")
        found = _names(self.folder)
        if not found:
            return found
        where = shown_name(self.folder)
        if RUN not in found:
            raise ConfigError(f"--out {where}: is not empty", hint="give a new folder, or one that this command made")
        earlier = read_record(self.folder)
        if differing := list(self.record.differences(earlier)):
            what = f"--out {where}: was begun with other input: {'; '.join(differing)}"
            raise ConfigError(what, hint="give a new folder, or the same bundle, images and options as before")
        self.record = earlier  # the same input may be spelled in another way, and each shard has the record of the first run
        return found

    def __enter__(self) -> ResultFolder:
        self._names_of_this_run()  # a folder that is refused stays as it is, without a lock
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(f"--out {shown_name(self.folder)}: cannot be written ({error.strerror})") from error
        try:
            alone = self._take_lock()
            self.look()
            if alone:
                self._delete_leftovers()
            if not (self.folder / RUN).exists():
                self._write(self.folder / RUN, msgspec.json.format(msgspec.json.encode(self.record), indent=1) + b"\n")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def to_do(self) -> list[int]:
        """Return the shards that are not finished."""
        return [shard for shard in range(self.record.shards) if shard not in self.finished]

    def write_shard(self, shard: int, data: bytes) -> None:
        """Write the Parquet file of a shard.

        Raises:
            AnosegError: It cannot be written.
        """
        self._write(shard_path(self.folder, shard), data)
        self.finished.add(shard)

    def metadata(self) -> bytes:
        """What each shard says about its run."""
        return msgspec.json.encode(self.record)

    def _delete_leftovers(self) -> None:
        """Delete what runs that were killed had begun to write."""
        with contextlib.suppress(OSError):
            for name in (RUN, "shard-*.parquet"):
                for leftover in self.folder.glob(f".{name}*.tmp"):
                    leftover.unlink()

    def _take_lock(self) -> bool:
        """Return whether no other run can be writing."""
        assert self._lock is not None, "the lock's file is open"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "wait for it, or give another folder"
            raise ConfigError(f"--out {shown_name(self.folder)}: another run is writing it", hint=hint) from error
        except OSError:  # a file system without locks: two runs would write the same rows
            return False
        return True

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
        try:
            try:
                write_synced(temporary, data)
                temporary.replace(path)
                sync_folder(path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            done = f"{len(self.finished)} of {counted(self.record.shards, 'shard')} are finished"
            hint = f"{done}; free space or give the right to write, then give the same command again"
            raise AnosegError(f"{shown_name(path)}: cannot be written ({error.strerror})", hint=hint) from error


def shard_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard's file."""
    return folder / f"shard-{shard:06d}.parquet"


def read_record(folder: Path) -> RunRecord:
    """Read what a folder is the result of.

    Raises:
        DataError: The folder is no result, or `run.json` cannot be read.
    """
    path = folder / RUN
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except FileNotFoundError as error:
        what = "is not a result of `anoseg-engine reinspect`" if folder.is_dir() else "no such folder"
        raise DataError(f"{shown_name(folder)}: {what}", hint=f"give its --out folder, which has a {RUN}") from error
    except OSError as error:
        raise DataError(f"{shown_name(path)}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{shown_name(path)}: {error}", hint="inspect the images again, into a new folder") from error


def missing_shards(folder: Path, record: RunRecord) -> list[int]:
    """Return the shards of a result that are not there, or not whole."""
    return [shard for shard in range(record.shards) if not _is_whole(shard_path(folder, shard), record, shard)]


def read_columns(folder: Path, shards: Iterable[int], columns: list[str]) -> pa.Table:
    """Read some columns of these shards, in their order.

    Raises:
        DataError: A shard cannot be read.
    """
    tables = []
    for shard in shards:
        path = shard_path(folder, shard)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                tables.append(file.read(columns).replace_schema_metadata())
        except (OSError, pa.ArrowException) as error:
            what = f"{shown_name(path)}: cannot be read ({error})"
            raise DataError(what, hint="give the `reinspect` command again: it writes this shard again") from error
    return pa.concat_tables(tables) if tables else pa.schema([SCHEMA.field(name) for name in columns]).empty_table()


class Outcomes(NamedTuple):
    """What the rows of a result say.

    Attributes:
        counts: How many images have each outcome.
        unknown: Path, reason and error of those that were not inspected.
        runtimes: Those that inspected the images: several if the run went on on another machine.
    """

    counts: Counter[str]
    unknown: list[dict[str, Any]]
    runtimes: list[str]


def count_outcomes(folder: Path, record: RunRecord) -> Outcomes:
    """Read the rows of a complete result.

    Raises:
        DataError: As `read_columns`.
    """
    table = read_columns(folder, range(record.shards), ["path", "outcome", "reason", "error", "runtime"])
    unknown = table.filter(pc.equal(table["outcome"], "UNKNOWN")).select(["path", "reason", "error"])
    return Outcomes(Counter(counts_of(table["outcome"])), unknown.to_pylist(), sorted(counts_of(table["runtime"])))


def counts_of(column: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value of a column is there."""
    return {str(each["values"]): each["counts"].as_py() for each in column.value_counts()}


def note_on_runtimes(runtimes: Sequence[str]) -> str | None:
    """Say that a result is of several runtimes; None if it is not."""
    if len(runtimes) < 2:
        return None
    return f"the images were inspected by several runtimes, whose scores differ a little: {', '.join(runtimes)}"


def _names(folder: Path) -> set[str]:
    """Return the names in a folder, without those of files that begin with a dot, such as the lock."""
    try:
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise ConfigError(f"--out {shown_name(folder)}: cannot be listed ({error.strerror})") from error


def _has_unreadable(folder: Path, shard: int) -> bool:
    return "unreadable" in read_columns(folder, [shard], ["reason"])["reason"].to_pylist()


def _is_whole(path: Path, record: RunRecord, shard: int) -> bool:
    """Whether a file is this shard of this result, and can be read: reading it compares the checksums of its pages."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.metadata.metadata or {}
            if metadata.get(RECORD) != msgspec.json.encode(record) or metadata.get(SHARD) != str(shard).encode():
                return False
            table = file.read()
            return bool(table.num_rows == len(record.rows_of(shard)) and table.schema.equals(SCHEMA))
    except (OSError, pa.ArrowException):
        return False
