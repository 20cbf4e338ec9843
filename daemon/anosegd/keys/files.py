"""Makes, writes and reads the files of keys. They are JSON, so that a client in any language can read its own. Any thread.

There are three kinds: the station's own key, which never leaves its machine; a client's own key, which holds the station's
public key as well; and an authorisation, the public part of a client's key, which the station reads.
"""

from __future__ import annotations

import ctypes
import os
import stat
from datetime import date
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import zmq
from msgspec import Meta

from anoseg_engines.errors import ConfigError

MAX_FILE_BYTES = 4096
PR_SET_DUMPABLE = 4
Z85 = Annotated[str, Meta(pattern=r"^[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}\Z")]
"""A key of 32 bytes as ZeroMQ writes it."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
KeyName = Annotated[str, Meta(pattern=NAME)]


class StationKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="station"):
    """The station's key pair. `secret` is shown nowhere."""

    public: Z85
    secret: Z85

    def __repr__(self) -> str:
        """Leave the secret out."""
        return f"StationKey({self.public})"


class ClientSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="client"):
    """A client's key pair, and the station's public key. `secret` is shown nowhere."""

    name: KeyName
    public: Z85
    secret: Z85
    station: Z85

    def __repr__(self) -> str:
        """Leave the secret out."""
        return f"ClientSecret({self.name}, {self.public})"


class ClientKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="authorised"):
    """Authorises a client.

    Attributes:
        name: The client's name, for logs and refusals.
        public: Its public key.
        control: Whether it may command the station, not only listen and read.
        expires: The last day on which it is accepted, in UTC; None never ends.
    """

    name: KeyName
    public: Z85
    control: bool = False
    expires: date | None = None


T = TypeVar("T", StationKey, ClientSecret, ClientKey)
_WHAT = {StationKey: "a station's key", ClientSecret: "a client's key", ClientKey: "an authorisation of a client"}


def new_station_key() -> StationKey:
    """Make a new pair."""
    public, secret = zmq.curve_keypair()
    return StationKey(public=public.decode(), secret=secret.decode())


def new_client_key(name: str, station_public: str, *, control: bool, expires: date | None) -> tuple[ClientSecret, ClientKey]:
    """Make a new pair: the client's own file, and its authorisation for the station."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    authorised = ClientKey(name=name, public=public, control=control, expires=expires)
    return ClientSecret(name=name, public=public, secret=secret, station=station_public), authorised


def write_key(path: Path, key: StationKey | ClientSecret | ClientKey) -> None:
    """Write a new file; one with a secret is for its owner alone. Nothing is overwritten, and no half file is left.

    Raises:
        ConfigError: It exists, or cannot be written.
    """
    mode = 0o644 if isinstance(key, ClientKey) else 0o600
    part = path.with_name(f".{path.name}.part")
    try:
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in made:  # whatever the umask: the daemon's user must be able to read, and others may not write
            folder.chmod(0o755)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(msgspec.json.format(msgspec.json.encode(key), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(part)  # fails if the file exists
        finally:
            part.unlink()
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists, and keys are not overwritten", hint="give another name or folder") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})", hint="give a folder that can be written") from error


def read_key(path: Path, kind: type[T]) -> T:
    """Read a file of this kind. Refused are a secret that other users may read, and an authorisation that they may change.

    Raises:
        ConfigError: It cannot be read, is of another kind, or is open to others. No message contains a secret.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe must not block
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", hint="make it with: anosegd keygen") from error
    if kind is not ClientKey and mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"{path}: other users may read or change this secret key", hint=f"run: chmod 600 {path}")
    if kind is ClientKey and mode & (stat.S_IWOTH | stat.S_IWGRP):
        raise ConfigError(f"{path}: other users may change this authorisation", hint=f"run: chmod go-w {path}")
    try:
        if len(content) > MAX_FILE_BYTES:
            raise ValueError
        return msgspec.json.decode(content, type=kind)
    except ValueError:
        # Without the decoder's words and without `from`: they could contain a part of a secret.
        raise ConfigError(f"{path}: is not {_WHAT[kind]}", hint="make it with: anosegd keygen") from None


def keep_out_of_core_dumps() -> None:
    """Allow no core dump of this process, because it would contain secret keys."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
