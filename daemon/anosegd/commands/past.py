"""Reads past verdicts for a command: from the running station, or from its journal's file while it is down."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from anoseg_engines.errors import PublishError
from anosegd.client import Event, Verdict
from anosegd.commands.connection import connect, endpoints_of, refuse_if_down
from anosegd.config import load_config
from anosegd.control.feedback import shown_mark
from anosegd.journal import JournalReader, offline_reader
from anosegd.wire import utc


class Past(Protocol):
    """Gives past verdicts. `anosegd.client.Client` does, and `JournalFile`."""

    def replay(self, first: int, last: int | None = None) -> Iterator[Verdict]:
        """Yield committed verdicts in order, up to `last` or the newest."""

    def first_seq_since(self, time_ns: int) -> int:
        """Return the first number whose verdict was committed at or after `time_ns` (Unix time)."""

    def marks(self) -> Iterator[dict[str, Any]]:
        """Yield what people said about parts, the newest parts first, as `anosegd.client.Client.marks`."""

    def changes(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest changes of thresholds and bundles, the oldest of them first."""


class JournalFile:
    """Gives what the file of a station's journal holds."""

    def __init__(self, reader: JournalReader, on_event: Callable[[Event], None]) -> None:
        self._reader, self._on_event = reader, on_event

    def replay(self, first: int, last: int | None = None) -> Iterator[Verdict]:
        """As `Past.replay`.

        Raises:
            JournalError: The file cannot be read.
        """
        while last is None or first <= last:
            page = self._reader.page(first, last)
            if page.gone is not None:
                self._on_event(Event("gone", "older than the journal keeps", *page.gone))
            for void in page.voids:
                self._on_event(Event("void", "no verdict was committed under these numbers", *void))
            found = self._reader.marks(page.entries[0].seq, page.entries[-1].seq) if page.entries else []
            marks = {mark.seq: shown_mark(mark) for mark in found}
            for entry in page.entries:
                yield Verdict(json.loads(entry.header), replayed=True, mark=marks.get(entry.seq))
            if page.next <= first:
                return
            first = page.next

    def first_seq_since(self, time_ns: int) -> int:
        """As `Past.first_seq_since`."""
        return self._reader.find_since(time_ns)

    def marks(self) -> Iterator[dict[str, Any]]:
        """As `Past.marks`."""
        found = self._reader.marks(1, None, newest_first=True)
        journal_id = self._reader.page(1, limit=1).journal_id
        return ({"journal_id": journal_id, **shown_mark(mark)} for mark in found)

    def changes(self, limit: int = 20) -> list[dict[str, Any]]:
        """As `Past.changes`."""
        found = []
        for number, change in self._reader.numbered_changes(limit)[1]:
            fields = asdict(change)
            found.append({"number": number, "at": utc(fields.pop("at_ns")), **fields})
        return found


@contextmanager
def open_past(options: argparse.Namespace, on_event: Callable[[Event], None] = lambda event: None) -> Iterator[Past]:
    """Open the past of the station that the command names, for the length of a `with` block.

    Raises:
        ConfigError: CONFIG is invalid, or there is no journal at its path.
        PublishError: The station is down and its journal is not known, or it does not answer.
        JournalError: The journal's file cannot be read.
    """
    endpoints = endpoints_of(options)
    config = load_config(options.config) if options.config is not None else None
    if config is not None and config.journal is not None and endpoints.is_down:
        sys.stderr.write(f"anosegd: the station is down; read from {config.journal.path}\n")
        with offline_reader(config.journal) as reader:
            yield JournalFile(reader, on_event)
        return
    if endpoints.control is None:
        if endpoints.is_down:
            raise PublishError("the station is down, and its journal is not known", hint="give CONFIG, with `journal` in it")
        what = "the station's journal cannot be asked: no control socket is known"
        raise PublishError(what, hint="set `control` in its configuration, or give --control")
    refuse_if_down(endpoints)
    with connect(endpoints, on_event=on_event) as client:
        yield client
