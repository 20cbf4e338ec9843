"""Logging to stderr: an event `noun.verb` with fields; text for a person at a terminal, JSON lines for everything else."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Any, TextIO

DEBUG, INFO = logging.DEBUG, logging.INFO

_logger = logging.getLogger("anosegd")


def set_up(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Send the daemon's events to `stream` (stderr unless told); called once, by `main`."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
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


class TextFormatter(logging.Formatter):
    """`12:00:00.123 WARNING camera.lost camera=top error="..."`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, where there is one, follows."""
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {key}={_text(value)}" for key, value in _fields(record).items())
        line = f"{clock} {record.levelname:7} {record.getMessage()}{fields}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


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
