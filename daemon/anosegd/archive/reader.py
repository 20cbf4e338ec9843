"""Asks one station for what is new, on the thread "station NAME". It is a client of the station like any other.

A round asks for one page of the journal, has it stored, and acknowledges it. The next page is asked for only then.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import zmq

from anosegd.archive.config import DEFAULT_CONSUMER, ArchiveConfig
from anosegd.archive.rows import ArchiveEvent, Batch, PageError, batch_of_page, change_row, journal_of, note_row
from anosegd.archive.store import OtherStationError, Position, Seen
from anosegd.archive.writer import NotStoredError, Writer
from anosegd.client import BUSY_S, Client, ClientError, Key, NoAnswerError, RefusedError
from anosegd.worker import Worker

PAGE = 1000
"""Verdicts on a page. A station gives at most 256 KiB at a time, about 300 of them."""
MOST_PAGES = 32
"""Pages in memory at the same time, of all stations."""
NOTES_EVERY, STATUS_EVERY = 5, 10
"""For one round in so many, if the station is idle, it is also asked for notes and changes, and for its state."""
ACK_EVERY_S = 2.0
WAIT_S = 0.5
AFTER_TROUBLE_S = 5.0


NOT_UNDERSTOOD = (
    PageError,
    ClientError,
    zmq.ZMQError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What an answer leads to that no station gives. Another program may answer at its address."""


class _SetBackError(Exception):
    """The journal ends before the archive's cursor: it was put back from a copy."""


class _StoppedError(Exception):
    """The thread was asked to stop while it waited for an answer."""


