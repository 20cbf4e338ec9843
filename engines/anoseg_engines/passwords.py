"""Keeps passwords out of messages: shows addresses without them, and masks them in other texts. Pure functions."""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"
_SHORTEST = 3
"""A shorter password is masked in addresses only: in other text, its letters could be any."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://")
"""The bound keeps the time to search a long text proportional to its length."""
_NAMES = r"pass(?:word|wd|phrase)?|pwd?|psw|user-pw|token|secret|api-?key|auth|credentials?"
_SETTING = re.compile(rf"(?i)(?<![a-z])({_NAMES})(\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s&;,'\"]+)")
_USER = re.compile(r"(?i)(?<![a-z])(user(?:name|-id)?|usr|login|account)=(\"[^\"]*\"|'[^']*'|[^\s&;,'\"]*)")
_NEXT_SETTING = re.compile(r"[_&]\w+=")
"""Some cameras have settings in the path, one after the other: user=NAME_password=WORD_channel=1."""
_ENTRY = re.compile(rf"(?i)(['\"])({_NAMES})\1(\s*:\s*)(\"[^\"]*\"|'[^']*'|[^\s,}}\]]+)")
"""A password in a mapping as Python or JSON writes it."""
_LOGIN = re.compile(r"(?m)(?<=[A-Za-z0-9+.-])(?<!\bipc)://?(?!/?@)(?:[^\n]+@(?=[^\s@]|$)|\S+@)")
"""User name and password after a scheme, whose slashes may be reduced to one as in a path. A password may contain spaces.
An ipc socket has a path and no login."""
_LOGIN_WITHOUT_BLANKS = re.compile(r"://\S+@")
_WORD = re.compile(r"[^\s'\"]+")
_BARE_USER_INFO = re.compile(r"(?<![^/:])[^/:]+:[^/]")
"""User name and password in a word, without a scheme before them. The search begins at the start of a name only, because a long
word has too many letters to begin at each."""


def address_of(url: str) -> str:
    """Return a camera's address without user name, password, and anything in its path or query that may be a password.

    A password may contain `/`, `?`, `#` and `@`, so everything up to the last `@` is left out.
    """
    match = _SCHEME.match(url)
    if match is None:
        return mask_passwords(url.rpartition("@")[2])
    rest = url[match.end() :].rpartition("@")[2]
    where, question, _ = rest.partition("?")
    found = _SETTING.search(where)
    if found is not None:
        where = f"{where[: found.start()]}{found[1]}={MASK}"
    return f"{match[1]}://{where}{'?' + MASK if question else ''}"


def passwords_in(url: str) -> list[str]:
    """Return the texts in a camera's address or GStreamer pipeline that must not be shown, the longest first."""
    found: set[str] = set()
    for match in _SCHEME.finditer(url):
        user_info, at, _ = url[match.end() :].rpartition("@")
        if at:
            _, _, password = user_info.partition(":")
            found |= {user_info, password}
    found |= {match[3].strip("\"'") for match in _SETTING.finditer(url)}
    found |= {unquote(text) for text in found}
    return sorted((text for text in found if len(text) >= _SHORTEST), key=len, reverse=True)


def login_in_settings(url: str) -> tuple[str, str] | None:
    """Return user name and password that are settings of an address or pipeline, such as `?user=NAME&pwd=WORD`.

    Return None if there is no password among its settings. A missing user name is empty.
    """
    found, user = _SETTING.search(url), _USER.search(url)
    if found is None:
        return None
    values = (user[2] if user else "", found[3])
    name, password = (_NEXT_SETTING.split(value)[0].strip("\"'") for value in values)
    return name, password


def without_login_in_query(url: str) -> str | None:
    """Return an address without user name and password in its query; None if they cannot be left out."""
    where, question, query = url.partition("?")
    if login_in_settings(where) is not None:
        return None
    kept = "&".join(each for each in query.split("&") if not (_SETTING.match(each) or _USER.match(each)))
    bare = f"{where}{question and kept and '?'}{kept}"
    return bare if login_in_settings(bare) is None else None  # some cameras separate settings by ; or _


def mask_passwords(text: str, url: str = "") -> str:
    """Return a text without passwords: those of `url`, and whatever looks like one in an address.

    Args:
        text: A message, perhaps of a library.
        url: The camera's address or GStreamer pipeline.
    """
    if url and url in text:
        shown = address_of(url) if _SCHEME.match(url) else MASK
        return shown.join(mask_passwords(part, url) for part in text.split(url))
    for password in passwords_in(url):
        text = text.replace(password, MASK)
    end = text.rfind("@") + 1
    if end:  # a login ends at an @; _LOGIN also looks at the character behind it
        logins, text = text[: end + 1], text[end + 1 :]
        logins = (_LOGIN_WITHOUT_BLANKS if url else _LOGIN).sub(f"://{MASK}@", logins)
        text = _WORD.sub(_without_user_info, logins) + text
    text = _ENTRY.sub(rf"\1\2\1\3{MASK}", text)
    return _SETTING.sub(rf"\1\2{MASK}", text)


def _without_user_info(word: re.Match[str]) -> str:
    user_info, at, rest = word[0].rpartition("@")
    found = _BARE_USER_INFO.search(user_info) if at else None
    return word[0] if found is None else f"{user_info[: found.start()]}{MASK}@{rest}"


def is_address(text: str) -> bool:
    """Return whether a text begins like an address (`rtsp://…`), so that it is no path."""
    return _SCHEME.match(text) is not None


def has_login(text: str) -> bool:
    """Return whether an address in the text contains a user name or a password."""
    return any(text[found.end() :].rpartition("@")[0] for found in _SCHEME.finditer(text) if found[1].lower() != "ipc")
