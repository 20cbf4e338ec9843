"""Keeps the users of a screen in a file: names, roles, and hashes of their tokens. No token is ever in it. Any thread.

A token is made here, shown once, and stored as its scrypt hash. It has 140 random bits, after 20 that only find its user.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from anoseg_engines.errors import ConfigError
from anosegd.view.people import Role
from anosegd.view.private_file import write_private

NAME = re.compile(r"\w(?:[\w .@-]{0,62}[\w.])?")
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters of tokens: none of them looks like another."""
ID_LETTERS, SECRET_LETTERS, GROUP = 4, 28, 4
MAX_TOKEN = 100
MAX_FILE_BYTES = 1 << 20
SCRYPT = {"n": 1 << 14, "r": 8, "p": 1}
"""16 MiB and about 50 ms for each attempt (RFC 7914)."""


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person who may log in.

    Attributes:
        name: What the station's journal notes with changes.
        role: What the person may do.
        token_id: The letters of the token that find its user.
        salt, hash: The scrypt hash of the token's other letters, in Base64.
        created_s: When the user was made (Unix time).
        expires_s: When the token ends; None: never.
    """

    name: str
    role: Role
    token_id: str
    salt: str
    hash: str
    created_s: int
    expires_s: int | None = None

    def is_valid(self, now_s: float) -> bool:
        """Return whether the token has not expired."""
        return self.expires_s is None or now_s < self.expires_s


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    users: tuple[User, ...]
    format: int = 1


def users_beside(config: Path) -> Path:
    """Return the file of the users of a station's screen: LINE.users.json beside LINE.yaml."""
    return config.with_name(f"{config.stem}.users.json")


def certificate_beside(users: Path) -> Path:
    """Return the file of the certificate that a screen makes: LINE.tls.pem beside LINE.users.json."""
    return users.with_name(f"{users.name.removesuffix('users.json')}tls.pem")


def load_users(path: Path) -> tuple[User, ...]:
    """Read the users.

    Raises:
        ConfigError: The file is missing, cannot be read, is not a file of users, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there are no users yet",
            hint=f"make the first one on this machine: anosegd user add --users {path} NAME --role change",
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", hint="the user of the screen must own it") from error
    if mode & 0o077:
        raise ConfigError(f"{path}: others may use this file (mode {mode:04o})", hint=f"chmod 600 {path}")
    try:
        if len(content) > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        found = msgspec.json.decode(content, type=_File)
        for user in found.users:
            base64.b64decode(user.salt, validate=True), base64.b64decode(user.hash, validate=True)
            if not NAME.fullmatch(user.name):
                raise ValueError(f"{user.name!r} is not a name")
        if found.format != 1:
            raise ValueError(f"it has format {found.format}, and this version reads format 1")
        if len({user.name for user in found.users}) < len(found.users):
            raise ValueError("a name appears twice")
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ConfigError(
            f"{path}: is not a file of users ({error})", hint="restore it from a copy, or delete it and add the users again"
        ) from error
    return found.users


def add_user(path: Path, name: str, role: Role, *, expires_s: int | None = None) -> str:
    """Add a user and return the token, which cannot be read again.

    Raises:
        ConfigError: The name is taken or cannot be used, or the file cannot be read or written.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a user's name",
            hint="use at most 64 letters, digits, spaces and . @ - _, with a letter or digit first",
        )
    with _locked(path):
        users = load_users(path) if path.exists() else ()
        if any(user.name == name for user in users):
            raise ConfigError(
                f"{path}: there is a user {name} already", hint=f"for another token: anosegd user revoke {name}, then add"
            )
        taken = {user.token_id for user in users}
        token_id = next(one for one in iter(lambda: _letters(ID_LETTERS), "") if one not in taken)
        secret, salt = _letters(SECRET_LETTERS), secrets.token_bytes(16)
        user = User(name, role, token_id, _base64(salt), _base64(_hash(secret, salt)), int(time.time()), expires_s)
        _write(path, (*users, user))
    letters = token_id + secret
    return "-".join(letters[i : i + GROUP] for i in range(0, len(letters), GROUP))


def revoke_user(path: Path, name: str) -> None:
    """Remove a user. A running screen ends the user's sessions within seconds.

    Raises:
        ConfigError: There is no such user, or the file cannot be read or written.
    """
    with _locked(path):
        users = load_users(path)
        left = tuple(user for user in users if user.name != name)
        if len(left) == len(users):
            raise ConfigError(f"{path}: there is no user {name}", hint="see who there is: anosegd user list")
        _write(path, left)


def user_of(token: str, users: tuple[User, ...], now_s: float) -> User | None:
    """Return whose token this is; None if it is nobody's, or has expired. Takes the same time for every token (about 50 ms)."""
    token_id, secret = token_id_of(token), _letters_of(token)[ID_LETTERS:]
    user = next((user for user in users if user.token_id == token_id), None)
    salt = base64.b64decode(user.salt) if user is not None else b"no such user"
    found = _hash(secret, salt)
    if user is None or not hmac.compare_digest(found, base64.b64decode(user.hash)) or not user.is_valid(now_s):
        return None
    return user


def token_id_of(token: str) -> str:
    """Return the first letters of a token, which find its user and are not secret."""
    return _letters_of(token)[:ID_LETTERS]


def _letters_of(token: str) -> str:
    return re.sub(r"[\s-]", "", token[:MAX_TOKEN]).lower()


def _letters(n: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(n))


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode(errors="replace"), salt=salt, dklen=32, **SCRYPT)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other programs from changing the users at the same time: the last one would undo what the others did."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be used ({error.strerror})", hint="make this folder first") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, users: tuple[User, ...]) -> None:
    content = msgspec.json.format(msgspec.json.encode(_File(users)), indent=2) + b"\n"
    try:
        write_private(path, content)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror})", hint="may this user write into its folder?"
        ) from error
