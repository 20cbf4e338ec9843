"""The figures of the pages What if, Trend and Report."""

import time
from typing import Any, cast

import pytest
from support.anosegd_line import Line, wait_until
from support.view_server import StartView

from anosegd.client import Client
from anosegd.view import verdict_table
from anosegd.view.history import beginning
from anosegd.view.trend import totals, trend
from anosegd.view.verdict_table import FAIL, PASS, UNKNOWN, Row, VerdictTable
from anosegd.view.what_if import of_marked, what_if

NAN = float("nan")


def table_of(rows: list[Row]) -> VerdictTable:
    table = VerdictTable.empty()
    table.add(rows)
    return table


def row(seq: int, score: float, outcome: int, *, threshold: float = 0.5, bundle: str = "p/1 abc", reason: str = "") -> Row:
    return Row(seq, 1000.0 + seq, score, threshold, outcome, "top", bundle, reason)


def test_another_threshold() -> None:
    """It counts what would change among the parts that the present bundle judged by score, and names what it leaves out."""
    table = table_of(
        [
            row(1, 0.2, PASS),
            row(2, 0.4, PASS),
            row(3, 0.6, FAIL),
            row(4, 0.9, FAIL),
            row(5, 0.45, UNKNOWN, reason="review"),
            row(6, 0.9, FAIL, bundle="p/2 def"),
            row(7, 0.9, FAIL, threshold=NAN),
            row(8, NAN, UNKNOWN, threshold=NAN, reason="paused"),
        ]
    )
    lower = what_if(table.rows, table, bundle="abc", tried=0.4)
    assert (lower["parts"], lower["failed"], lower["would_fail"], lower["would_pass"]) == (4, 2, 1, 0)
    assert (lower["fail_seqs"], lower["review"], lower["other_bundle"], lower["by_rules"]) == ([2], 1, 1, 1)
    higher = what_if(table.rows, table, bundle="abc", tried=0.7)
    assert (higher["would_fail"], higher["would_pass"], higher["pass_seqs"]) == (0, 1, [3])
    assert (sum(higher["passed_scores"]), sum(higher["failed_scores"])) == (2, 2)


def test_marked_parts() -> None:
    """Parts marked as good count by whether they are rejected, defective ones by whether they pass; others are no evidence."""
    table = table_of([row(1, 0.2, PASS), row(2, 0.4, PASS), row(3, 0.6, FAIL), row(4, 0.9, FAIL), row(5, 0.7, FAIL)])
    marks = {1: "right", 2: "missed_defect", 3: "false_reject", 4: "right", 5: "unsure", 9: "right"}
    found = of_marked(table.rows, table, marks, bundle="abc", tried=0.3)
    assert found == {
        "good": 2,
        "good_failed": 1,
        "good_would_fail": 1,
        "defective": 2,
        "defective_passed": 1,
        "defective_would_pass": 0,
    }


def test_trend_and_totals() -> None:
    """Each step has the median, the 95th percentile, the last threshold and the reject share of its parts; others have none."""
    rows = [row(i, i / 100, FAIL if i > 90 else PASS, threshold=0.5 if i < 50 else 0.9) for i in range(1, 101)]
    table = table_of([*rows, row(200, NAN, UNKNOWN, threshold=NAN, reason="deadline")])
    found = trend(table.of_period(1000, 2000, "top"), since=1000, until=1000 + 96 * 110)
    assert (found["median"][0], found["p95"][0]) == (pytest.approx(0.505), pytest.approx(0.9505))
    assert (found["threshold"][0], found["share"][0]) == (pytest.approx(0.9), pytest.approx(0.1))
    assert (found["passed"][0], found["unknown"][:2], found["median"][1], found["share"][1]) == (90, [0, 1], None, None)
    counted = totals(table, table.of_period(1000, 2000))
    assert counted == {
        "cameras": {"top": {"passed": 90, "failed": 10, "unknown": 1, "reasons": {"deadline": 1}}},
        "bundles": ["p/1 abc"],
    }


def test_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest rows go first, and the newest are all there."""
    monkeypatch.setattr(verdict_table, "MAX_ROWS", 10_000)
    table = VerdictTable.empty()
    for start in range(0, 50_000, 250):
        table.add([row(seq, 0.1, PASS) for seq in range(start, start + 250)])
        assert len(table.rows) <= 10_000 + 4096
    seqs = table.rows["seq"]
    assert (seqs[-1], len(seqs) >= 9000, bool((seqs[1:] - seqs[:-1] == 1).all())) == (49_999, True, True)


class _Station:
    """Answers as a station whose journal has a few verdicts, and whose numbers have a wide gap."""

    def __init__(self, first_kept: int = 1) -> None:
        self.first_kept = first_kept

    def status(self) -> dict[str, Any]:
        stored = {"passed": 3, "failed": 0, "unknown": 0}
        return {"journal": {"stored": stored, "first_kept": self.first_kept, "last_committed": 5_000_000}}

    def first_seq_since(self, _: int) -> int:
        return self.first_kept


def test_numbers_that_were_never_used_hide_no_parts() -> None:
    """The journal is read from the oldest part of the week, if it has no more verdicts than the table holds."""
    assert beginning(cast("Client", _Station())) == (1, True)


def test_a_new_station_has_no_parts_before() -> None:
    """Earlier parts may exist where the journal has deleted some, not where it has every verdict it ever had."""
    assert beginning(cast("Client", _Station(first_kept=7))) == (7, False)


def test_half_a_day_answers_at_once() -> None:
    """Twelve hours of five parts a second are in the table, with both cameras and every outcome."""
    table, now = VerdictTable.empty(), time.time()
    for start in range(0, 216_000, 1000):
        table.add(
            [
                Row(i, now - 43_200 + i / 5, i % 97 / 100, 0.9, FAIL if i % 97 > 90 else PASS, f"c{i % 2}", "p/1 abc", "")
                for i in range(start, start + 1000)
            ]
        )
    found = what_if(table.of_period(now - 43_200, now + 1, "c0"), table, bundle="abc", tried=0.8)
    assert found["parts"] == 108_000
    assert len(found["fail_seqs"]) == 24


def test_pages_get_what_the_journal_has(line: Line, config: object, start_view: StartView) -> None:
    """Counts and parts come from the journal; a period or threshold that makes no sense is refused."""
    line.run(config)  # type: ignore[arg-type]
    line.listener.wait_for_verdicts(8)
    view = start_view()
    wait_until(lambda: view.get("/report.json").json().get("complete") is True, "the journal is read")
    report = view.get("/report.json").json()
    assert report["oldest"] is None  # the journal has every part of this station
    counts = report["cameras"]["top"]
    assert counts["passed"] + counts["failed"] >= 7
    assert report["trend"]["top"]["median"].count(None) < 96
    digest = line.listener.last_state()["engine"]["digest"]
    tried = view.get(f"/what-if.json?camera=top&threshold=0.0001&bundle={digest}&parts=yes").json()
    assert tried["would_fail"] + tried["failed"] == tried["parts"] >= 7
    assert {part["seq"] for part in tried["listed"]} == {*tried["fail_seqs"], *tried["pass_seqs"]}
    for bad in ("threshold=2", "threshold=x", "threshold=nan", "threshold=0.5&since=2026-01-02T00:00Z&until=2026-01-01T00:00Z"):
        assert view.get(f"/what-if.json?camera=top&{bad}").status == 400
