"""Knows which client keys are authorised now. Reads their folder once a second, so that no restart is needed. Any thread."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anosegd import logs
from anosegd.keys.config import CREDENTIAL, CREDENTIALS, KeysConfig
from anosegd.keys.files import ClientKey, StationKey, keep_out_of_core_dumps, read_key

READ_EVERY_S = 1.0
READ_FOR_UNKNOWN_S = 0.05
"""The folder is read again for an unknown key, so that a new one is accepted at once, but not more often than this."""
MAX_CLIENTS = 1000
"""Files that are read."""
SUFFIX = ".pub"
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
Fingerprint = tuple[int, int, int, int]
"""Inode, times of change of content and of permissions, size."""


class Keyring:
    """The station's key and the authorised clients.

    Attributes:
        station: The station's own key.
    """

    def __init__(self, station: Path, clients: Path) -> None:
        self._station_path, self._folder = station, clients
        self._lock = threading.Lock()
        self._clients: dict[str, ClientKey] = {}
        self._revoked: dict[str, str] = {}  # names of those that were authorised before
        self._read_at = float("-inf")
        self._files: dict[Path, tuple[Fingerprint | None, ClientKey | None]] = {}
        self._loaded = False
        self._too_many = 0  # files that were too many when it was last logged
        self._writable = False
        self.station: StationKey | None = None

    def load(self) -> None:
        """Read the station's key and the folder of clients.

        Raises:
            ConfigError: The station's key or the folder cannot be used.
        """
        keep_out_of_core_dumps()
        self.station = read_key(self._station_path, StationKey)
        try:
            list(self._folder.iterdir())
            mode = self._folder.stat().st_mode
        except OSError as error:
            hint = "create it; `anosegd keygen client` writes into it"
            raise ConfigError(f"keys.clients: {self._folder}: cannot be read ({error.strerror})", hint=hint) from error
        if mode & OTHERS_WRITE:
            what = f"keys.clients: {self._folder}: other users may write in this folder, and so admit clients"
            raise ConfigError(what, hint=f"run: chmod go-w {self._folder}")
        self._refresh()
        self._loaded = True

    def client(self, public: str) -> ClientKey | None:
        """Return the client with this public key, if it is authorised now; None refuses it."""
        with self._lock:
            if time.monotonic() - self._read_at > (READ_EVERY_S if public in self._clients else READ_FOR_UNKNOWN_S):
                self._refresh()
            found = self._clients.get(public)
        return found if found is not None and not _expired(found) else None

    def why_refused(self, public: str) -> str:
        """Say why a public key is not authorised now."""
        with self._lock:
            found, revoked = self._clients.get(public), self._revoked.get(public)
        if found is None:
            return "the key is not authorised" if revoked is None else f"the key of {revoked} was revoked"
        return f"the key of {found.name} expired on {found.expires}" if _expired(found) else "the key is authorised now"

    def _refresh(self) -> None:
        """Read files that are new or have changed. A file that cannot be read authorises nobody."""
        self._read_at = time.monotonic()
        try:
            paths = sorted(path for path in self._folder.iterdir() if path.suffix == SUFFIX)
            self._report(paths, writable=bool(self._folder.stat().st_mode & OTHERS_WRITE))
            files = {path: self._read(path) for path in paths[:MAX_CLIENTS]}
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:  # too many connections must not take the keys from those who have one
                return
            if self._clients:
                logs.error("keys.unreadable", path=str(self._folder), error=error.strerror)
            files = {}
        clients: dict[str, ClientKey] = {}
        for path, (_, key) in files.items():
            if key is None:
                continue
            if key.public in clients:  # the first file's rights count
                if path not in self._files:
                    logs.warning("keys.unreadable", path=str(path), error="another file authorises the same key")
                continue
            clients[key.public] = key
        for public, key in clients.items() if self._loaded else ():
            if key != self._clients.get(public):
                until = None if key.expires is None else str(key.expires)
                logs.info("keys.authorised", key=key.name, control=key.control, expires=until)
        for public in self._clients.keys() - clients.keys():
            logs.info("keys.revoked", key=self._clients[public].name)
        self._revoked |= {public: key.name for public, key in self._clients.items()}
        self._clients, self._files = clients, files

    def _report(self, paths: list[Path], *, writable: bool) -> None:
        """Log it when the folder has more files than are read, or when others may write in it."""
        too_many = max(0, len(paths) - MAX_CLIENTS)
        if too_many and too_many != self._too_many:
            first = paths[MAX_CLIENTS].name
            logs.warning("keys.too_many", path=str(self._folder), files=len(paths), read=MAX_CLIENTS, first_not_read=first)
        if writable and not self._writable:
            error = "other users may write in this folder: new and changed files are not read until you run chmod go-w"
            logs.error("keys.writable", path=str(self._folder), error=error)
        self._too_many, self._writable = too_many, writable

    def _read(self, path: Path) -> tuple[Fingerprint | None, ClientKey | None]:
        """Return what tells whether the file has changed, None to read it again next time, and its key, if it has one.

        Raises:
            OSError: The process has no free file descriptor.
        """
        known = self._files.get(path)
        try:
            status = path.stat()
        except OSError:
            return None, None
        fingerprint = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if known is not None and known[0] == fingerprint:
            return known
        if self._writable:
            return None, None
        try:
            return fingerprint, read_key(path, ClientKey)
        except ConfigError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_DESCRIPTORS:
                raise error.__cause__ from None
            logs.warning("keys.unreadable", path=str(path), error=error.what)
            return fingerprint, None


def _expired(key: ClientKey) -> bool:
    return key.expires is not None and datetime.now(timezone.utc).date() > key.expires


def keyring_of(config: KeysConfig) -> Keyring:
    """Read the keys that the configuration names.

    Raises:
        ConfigError: They cannot be used.
    """
    station = config.station
    if station is None:
        folder = os.environ.get(CREDENTIALS)
        if folder is None:
            what = "keys.station: not given, and systemd passes no credentials"
            raise ConfigError(what, hint="give the file that `anosegd keygen station` made, or use the unit's LoadCredential=")
        station = f"{folder}/{CREDENTIAL}"
    keyring = Keyring(Path(station), Path(config.clients))
    keyring.load()
    return keyring
