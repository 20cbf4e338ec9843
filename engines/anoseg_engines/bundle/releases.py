"""Says which versions under STORE/NAME are released, and releases one. Any thread, any number of processes.

A bundle never changes, so the mark is kept beside the bundles: STORE/NAME/releases.json lists the releases in their order, each
with the version's digest. The file is replaced as a whole, under a lock, so that two processes lose no release and a crash
leaves the old file. A copy of STORE/NAME takes the releases with it. A copy of a version's folder alone does not: a candidate
says in its own manifest that it needs a release, so it stays a candidate wherever it goes.

Bundles without an origin were written before there were releases. Without releases.json, they all count as released.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from anoseg_engines.bundle.manifest import MANIFEST, Sha256
from anoseg_engines.errors import AnosegError, ConfigError, EngineError
from anoseg_engines.files import sync_folder, write_synced
from anoseg_engines.permissions import looking

RELEASES = "releases.json"
SCHEMA_VERSION = 1
_LOCK = ".releases.lock"
_MAX_BYTES = 4 << 20


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The release of a version.

    Attributes:
        digest: SHA-256 of the version's manifest.json. A folder with another manifest is not the released version.
        at: Time of the release, UTC in ISO 8601; None for a version from before there were releases.
        by: The user's login name, if it is known.
    """

    version: Annotated[int, Meta(ge=1)]
    digest: Sha256
    at: str | None = None
    by: str | None = None


class _Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    releases: list[Release]


class _Version(msgspec.Struct, frozen=True):
    schema_version: int = SCHEMA_VERSION


class _Numbered(msgspec.Struct, frozen=True):
    version: int


class _Head(msgspec.Struct, frozen=True):
    """What makes a bundle a candidate."""

    origin: msgspec.Raw | UnsetType = UNSET


GIVE = "give it to the daemon's group, under systemd anoseg: chgrp -R anoseg STORE/NAME; chmod -R g+rX STORE/NAME"
"""What to do about a bundle that this user may not read."""


@looking(EngineError, hint=GIVE)
def versions(store_name: Path) -> list[int]:
    """Finished versions under STORE/NAME, ascending."""
    return sorted(int(p.name) for p in _numbered(store_name) if p.name == str(int(p.name)) and (p / MANIFEST).is_file())


@looking(EngineError, hint=GIVE)
def next_version(store_name: Path) -> int:
    """Return the first number above all versions under STORE/NAME that names nothing there, not even a half-copied version."""
    number = (versions(store_name) or [0])[-1] + 1
    while os.path.lexists(store_name / str(number)):
        number += 1
    return number


@looking(EngineError, hint=GIVE)
def odd_versions(store_name: Path) -> dict[str, str]:
    """Return the entries that are named like versions but cannot be used: half copied, still being copied, or misnamed.

    A store that lists its releases may contain anything besides them, so only releases that hold are looked at there.

    Returns:
        The reason by name.

    Raises:
        EngineError: releases.json is damaged or of a newer program.
    """
    log = _read_log(store_name / RELEASES)
    listed = None if log is None else {str(entry.version) for entry in _holding(log)}
    found = {p: _oddity(p) for p in sorted(_numbered(store_name)) if listed is None or p.name in listed}
    return {p.name: why for p, why in found.items() if why is not None}


