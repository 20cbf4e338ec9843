"""Moments that people type, also on the two days on which clocks are changed, and the periods between them."""

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

import pytest

from anoseg_engines.errors import ConfigError
from anosegd.commands import moments
from anosegd.commands.moments import moment, period_of


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets what time it is in Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield lambda text: monkeypatch.setattr(moments, "now", lambda: datetime.fromisoformat(text).astimezone(timezone.utc))
    monkeypatch.undo()
    time.tzset()


def period(since: str | None, until: str | None = None) -> str:
    """A period in local time."""
    found = period_of(moment(since) if since else None, moment(until) if until else None)
    return " ".join("…" if ns is None else _local(ns) for ns in found)


def _local(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, timezone.utc).astimezone().isoformat(timespec="minutes")


@pytest.mark.parametrize(
    ("now", "since", "until", "expected"),
    [
        # the night shift, asked for in the morning, in the evening, and while it is at work
        ("2026-11-28T07:00+01:00", "22:00", "06:00", "2026-11-27T22:00+01:00 2026-11-28T06:00+01:00"),
        ("2026-11-28T23:30+01:00", "22:00", "06:00", "2026-11-28T22:00+01:00 2026-11-29T06:00+01:00"),
        ("2026-11-28T02:00+01:00", "22:00", "6:00", "2026-11-27T22:00+01:00 2026-11-28T06:00+01:00"),
        ("2026-11-28T15:00+01:00", "06:00", "14:00", "2026-11-28T06:00+01:00 2026-11-28T14:00+01:00"),
        ("2026-11-28T22:00+01:00", "22:00", "22:00", "2026-11-28T22:00+01:00 2026-11-29T22:00+01:00"),
        ("2026-11-28T15:00+01:00", "16:00", None, "2026-11-27T16:00+01:00 …"),
        ("2026-11-28T15:00+01:00", None, "16:00", "… 2026-11-27T16:00+01:00"),
        ("2026-11-28T15:00+01:00", "22:00", "24:00", "2026-11-27T22:00+01:00 2026-11-28T00:00+01:00"),
        ("2026-11-28T15:00+01:00", "8h", "30m", "2026-11-28T07:00+01:00 2026-11-28T14:30+01:00"),
        ("2026-11-28T15:00+01:00", "2026-11-20", "06:00", "2026-11-20T00:00+01:00 2026-11-20T06:00+01:00"),
        ("2026-11-28T15:00+01:00", "2026-11-20 22:00", "2026-11-20T24:00", "2026-11-20T22:00+01:00 2026-11-21T00:00+01:00"),
        ("2026-11-28T15:00Z", "2026-07-01T06:00Z", "2026-07-01T06:00-0500", "2026-07-01T08:00+02:00 2026-07-01T13:00+02:00"),
        # the night in which clocks are set forward: 02:00 to 03:00 does not exist, the shift has seven hours
        ("2026-03-29T07:00+02:00", "22:00", "06:00", "2026-03-28T22:00+01:00 2026-03-29T06:00+02:00"),
        ("2026-03-29T07:00+02:00", "22:00", "02:30", "2026-03-28T22:00+01:00 2026-03-29T03:00+02:00"),
        ("2026-03-29T07:00+02:00", "02:30", "06:00", "2026-03-29T03:00+02:00 2026-03-29T06:00+02:00"),
        ("2026-03-29T03:10+02:00", "02:59", None, "2026-03-29T03:00+02:00 …"),
        ("2026-03-29T12:00+02:00", "12h", None, "2026-03-28T23:00+01:00 …"),
        ("2026-04-01T12:00+02:00", "2026-03-29T02:30", "2026-03-29T03:30", "2026-03-29T03:00+02:00 2026-03-29T03:30+02:00"),
        # the night in which clocks are set back: 02:00 to 03:00 comes twice, the shift has nine hours
        ("2026-10-25T07:00+01:00", "22:00", "06:00", "2026-10-24T22:00+02:00 2026-10-25T06:00+01:00"),
        ("2026-10-25T07:00+01:00", "22:00", "02:30", "2026-10-24T22:00+02:00 2026-10-25T02:30+02:00"),
        ("2026-10-25T07:00+01:00", "02:30", "06:00", "2026-10-25T02:30+02:00 2026-10-25T06:00+01:00"),
        ("2026-10-25T02:15+01:00", "02:30", None, "2026-10-25T02:30+02:00 …"),
        ("2026-10-25T02:15+02:00", "02:30", None, "2026-10-24T02:30+02:00 …"),
        ("2026-10-26T12:00Z", "2026-10-25T02:30+01:00", "2026-10-25T03:00", "2026-10-25T02:30+01:00 2026-10-25T03:00+01:00"),
    ],
)  # fmt: skip
def test_periods(at: Callable[[str], None], now: str, since: str | None, until: str | None, expected: str) -> None:
    """A time of day is the last one that was, and as the end of a period the first one after its beginning."""
    at(now)
    assert period(since, until) == expected


