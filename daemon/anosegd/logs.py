"""Logging to stderr: an event `noun.verb` with fields; text at a terminal and in systemd's journal, else JSON lines."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Any, TextIO

DEBUG, INFO = logging.DEBUG, logging.INFO

_logger = logging.getLogger("anosegd")


def set_up(stream: TextIO | None = None, *, level: int = logging.INFO, journal: str | None = None) -> None:
    """Send the daemon's events to `stream` (stderr unless told); called once, by `main`.

    journal: JOURNAL_STREAM from the environment, by which systemd says what stderr was connected to.
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
    """Something happened that an operator may want to know."""
    _logger.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    """Something is amiss, the daemon goes on."""
    _logger.warning(event, extra={"fields": fields})


def error(event: str, *, exception: BaseException | None = None, **fields: Any) -> None:
    """Something failed. exception: its traceback is added, for what no user can have caused."""
    _logger.error(event, extra={"fields": fields}, exc_info=exception)


def is_journal(stream: TextIO, journal: str | None) -> bool:
    """Whether the stream goes into systemd's journal; journal: JOURNAL_STREAM, its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal == f"{status.st_dev}:{status.st_ino}"


def as_error(text: str) -> str:
    """Lines that the journal takes for an error."""
    return "\n".join(f"<3>{line}" for line in text.splitlines())


class TextFormatter(logging.Formatter):
    """`12:00:00.123 WARNING camera.lost camera=top error="..."`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, where there is one, follows."""
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        return f"{clock} {record.levelname:7} {self.event(record)}"

    def event(self, record: logging.LogRecord) -> str:
        """Event, fields and traceback."""
        fields = "".join(f" {key}={_text(value)}" for key, value in _fields(record).items())
        return record.getMessage() + fields + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class JournalFormatter(TextFormatter):
    """`<4>camera.lost camera=top error="..."`: the journal keeps the time, and takes the level from each line's prefix."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, where there is one, follows."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return "\n".join(f"<{priority}>{line}" for line in self.event(record).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, tracebacks included."""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **_fields(record)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {key: value for key, value in fields.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text


class Throttle:
    """Per-frame trouble: every occurrence is counted, at most one line a second is logged. Any thread may call it."""

    def __init__(self, event: str, *, period_s: float = 1.0) -> None:
        self._event = event
        self._period_s = period_s
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._held_back = 0

    def warning(self, **fields: Any) -> None:
        """Log, or count and hold back; the next line says how many were held back."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_at:
                self._held_back += 1
                return
            self._next_at = now + self._period_s
            held_back, self._held_back = self._held_back, 0
        warning(self._event, **fields, more=held_back or None)


class Throttles:
    """One `Throttle` a name, made when it is first needed. One thread."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._made: dict[str, Throttle] = {}

    def of(self, name: str) -> Throttle:
        """The throttle of this name."""
        return self._made.setdefault(name, Throttle(self._event))
