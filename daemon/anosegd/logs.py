"""Logs to stderr: an event `noun.verb` with fields, as text at a terminal and in systemd's journal, else as JSON lines.

No line contains a password of an address, whatever is logged.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO

from anoseg_engines.files import shown_json
from anoseg_engines.passwords import mask_passwords

DEBUG, INFO = logging.DEBUG, logging.INFO

_logger = logging.getLogger("anosegd")


def set_up(stream: TextIO | None = None, *, level: int = logging.INFO, journal: str | None = None) -> None:
    """Send the daemon's events to a stream. Called once, by `main`.

    Args:
        stream: stderr by default.
        level: The lowest level to log.
        journal: JOURNAL_STREAM from the environment; it identifies the stream that leads to systemd's journal.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        TextFormatter() if stream.isatty() else JournalFormatter() if is_journal(stream, journal) else JsonFormatter()
    )
    _logger.handlers[:] = [handler]
    _logger.setLevel(level)
    _logger.propagate = False


def info(event: str, **fields: Any) -> None:
    """Log a normal event."""
    _logger.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    """Log a problem that the daemon survives."""
    _logger.warning(event, extra={"fields": fields})


def error(event: str, *, exception: BaseException | None = None, **fields: Any) -> None:
    """Log a failure; with `exception`, add its traceback. For faults that no user can have caused."""
    _logger.error(event, extra={"fields": fields}, exc_info=exception)


def is_journal(stream: TextIO, journal: str | None) -> bool:
    """Return whether the stream leads to systemd's journal, whose device and inode JOURNAL_STREAM gives (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{status.st_dev}:{status.st_ino}"


def as_error(text: str) -> str:
    """Mark lines as errors for systemd's journal."""
    return "\n".join(f"<3>{line}" for line in text.splitlines())


class TextFormatter(logging.Formatter):
    """`12:00:00.123 WARNING camera.lost camera=top error="..."`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by a traceback if there is one."""
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        return f"{clock} {record.levelname:7} {self.event(record)}"

    def event(self, record: logging.LogRecord) -> str:
        """Event, fields and traceback."""
        fields = "".join(f" {key}={_text(value)}" for key, value in _fields(record).items())
        return record.getMessage() + fields + ("\n" + _traceback(self, record) if record.exc_info else "")


class JournalFormatter(TextFormatter):
    """`<4>camera.lost camera=top error="..."`. The journal adds the time and reads the level from the prefix."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by a traceback if there is one."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return "\n".join(f"<{priority}>{line}" for line in self.event(record).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per line: at, level, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, including any traceback."""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **_fields(record)}
        if record.exc_info:
            line["traceback"] = _traceback(self, record)
        return shown_json(json.dumps(line, ensure_ascii=False))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {key: _masked(value) for key, value in fields.items() if value is not None}


def _masked(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else mask_passwords(str(value))


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    assert record.exc_info is not None
    return mask_passwords(formatter.formatException(record.exc_info))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = str(value)
    if not text.isprintable():  # line ends, and what could change a terminal
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=') else text


class Throttle:
    """Counts events that every frame may cause, and logs at most one line per second. Any thread."""

    def __init__(self, event: str, *, period_s: float = 1.0) -> None:
        self._event = event
        self._period_s = period_s
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._held_back = 0

    def warning(self, **fields: Any) -> None:
        """Log, or only count. The next line says how many were not logged."""
        self._log(warning, fields)

    def info(self, **fields: Any) -> None:
        """As `warning`, for a normal event."""
        self._log(info, fields)

    def _log(self, log: Callable[..., None], fields: dict[str, Any]) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._next_at:
                self._held_back += 1
                return
            self._next_at = now + self._period_s
            held_back, self._held_back = self._held_back, 0
        log(self._event, **fields, more=held_back or None)


class Throttles:
    """Keeps one `Throttle` for each name. Any thread."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._made: dict[str, Throttle] = {}

    def of(self, name: str) -> Throttle:
        """Return the throttle of this name. The first use makes it."""
        return self._made.setdefault(name, Throttle(self._event))
