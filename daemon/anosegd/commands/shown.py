"""Shows text from outside and moments to a person. Pure functions.

Part ids, file names and reasons come from anywhere: they may hold escape sequences for the terminal, line ends, or thousands of
letters.
"""

from __future__ import annotations

from datetime import datetime

LONGEST = 400


def shown(text: str, longest: int = LONGEST) -> str:
    """Return text that fits on one line of a terminal and changes nothing there.

    A control character is shown as its picture (␊, ␛), another character without a picture as its code (‹U+202E›). Of a longer
    text, the middle is left out: ids that differ do so at their ends more often than in the middle.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _picture(ord(c)) for c in text)
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[-(longest - 1 - head) :]}"


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return chr(0x2421) if code == 0x7F else f"‹U+{code:04X}›"


def local_time(utc: str, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a moment of a header in local time."""
    return moment_of(utc).astimezone().strftime(form)


def moment_of(utc: str) -> datetime:
    """Return a moment of a header, such as 2026-11-22T06:00:00.000000Z."""
    return datetime.fromisoformat(utc.replace("Z", "+00:00"))