class StationReader(Worker):
    """Archives one station."""

    def __init__(
        self, name: str, config: ArchiveConfig, key: Key | None, writer: Writer, pages: threading.BoundedSemaphore
    ) -> None:
        """Prepare.

        Args:
            name: The station's name in the configuration.
            config: The archive's configuration.
            key: The archive's key at this station, where it asks for one.
            writer: Stores what is read.
            pages: Bounds how many pages are in memory.
        """
        super().__init__(f"station {name}")
        self.name = name
        self._config, self._key, self._writer, self._pages = config, key, writer, pages
        self._control = config.stations[name].control
        self._consumer = DEFAULT_CONSUMER if key is None else key.name
        self._stopping = threading.Event()
        self._trouble: str | None = None  # the kind of event that was noted last
        self._heard_at = time.monotonic()
        self._status_at = self._notes_at = self._acked_at = -1e9
        self._acked: tuple[str | None, int] = (None, 0)
        self._replaced = False
        self._events: list[ArchiveEvent] = []  # not stored yet
        self._station_run: tuple[str, str] | None = None  # the station's program and its start
        self._asks_notes = self._acknowledges = True
        self._journal_failing = False

    @property
    def is_heard(self) -> bool:
        """Whether the station is archived without trouble."""
        return self._trouble is None and self._status_at > 0

    def stop(self) -> None:
        """Ask the thread to end. Any thread."""
        self._stopping.set()

    # ---- the thread

    def work(self) -> None:
        """Archive until asked to stop."""
        with Client(control=self._control, key=self._key, on_wait=self._on_wait) as client:
            while not self._stopping.is_set():
                self.answer()
                position = self._writer.position(self.name)
                if position is None:  # nothing is read that cannot be stored
                    self._heard_at = time.monotonic()
                    self._stopping.wait(WAIT_S)
                    continue
                try:
                    self._pause(self._try_round(client, position))
                except _StoppedError:
                    return

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping.is_set() and (left := end - time.monotonic()) > 0:
            self.answer()
            self._stopping.wait(min(left, WAIT_S))

    def _on_wait(self) -> None:
        self.answer()
        if self._stopping.is_set():
            raise _StoppedError

    def _try_round(self, client: Client, position: Position) -> float:
        """Archive what one answer brings. Returns how long to wait before the next round."""
        try:
            more = self._round(client, position)
        except NotStoredError:
            return WAIT_S
        except NoAnswerError:
            self._note_silence()
            return 0.0
        except RefusedError as error:
            if error.code == "busy":
                return BUSY_S
            self._note_trouble(error.code, error.message)
            return AFTER_TROUBLE_S
        except OtherStationError as error:
            why = f"either {self.name} and {error.other} are one station, or their addresses were exchanged"
            detail = f"the station at {self._control} is archived as {error.other}: {why}. Correct the configuration"
            self._note_trouble("other_station", detail)
            return AFTER_TROUBLE_S
        except _SetBackError as error:
            self._note_trouble("journal_set_back", str(error))
            return AFTER_TROUBLE_S
        except NOT_UNDERSTOOD as error:
            self._note_trouble("not_understood", f"the answer of the station cannot be used: {error}")
            return AFTER_TROUBLE_S
        self._note_end_of_trouble()
        pause_s = 0.0 if more else self._config.poll_s
        self._heard_at = time.monotonic() + pause_s  # until then it is not asked, and cannot be silent
        return pause_s

    def _round(self, client: Client, position: Position) -> bool:
        """Archive a page, and from time to time notes and changes. Return whether there may be more now."""
        now = time.monotonic()
        if now - self._status_at > STATUS_EVERY * self._config.poll_s:
            self._see(client.status())
            self._status_at = now
        self._acknowledge(client, position)
        with self._page_slot():
            page = client.request("replay", **{"from": position.cursor + 1}, limit=PAGE)
            self._heard_at = time.monotonic()
            if (journal_id := journal_of(page)) != position.journal_id:
                self._writer.begin_journal(self.name, journal_id, position)
                self._replaced = position.journal_id is not None
                return True
            if (last := int(page["last"])) < position.cursor:
                detail = f"the journal ends at {last}, but was archived to {position.cursor}: it was put back from a copy"
                raise _SetBackError(f"{detail}. The numbers in between are used again, and these verdicts are not archived")
            new = position.cursor == 0 and not self._replaced
            batch = batch_of_page(self.name, page, position.cursor + 1, new=new)
            batch.events += self._events
            if not batch.is_empty:
                position = self._writer.store(batch)
                self._events = []
        if batch.first < batch.next:
            self._acknowledge(client, position)
            if batch.next <= int(page["last"]):
                return True
        if self._asks_notes and now - self._notes_at > NOTES_EVERY * self._config.poll_s:
            if self._archive_notes(client, position):
                return True
            self._notes_at = now
        return False

    def _page_slot(self) -> _Slot:
        while not self._pages.acquire(timeout=0.1):
            self._on_wait()
        return _Slot(self._pages)

    def _archive_notes(self, client: Client, position: Position) -> bool:
        """Archive feedback and changes. Return whether there may be more."""
        assert position.journal_id is not None
        try:
            said = client.request("notes", after=position.note_cursor)
            changed = client.request("changes", after=position.change_cursor, limit=200)
        except RefusedError as error:
            if error.code != "bad_request":
                raise
            self._asks_notes = False
            detail = "the station's program is older and does not give feedback and changes: update it"
            self._events.append(ArchiveEvent("no_notes", True, detail))
            return False
        if not said["journal_id"] == changed["journal_id"] == position.journal_id:
            return True
        batch = Batch(self.name, position.journal_id, position.cursor + 1, position.cursor + 1)
        batch.notes = [note_row(position.journal_id, note) for note in said["notes"]]
        batch.changes = [change_row(self.name, position.journal_id, change) for change in changed["changes"]]
        batch.note_cursor = max((note["number"] for note in said["notes"]), default=None)
        batch.change_cursor = max((change["number"] for change in changed["changes"]), default=None)
        if batch.is_empty:
            return False
        self._writer.store(batch)
        return True

    def _acknowledge(self, client: Client, position: Position) -> None:
        """Tell the station what is committed. It is for people who look at the station: the archive has its own cursor."""
        wanted = (position.journal_id, position.cursor)
        if (
            not self._acknowledges
            or position.journal_id is None
            or wanted == self._acked
            or time.monotonic() - self._acked_at < ACK_EVERY_S
        ):
            return
        self._acked_at = time.monotonic()
        try:
            client.request("ack", name=self._consumer, journal_id=position.journal_id, seq=position.cursor)
        except RefusedError as error:
            if error.code not in ("other_journal", "busy"):
                self._acknowledges = False
                self._events.append(ArchiveEvent("not_acknowledged", True, error.message))
        self._acked = wanted

    # ---- what is noted

    def _see(self, state: dict[str, Any]) -> None:
        self._heard_at = time.monotonic()
        if (run := (state["version"], state["run_id"])) != self._station_run:  # it may have been updated
            self._station_run, self._asks_notes, self._acknowledges = run, True, True
        journal = state.get("journal") or {}
        seen = Seen(self.name, state["station"], state["version"], state["state"], journal.get("last_committed"), True)
        self._writer.see(seen)
        failing = bool(journal) and not journal["working"]
        if failing and not self._journal_failing:
            detail = f"verdicts of this time are not in the journal: {journal['last_error']}"
            self._events.append(ArchiveEvent("journal_failing", True, detail))
        elif self._journal_failing and not failing:
            self._events.append(ArchiveEvent("heard", False, "no longer: journal_failing"))
        self._journal_failing = failing

    def _note_silence(self) -> None:
        silent_s = time.monotonic() - self._heard_at
        if silent_s < self._config.silent_after_s:
            return
        why = "is it running, and can this machine reach it? Or does it ask for a key?"
        if self._key is not None:
            why = f"is it running, and can this machine reach it? Its log says if it refuses the key {self._key.name}"
        if self._trouble != "silent":
            self._writer.see(Seen(self.name, None, None, "silent", None, False))
        self._note_trouble("silent", f"{self._control}: no answer for {silent_s:.0f} s: {why}")

    def _note_trouble(self, kind: str, detail: str) -> None:
        """Note what is wrong with the station, once as long as it stays so."""
        if self._trouble == kind:
            return
        self._trouble = kind
        self._events.append(ArchiveEvent(kind, True, detail))
        self._store_events()

    def _note_end_of_trouble(self) -> None:
        if self._trouble is not None:
            self._events.append(ArchiveEvent("heard", False, f"no longer: {self._trouble}"))
            self._trouble = None
            self._status_at = -1e9
            self._store_events()

    def _store_events(self) -> None:
        """Store events without a page; what cannot be stored now goes with the next page."""
        try:
            self._writer.store(Batch(self.name, events=list(self._events)))
        except NotStoredError:
            return
        self._events = []


class _Slot:
    """A page that is in memory, for the length of a `with` block."""

    def __init__(self, pages: threading.BoundedSemaphore) -> None:
        self._pages = pages

    def __enter__(self) -> None:
        """The slot was taken before."""

    def __exit__(self, *_: object) -> None:
        self._pages.release()
