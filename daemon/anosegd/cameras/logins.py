"""Limits how often a user name and a password are sent to a camera that may refuse them.

Many cameras and recorders lock a user out after some wrong passwords. Several cameras of a configuration can be channels of one
recorder, so all cameras share the limit of a user at a host.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import msgspec

from anoseg_engines.passwords import login_in_settings, without_login_in_query
from anosegd.capture.config import SourceConfig, UrlSource

TRIES, WINDOW_S = 2, 60.0
"""So many tries of a user at a host in so many seconds, until the login is accepted. A login that was never tried, such as a
corrected one, has one try more."""
PAUSE_S = 31.0
"""How long a camera pauses after its login was refused."""
RESOLVE_S = 3.0
"""Seconds that the lookup of a host's address may take. If it takes longer, hosts are compared by name."""

Login = tuple[str, str]
"""A host, and the user name and password for it."""


@dataclass(frozen=True, slots=True)
class _Try:
    at: float
    camera: str


class Logins:
    """Counts the tries of each user at each host. Any thread.

    Every method takes the login, which is None for a camera without one, and the name of the camera that uses it. `requests` is
    how often one attempt to open the camera sends the password.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tries: dict[tuple[str, str], deque[_Try]] = {}
        self._known: set[Login] = set()  # tried at least once
        self._accepted: set[Login] = set()

    def take_try(self, login: Login | None, camera: str = "", *, requests: int = 1) -> float:
        """Take a try and return 0, or return the seconds until the next try is free."""
        with self._lock:
            wait_s = self._wait_s(login, requests)
            if login is not None and login not in self._accepted and wait_s == 0:
                self._note(login, camera, requests)
            return wait_s

    def wait_s(self, login: Login | None, *, requests: int = 1) -> float:
        """Return the seconds until the next try is free; 0 if one is."""
        with self._lock:
            return self._wait_s(login, requests)

    def accepted(self, login: Login | None, camera: str = "") -> None:
        """The camera has let us in: this login may be used as often as needed."""
        with self._lock:
            if login is not None:
                self._accepted.add(login)
                tries = self._tries_of(login)
                self._tries[_user(login)] = deque(each for each in tries if each.camera != camera)

    def not_sent(self, login: Login | None, camera: str = "") -> None:
        """The camera's try failed for another reason: give it back. The tries of other cameras count on."""
        with self._lock:
            tries = self._tries_of(login) if login is not None else deque()
            mine = [each for each in tries if each.camera == camera]
            for each in mine:
                if each.at == mine[-1].at:
                    tries.remove(each)

    def refused(self, login: Login | None, camera: str = "", *, requests: int = 1) -> None:
        """The camera refused this login, perhaps after it was changed."""
        with self._lock:
            if login is None:
                return
            self._accepted.discard(login)
            if not any(each.camera == camera for each in self._tries_of(login)):
                self._note(login, camera, requests)

    def _wait_s(self, login: Login | None, requests: int) -> float:
        if login is None or login in self._accepted:
            return 0.0
        now, tries = time.monotonic(), self._tries_of(login)
        while tries and tries[0].at <= now - WINDOW_S:
            tries.popleft()
        limit = TRIES if login in self._known else TRIES + requests
        left = max(0, limit - requests)  # so many earlier tries leave room for this attempt
        return tries[-left - 1].at + WINDOW_S - now if len(tries) > left else 0.0

    def _note(self, login: Login, camera: str, requests: int) -> None:
        self._known.add(login)
        self._tries_of(login).extend([_Try(time.monotonic(), camera)] * requests)

    def _tries_of(self, login: Login) -> deque[_Try]:
        return self._tries.setdefault(_user(login), deque())


def login_of(source: SourceConfig) -> Login | None:
    """Return the login in a stream's address, None if it has none. May look up the host's name, for up to `RESOLVE_S`.

    It stands before the host, or is among the settings in the address's query or path.
    """
    if not isinstance(source, UrlSource):
        return None
    _, separator, rest = source.url.partition("://")
    user_info, at, where = rest.rpartition("@")
    if not separator or not at or _is_behind_host(user_info):
        in_settings = login_in_settings(source.url)
        if in_settings is None:
            return None
        user_info, where = ":".join(in_settings), rest
    try:
        host = urlsplit(f"//{where}").hostname
    except ValueError:
        host = None
    return (_address(host) if host else where, user_info)


def requests_of(source: SourceConfig) -> int:
    """Return how often FFmpeg sends the login when a camera refuses it.

    If an RTSP address has it among its settings, FFmpeg does not know that it is a login, and asks a second time.
    """
    if not isinstance(source, UrlSource) or not source.url.lower().startswith("rtsp"):
        return 1
    return 1 if login_in_settings(source.url) is None else 2


def without_login(source: SourceConfig) -> UrlSource | None:
    """Return the source with an address without the login; None for one that may hold it anywhere, as a GStreamer pipeline."""
    if not isinstance(source, UrlSource) or source.backend != "ffmpeg":
        return None
    scheme, separator, rest = source.url.partition("://")
    user_info, _, where = rest.rpartition("@")
    address = f"{scheme}{separator}{rest if _is_behind_host(user_info) else where}"
    bare = without_login_in_query(address)
    return None if bare is None else msgspec.structs.replace(source, url=bare)


def _is_behind_host(before_at: str) -> bool:
    """Whether the @ after this text is no end of a login, but belongs to the path or the query."""
    return re.fullmatch(r"[^/?#@:]*(:\d*)?[/?#].*", before_at) is not None


def _user(login: Login) -> tuple[str, str]:
    host, user_info = login
    return host, unquote(user_info.partition(":")[0])


def _address(host: str) -> str:
    """Return one address for all names of a host. This machine has many; IPv4 comes first."""
    if (known := _literal(host)) is not None:
        return known
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return "127.0.0.1"
    try:  # a process: a look-up in this thread could not be ended
        found = subprocess.run(["getent", "ahosts", name], capture_output=True, text=True, timeout=RESOLVE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return name
    addresses = [_literal(line.split()[0]) for line in found.stdout.splitlines() if line.strip()]
    return min((each for each in addresses if each), key=lambda each: ":" in each, default=name)


def _literal(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None) or address
    return "127.0.0.1" if mapped.is_loopback else str(mapped)
