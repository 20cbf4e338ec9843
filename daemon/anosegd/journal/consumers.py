"""Keeps how far each durable consumer has come. Call with the journal's lock held."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anosegd.journal.types import JournalError

MAX_CONSUMERS = 64
CONSUMER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Consumers:
    """The cursors of a journal's durable consumers."""

    def __init__(self) -> None:
        self._cursors: dict[str, int] = {}
        self._moved: set[str] = set()  # not written yet

    def begin(self, cursors: dict[str, int]) -> None:
        """Start with the cursors of a file that was opened."""
        self._cursors = cursors
        self._moved.clear()

    def cursor(self, name: str) -> int | None:
        """Return a consumer's cursor; None if it is not known.

        Raises:
            JournalError: The name is invalid.
        """
        _check_name(name)
        return self._cursors.get(name)

    def ack(self, name: str, seq: int) -> None:
        """Move a consumer's cursor, but never back.

        Raises:
            JournalError: The name is invalid, or there are too many consumers.
        """
        _check_name(name)
        if name not in self._cursors and len(self._cursors) >= MAX_CONSUMERS:
            what = f"{name}: there are {MAX_CONSUMERS} consumers already"
            raise JournalError(what, hint="forget a consumer that is no longer used")
        self._cursors[name] = max(seq, self._cursors.get(name, 0))
        self._moved.add(name)

    def forget(self, name: str) -> None:
        """Remove a consumer."""
        if self._cursors.pop(name, None) is not None:
            self._moved.add(name)

    def take(self) -> dict[str, int | None]:
        """Return the cursors to write; None removes one. They count as written, unless they are put back."""
        moved = {name: self._cursors.get(name) for name in self._moved}
        self._moved.clear()
        return moved

    def put_back(self, names: Iterable[str]) -> None:
        """Note that these were not written."""
        self._moved.update(names)


def _check_name(name: str) -> None:
    if not CONSUMER_NAME.fullmatch(name):
        hint = "use 1 to 64 letters, digits, '.', '_' or '-'"
        raise JournalError(f"{name[:80]!r} is not a valid consumer name", hint=hint)