@pytest.mark.parametrize("clock", ["00:00", "01:59", "02:00", "02:30", "03:00", "23:59"])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25", "2026-11-28"])
def test_a_shift_ends_where_the_next_begins(at: Callable[[str], None], day: str, clock: str) -> None:
    """Whatever the hour and the day, the end of one period is the beginning of the next: no part is in both or in none."""
    at(f"{day}T23:59:30+01:00" if day != "2026-03-29" else f"{day}T23:59:30+02:00")
    ends = period_of(moment(f"{day}T00:00" if clock != "00:00" else "2026-01-01"), moment(f"{day}T{clock}")).until
    assert ends == period_of(moment(f"{day}T{clock}"), None).since == period_of(moment(clock), None).since


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "6", "600", "25:00", "24:01", "6:60", "06:00:61", "-8h", "8", "8 hours", "1.5h", "22.11.2026", "11/22/2026"),
        *(
            "2026-11-31",
            "2026-13-01",
            "2026-11-22T",
            "2026-11-22T6",
            "2026-11-22T06:00+1",
            "20261122",
            "2026-W48",
            "0001-01-01",
        ),
        *("9999-12-31", "١٢:٠٠", "06:00\n07:00", "now-8h", "2026-11-22T06:00+25:00"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_forms(at: Callable[[str], None], text: str) -> None:
    """The message quotes what was typed and shows the forms."""
    at("2026-11-28T15:00+01:00")
    with pytest.raises(argparse.ArgumentTypeError, match=r"22:00 \(the last one that was\), 8h or 30m \(ago\)") as caught:
        moment(text)
    assert text.strip() in str(caught.value)


def test_a_period_that_ends_before_it_begins_is_refused(at: Callable[[str], None]) -> None:
    """Both moments are named as they were understood: an empty file would look like a shift without parts."""
    at("2026-11-28T15:00+01:00")
    with pytest.raises(ConfigError, match=r"--until 2026-11-21 \(2026-11-21 00:00:00\+01:00\) is not after --since 8h"):
        period_of(moment("8h"), moment("2026-11-21"))


def test_a_period_that_the_change_to_summer_time_skips_is_refused(at: Callable[[str], None]) -> None:
    """It has no parts. A whole day until the next 03:00 would be what nobody asked for; the same time twice is a day."""
    at("2026-03-29T07:00+02:00")
    for since, until in (("02:30", "03:00"), ("02:00", "02:59"), ("02:00", "03:00")):
        with pytest.raises(ConfigError, match=f"--until {until}.*is not after --since {since}") as caught:
            period_of(moment(since), moment(until))
        assert "change to summer time" in caught.value.hint
    assert period("03:00", "03:00") == "2026-03-29T03:00+02:00 2026-03-30T03:00+02:00"


@pytest.mark.parametrize(("since", "until"), [("2026-11-22", "2026-11-22T00:00"), ("22:00", "2026-11-27T22:00")])
def test_an_empty_period_is_put_down_to_summer_time_only_where_that_is_so(
    at: Callable[[str], None], since: str, until: str
) -> None:
    """The same moment in two forms: the hint says how to write a period."""
    at("2026-11-28T15:00+01:00")
    with pytest.raises(ConfigError, match="is not after") as caught:
        period_of(moment(since), moment(until))
    assert "summer time" not in caught.value.hint


def test_any_time_ago_is_accepted(at: Callable[[str], None]) -> None:
    """More days than a calendar has: from the beginning."""
    at("2026-11-28T15:00+01:00")
    assert period_of(moment("999999999d"), None).since == 0
