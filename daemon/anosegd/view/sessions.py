"""Knows who is logged in. Everything runs on the event loop's thread, apart from the hashing of tokens ("login").

Sessions are kept in memory: after a restart of the screen, everybody logs in again. A user who is removed from the file of
users, or whose token expires, is out within seconds, and so are the open streams.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anoseg_engines.errors import ConfigError
from anosegd import logs
from anosegd.view.people import Person
from anosegd.view.rate_limit import RateLimit
from anosegd.view.users import User, load_users, token_id_of, user_of

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

IDLE_S = 12 * 3600.0
"""A session ends when no page has used it for this long. An open page uses it."""
MAX_SESSIONS = 200
LOOK_S = 1.0
MAX_HASHING = 4
"""Tokens that wait for their hash: so many that name a user, and so many others, which cannot keep users out."""
A_SECOND, AT_ONCE = 0.2, 10
"""How often somebody may try to log in: from one address, and with the token of one user."""


class TooManyAttemptsError(Exception):
    """Somebody tries to log in too often."""


@dataclass(slots=True)
class _Session:
    name: str
    token_id: str
    used_at: float


class Sessions:
    """Knows who may use a screen with users. `stop` ends its thread.

    Args:
        users: The file of users.
        secure: Whether browsers reach the screen through TLS only.
        port: The port of the screen. A browser sends a cookie to all ports of a host, so each screen needs its own name for it.
    """

    def __init__(self, users: Path, *, secure: bool, port: int) -> None:
        self.secure = secure
        self.cookie = f"{'__Host-' if secure else ''}session-{port}"
        self._path = users
        self._users: dict[str, User] = {}
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._hasher = ThreadPoolExecutor(1, "login")
        self._hashing = {True: 0, False: 0}  # by whether the token names a user
        self._of_address, self._of_user = RateLimit(A_SECOND, AT_ONCE), RateLimit(A_SECOND, AT_ONCE)
        self._refused = logs.Throttle("login.refused")
        self._failing = False

    def load(self) -> None:
        """Read the file of users.

        Raises:
            ConfigError: It cannot be used, or names nobody who may log in.
        """
        users = load_users(self._path)
        if not any(user.is_valid(time.time()) for user in users):
            raise ConfigError(
                f"{self._path}: names nobody who may log in",
                hint=f"make a user on this machine: anosegd user add --users {self._path} NAME --role change",
            )
        self._users = {user.name: user for user in users}

    async def follow_file(self) -> None:
        """Read the file again and again. While it cannot be used, nobody is logged in."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._users = {user.name: user for user in load_users(self._path)}
                self._failing = False
            except ConfigError as error:
                if not self._failing:
                    logs.error("users.unreadable", error=error.what)
                self._users, self._failing = {}, True
            for key in [key for key, session in self._sessions.items() if self._user(session) is None]:
                del self._sessions[key]

    async def log_in(self, token: str, address: str) -> str | None:
        """Begin a session and return what its cookie holds; None if the token is nobody's, has expired, or was revoked.

        Raises:
            TooManyAttemptsError: Somebody has tried too often.
        """
        users, token_id = tuple(self._users.values()), token_id_of(token)
        named = any(user.token_id == token_id for user in users)
        has_room = self._of_address.allows(_network(address)) and self._hashing[named] < MAX_HASHING
        if not has_room or not self._of_user.allows(token_id):
            self._refused.warning(address=address, error="too many attempts")
            raise TooManyAttemptsError
        self._hashing[named] += 1
        try:
            user = await asyncio.get_running_loop().run_in_executor(self._hasher, user_of, token, users, time.time())
        finally:
            self._hashing[named] -= 1
        if user is None:
            self._refused.warning(address=address, error="unknown token")
            return None
        logs.info("login.done", who=user.name, address=address)
        secret = secrets.token_urlsafe(32)
        self._sessions[_key(secret)] = _Session(user.name, user.token_id, time.monotonic())
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)  # the one that was not used for the longest time
        return secret

    def log_out(self, connection: HTTPConnection) -> None:
        """End the session of a request."""
        self._sessions.pop(self._key_of(connection), None)

    def person(self, connection: HTTPConnection) -> Person | None:
        """Return the user who sends a request, or whose page is open; None without a session."""
        key = self._key_of(connection)
        session = self._sessions.get(key)
        if session is None:
            return None
        user, now = self._user(session), time.monotonic()
        if user is None or now - session.used_at > IDLE_S:
            del self._sessions[key]
            return None
        session.used_at = now
        self._sessions.move_to_end(key)
        return Person(user.name, user.role)

    def stop(self) -> None:
        """End the thread."""
        self._hasher.shutdown(wait=True, cancel_futures=True)

    def _user(self, session: _Session) -> User | None:
        user = self._users.get(session.name)
        if user is None or user.token_id != session.token_id or not user.is_valid(time.time()):
            return None
        return user

    def _key_of(self, connection: HTTPConnection) -> bytes:
        return _key(connection.cookies.get(self.cookie, ""))


def _network(address: str) -> str:
    """Return what one sender can choose its address from: with IPv6, a network of 64 bits."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return address


def _key(secret: str) -> bytes:
    """Return the key under which a session is kept. A hash, so that the time of a comparison gives nothing away."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()
