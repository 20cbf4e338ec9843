"""A page accounts for every number once, whatever was committed, lost or deleted before."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.journal_tools import gapless

from anosegd.journal import Entry, JournalError, JournalReader, Range, VerdictId
from anosegd.journal import numbers as journal_numbers
from anosegd.journal import store as journal_store
from anosegd.journal.numbers import Numbers
from anosegd.journal.store import Store
from anosegd.journal.store_file import create_store, open_store
from anosegd.journal.transaction import Transaction
from anosegd.journal.types import merged, missing

ID = "0123456789abcdef" * 2


class Model:
    """What the file should hold for each number: a header, `void`, `gone`, or nothing yet."""

    def __init__(self, first: int) -> None:
        self.state: dict[int, bytes | str] = dict.fromkeys(range(1, first), "void")
        self.next = first
        self.in_flight: list[int] = []

    def give(self, count: int) -> list[int]:
        seqs = list(range(self.next, self.next + count))
        self.next += count
        return seqs

    @property
    def settled_to(self) -> int:
        return min(self.in_flight, default=max(self.state, default=0) + 1) - 1


def entry(seq: int, size: int) -> Entry:
    return Entry(ID, seq, "top", "PASS", seq, seq, b"%d " % seq + b"x" * size)


def write(store: Store, model: Model, entries: list[Entry], voids: list[int]) -> None:
    in_flight = [seq for seq in model.in_flight if seq not in voids and seq not in {e.seq for e in entries}]
    ranges = merged([Range(seq, seq) for seq in voids])
    store.write(Transaction(entries=entries, voids=ranges, barrier=min(in_flight, default=None)), kept_ns=model.next)
    model.state.update({e.seq: e.header for e in entries} | dict.fromkeys(voids, "void"))
    model.in_flight = in_flight


def do(store: Store, model: Model, step: str, count: int, size: int) -> Store:
    if step == "commit":
        write(store, model, [entry(seq, size) for seq in model.give(count)], [])
    elif step == "take":  # numbers given out and not submitted yet
        model.in_flight += model.give(count)
    elif step == "settle":
        settled, model_rest = model.in_flight[:count], model.in_flight[count:]
        write(store, model, [entry(seq, size) for seq in settled if seq % 2], [seq for seq in settled if not seq % 2])
        assert model.in_flight == model_rest
    elif step == "amend":
        seqs = [seq for seq, kept in model.state.items() if isinstance(kept, bytes)][-count:]
        amends = [Entry(ID, seq, "top", "UNKNOWN", seq, seq, b"amended") for seq in seqs]
        store.write(Transaction(amends=amends, barrier=min(model.in_flight, default=None)), kept_ns=model.next)
        model.state.update(dict.fromkeys(seqs, b"amended"))
    elif step == "restart":
        store.close()
        store = open_store(store.path, sync="normal")
        reserved_to = model.next - 1 + count
        holes = store.unsettled(reserved_to)
        assert holes == merged([Range(n, n) for n in range(1, reserved_to + 1) if n not in model.state])
        model.in_flight = []
        write(store, model, [], [n for a, b in holes for n in range(a, b + 1)])
        model.next = reserved_to + 1
    else:
        store.expire(before_kept_ns=model.next // 2, max_bytes=1 << 30)
        model.state.update(dict.fromkeys(range(1, store.extent.first_kept), "gone"))
    return store


STEP = st.tuples(
    st.sampled_from(["commit", "commit", "take", "settle", "amend", "restart", "expire"]),
    st.integers(1, 8),
    st.integers(0, 3000),
)
QUESTION = st.tuples(
    st.integers(1, 90), st.none() | st.integers(0, 90), st.integers(1, 12), st.integers(1, 9000), st.none() | st.integers(1, 60)
)


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # no disk needed
    try:
        yield path
    finally:
        shutil.rmtree(path)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([1, 5]), st.lists(STEP, max_size=14), st.lists(QUESTION, min_size=1, max_size=12))
def test_a_page_accounts_for_every_number_once(
    first: int, steps: list[tuple[str, int, int]], questions: list[tuple[int, int | None, int, int, int | None]]
) -> None:
    """Random histories, read at random, agree with a model that has one state for each number."""
    with folder() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_store, "EXPIRE_ROWS", 5)
        store, model = create_store(path / "j.db", journal_id=ID, first=first, sync="normal", now_ns=0), Model(first)
        try:
            for step in steps:
                store = do(store, model, *step)
            assert store.extent.settled_to == model.settled_to
            for question in questions:
                ask(store, model, *question)
        finally:
            store.close()


def ask(store: Store, model: Model, first: int, last: int | None, limit: int, max_bytes: int, stop_before: int | None) -> None:
    with JournalReader(store.path, stop_before=lambda: stop_before) as reader:
        page = reader.page(first, last, limit=limit, max_bytes=max_bytes)
        found: dict[int, bytes | str] = {e.seq: e.header for e in page.entries}
        for kind, ranges in (("void", page.voids), ("gone", [page.gone] if page.gone else [])):
            found.update((seq, kind) for a, b in ranges for seq in range(a, b + 1))
        assert gapless(page, first)
        assert found == {seq: model.state[seq] for seq in range(first, page.next)}
        assert page.last_committed == model.settled_to
        end = min(n for n in (last, model.settled_to, stop_before and stop_before - 1) if n is not None)
        assert len(page.entries) <= limit
        assert len(page.entries) <= 1 or sum(len(e.header) for e in page.entries) <= max_bytes
        if page.next <= end:  # it stopped early, so one of its limits was reached
            headers = [*page.entries, *reader.page(page.next, limit=1).entries]
            assert len(page.entries) == limit or sum(len(e.header) for e in headers) > max_bytes
        assert page.next <= max(first, end + 1)


NUMBERS = st.lists(st.integers(1, 40).flatmap(lambda a: st.integers(a, 45).map(lambda b: Range(a, b))), max_size=8)


@given(NUMBERS, st.integers(1, 45), st.integers(0, 45))
def test_ranges_are_sets_of_numbers(ranges: list[Range], first: int, last: int) -> None:
    """`merged` keeps the numbers, in separate ascending ranges. `missing` gives exactly the other numbers."""

    def numbers(of: list[Range]) -> list[int]:
        return [n for a, b in of for n in range(a, b + 1)]

    assert numbers(merged(ranges)) == sorted(set(numbers(ranges)))
    assert all(a.last + 1 < b.first for a, b in zip(merged(ranges), merged(ranges)[1:], strict=False))
    assert numbers(missing(ranges, first, last)) == sorted(set(range(first, last + 1)) - set(numbers(ranges)))


STEPS = ["give", "give", "give", "submit", "discard", "commit", "reserve", "lose", "open"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_each_number_is_given_out_once_or_declared_void(steps: list[str]) -> None:
    """Identities are unique and rise, and each number of a file is given out or void, whatever fails in between."""
    numbers = Numbers(0)
    given: list[VerdictId] = []
    discarded: set[VerdictId] = set()
    reserved_to = 0
    accounted: dict[str, tuple[int, int, list[Range]]] = {}  # by file: before its first number, its last number, its voids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_numbers, "RESERVED_AHEAD", 5)
        patch.setattr(journal_numbers, "RESERVE_AFTER", 2)
        for n, step in enumerate(["open", *steps]):
            if step == "give":
                given.append(numbers.next_id())
                assert given[-1].journal_id == numbers.unsaved_id or given[-1].seq <= reserved_to
            elif step in ("submit", "discard") and given and given[-1].journal_id == numbers.journal_id:
                with suppress(JournalError):  # claimed before
                    numbers.claim(given[-1:])
                    if step == "discard":
                        numbers.void([given[-1].seq])
                        discarded.add(given[-1])
                with pytest.raises(JournalError):
                    numbers.claim(given[-1:])
            elif step == "commit":
                claimed = numbers.claimed(given)
                numbers.settle(claimed)
                assert not numbers.claimed(given)
                assert not any(seq in numbers.pending for seq in claimed)
            elif step == "reserve" and (to := numbers.reserve_next()) is not None:
                assert numbers.highest < to <= numbers.highest + 5
                reserved_to = numbers.reserved_to = to
            elif step == "lose":
                numbers.end()
            elif step == "open":
                numbers.begin(f"{n}", reserved_to, [])
                accounted[f"{n}"] = (reserved_to, 0, [])
            if numbers.journal_id is not None:
                used_to = accounted[numbers.journal_id][0]
                accounted[numbers.journal_id] = (used_to, numbers.highest, list(numbers.voids))
    seqs = [each.seq for each in given]
    assert seqs == sorted(set(seqs))
    for journal_id, (used_to, highest, voids) in accounted.items():
        used = {seq for each, seq in given if each == journal_id}
        declared = {seq for a, b in voids for seq in range(a, b + 1)}
        assert used | declared == set(range(used_to + 1, highest + 1))
        assert used & declared == {seq for each, seq in discarded if each == journal_id}
