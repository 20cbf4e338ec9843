"""Limits how often a user name and a password are sent to a camera that may refuse them.

Many cameras and recorders lock everybody out after some wrong passwords. Several cameras of a configuration can be channels of
one recorder, so they share the limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from urllib.parse import urlsplit

from anosegd.capture.config import SourceConfig, UrlSource

TRIES, WINDOW_S = 2, 60.0
"""So many tries in so many seconds, until the login is accepted."""
PAUSE_S = 31.0
"""How long a camera pauses after its login was refused."""

Login = tuple[str, str]
"""A host, and the user name and password for it."""


class Logins:
    """Counts the tries of each login. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tries: dict[Login, deque[float]] = {}
        self._accepted: set[Login] = set()

    def take_try(self, login: Login | None) -> float:
        """Take a try and return 0, or return the seconds until the next try is free."""
        with self._lock:
            if login is None or login in self._accepted:
                return 0.0
            now = time.monotonic()
            tries = self._tries.setdefault(login, deque())
            while tries and tries[0] <= now - WINDOW_S:
                tries.popleft()
            if len(tries) >= TRIES:
                return tries[0] + WINDOW_S - now
            tries.append(now)
            return 0.0

    def accepted(self, login: Login | None) -> None:
        """The camera has let us in: this login may be used as often as needed."""
        with self._lock:
            if login is not None:
                self._accepted.add(login)
                self._tries.pop(login, None)

    def not_sent(self, login: Login | None) -> None:
        """A try failed for another reason: give it back."""
        with self._lock:
            if login is not None and self._tries.get(login):
                self._tries[login].pop()

    def refused(self, login: Login | None) -> None:
        """The camera refused this login, perhaps after it was changed."""
        with self._lock:
            if login in self._accepted:
                self._accepted.discard(login)
                self._tries[login] = deque([time.monotonic()])


def login_of(source: SourceConfig) -> Login | None:
    """Return the login in a stream's address; None if it has none."""
    if not isinstance(source, UrlSource):
        return None
    _, separator, rest = source.url.partition("://")
    user_info, at, where = rest.rpartition("@")
    if not separator or not at:
        return None
    try:
        host = urlsplit(f"//{where}").hostname
    except ValueError:
        host = None
    return (host or where, user_info)