def contained_version(folder: Path) -> int | None:
    """Return the version that a folder's manifest says; None if that cannot be read."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Numbered).version
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _oddity(path: Path) -> str | None:
    number = int(path.name)
    if path.name != str(number):
        return f"{path.name} is not a version's name ({number} would be)"
    if not path.exists():
        return f"{path.name} is a link to something that does not exist"
    if not path.is_dir():
        return f"{path.name} is not a folder"
    if not (path / MANIFEST).exists():
        return f"version {number} lacks {MANIFEST}"
    contained = contained_version(path)
    return None if contained in (None, number) else f"the folder {path.name} contains version {contained}"


def _numbered(store_name: Path) -> list[Path]:
    """Everything under STORE/NAME whose name consists of digits."""
    return [p for p in store_name.iterdir() if p.name.isascii() and p.name.isdigit()] if store_name.is_dir() else []


def read_releases(store_name: Path) -> list[Release]:
    """Return the releases that hold, in their order; the last one is current.

    To release an earlier version again withdraws the versions that were released after it.

    Raises:
        EngineError: releases.json is damaged or of a newer program.
    """
    log = _read_log(store_name / RELEASES)
    if log is None:
        return [_earlier_release(store_name, n) for n in versions(store_name) if not _is_candidate(store_name / str(n))]
    return [entry for entry in _holding(log) if _digest(store_name / str(entry.version)) in (entry.digest, None)]


def replaced_releases(store_name: Path) -> list[int]:
    """Return the versions that were released last, the newest first, but whose folders now have another manifest.

    Raises:
        EngineError: releases.json is damaged or of a newer program.
    """
    log = _read_log(store_name / RELEASES)
    newest_first = [] if log is None else _holding(log)[::-1]
    replaced = takewhile(lambda entry: _digest(store_name / str(entry.version)) not in (entry.digest, None), newest_first)
    return [entry.version for entry in replaced]


def _holding(log: _Log) -> list[Release]:
    """Return the releases that no later one has withdrawn, in their order."""
    found: list[Release] = []
    for entry in log.releases:
        known = [kept.version for kept in found]
        if entry.version in known:
            del found[known.index(entry.version) :]
        found.append(entry)
    return found


def released_versions(store_name: Path) -> list[int]:
    """Return the released versions under STORE/NAME, the current one first.

    Raises:
        ConfigError: There are versions, but none is released.
        EngineError: releases.json is damaged or of a newer program.
    """
    found = [entry.version for entry in reversed(read_releases(store_name))]
    if not found and (written := versions(store_name)):
        names = ", ".join(str(n) for n in written)
        raise ConfigError(
            f"{store_name}: no version is released (there is: {names})",
            hint=f"to use version {written[-1]}, run: anoseg-engine release {store_name / str(written[-1])}",
        )
    return found


def release_version(store_name: Path, version: int, digest: str, by: str | None = None) -> Release | None:
    """Make a version current: STORE/NAME means this version from now on.

    Args:
        store_name: STORE/NAME.
        version: A whole version under it.
        digest: Its digest.
        by: Who releases it; None for the user of this process.

    Returns:
        The release that was current before, None if there was none.

    Raises:
        AnosegError: The file cannot be written.
        EngineError: releases.json is damaged or of a newer program.
    """
    with _write_lock(store_name):
        log = _read_log(store_name / RELEASES)
        before = read_releases(store_name)
        current = before[-1] if before else None
        if log is None or current is None or (current.version, current.digest) != (version, digest):
            kept = before if log is None else log.releases
            entry = Release(version=version, digest=digest, at=_now(), by=by or _login())
            _write_log(store_name, _Log(releases=[*kept, entry]))
        return current


def _earlier_release(store_name: Path, version: int) -> Release:
    return Release(version=version, digest=_digest(store_name / str(version)) or "0" * 64)


def _is_candidate(folder: Path) -> bool:
    """Whether the bundle was written as a candidate. A manifest that cannot be read is left to the reader of the bundle."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Head).origin is not UNSET
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _digest(folder: Path) -> str | None:
    """SHA-256 of the manifest; None if there is none."""
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None


def _read_log(path: Path) -> _Log | None:
    hint = f"copy {RELEASES} again from where the bundles come from"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise EngineError(f"{path}: larger than {_MAX_BYTES} bytes", hint=hint)
        data = path.read_bytes()
        if msgspec.json.decode(data, type=_Version).schema_version > SCHEMA_VERSION:
            raise EngineError(f"{path}: written by a newer program", hint="update anoseg-edge on this machine")
        log = msgspec.json.decode(data, type=_Log)
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"{path}: cannot be read ({error.strerror})"
        raise EngineError(what, hint=GIVE if isinstance(error, PermissionError) else hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"{path}: not a list of releases: {error}", hint=hint) from error
    return log


@contextlib.contextmanager
def _write_lock(store_name: Path) -> Iterator[None]:
    """Let one process write at a time."""
    try:
        with _locked(store_name / _LOCK):
            yield
    except OSError as error:
        raise AnosegError(
            f"{store_name / RELEASES}: cannot be written ({error.strerror})",
            hint="run the command as a user who may write there (on a line: with sudo)",
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which exists only meanwhile."""
    while True:
        with path.open("ab") as lock:  # NFS locks only a file that is open for writing
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock.fileno(), path):
                continue  # the holder before us has removed it: the next process would lock another file
            try:
                yield
            finally:
                path.unlink()
            return


def _is_at(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False


def _write_log(store_name: Path, log: _Log) -> None:
    new = store_name / f".{RELEASES}.new"
    write_synced(new, msgspec.json.format(msgspec.json.encode(log), indent=2) + b"\n")
    new.chmod(0o644)  # whatever the user's mask is: the daemon's user must read it
    new.rename(store_name / RELEASES)
    sync_folder(store_name)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name
        return None
