"""The archive's configuration, and what it makes of a page of a journal."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from support.paths import CONFIGS

from anoseg_engines.errors import ConfigError
from anosegd.archive.config import ArchiveConfig, StationConfig, load_archive_config
from anosegd.archive.rows import PageError, batch_of_page, verdict_row

STATION = "stations: {press-4: {}}\n"


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "archive.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_archive_config(path)
    return str(caught.value)


def test_the_reference_file_states_the_defaults() -> None:
    """configs/archive.yaml lists every key, with the code's default."""
    raw = yaml.safe_load((CONFIGS / "archive.yaml").read_text())
    assert raw.pop("format") == 1
    assert list(raw) != []
    assert set(raw) == {field.name for field in msgspec.structs.fields(ArchiveConfig)}
    assert set(raw["stations"]["press-4"]) == {field.name for field in msgspec.structs.fields(StationConfig)}
    assert load_archive_config(CONFIGS / "archive.yaml") == ArchiveConfig(stations={"press-4": StationConfig()})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stations: {}\n", "stations"),
        ("keep_days: 5\n", "stations"),
        (f"{STATION}keep_day: 5\n", "keep_days"),
        (f"{STATION}keep_days: 0\n", "keep_days"),
        (f"{STATION}shifts: ['25:00']\n", "25:00"),
        (f"{STATION}schema: 'a;b'\n", "schema"),
        ("stations: {press-4: {control: 'http://a:1'}}\n", "not an endpoint"),
        ("stations: {press-4: {control: 'tcp://192.168.7.20/24:5571'}}\n", "not an endpoint"),
        ("stations: {press-4: {control: 'tcp://pressé:5571'}}\n", "not an endpoint"),
        (f"stations: {{press-4: {{control: 'ipc:///{'a' * 107}'}}}}\n", "longer than 107 bytes"),
        ("stations: {a: {}, b: {}}\n", "have the same control"),
        ("stations: {a: {}, a: {}}\n", "twice"),
        ("stations: {'a b': {}}\n", "a b"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """Each mistake is named."""
    assert said in refused(tmp_path, text)


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    """Relative paths of keys and of the password do not depend on the present folder."""
    path = tmp_path / "archive.yaml"
    path.write_text("password_file: pw\nstations: {a: {key: keys/a.key}}\n")
    config = load_archive_config(path)
    assert config.password_file == str(tmp_path / "pw")
    assert config.stations["a"].key == str(tmp_path / "keys" / "a.key")


def verdict(seq: int, **fields: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "camera": "top",
        "outcome": "PASS",
        "part_id": "1",
        "committed_at": "2026-11-27T06:00:01.000000Z",
        **fields,
    }


def page(seqs: list[int], end: int, *, void: Any = (), gone: Any = None) -> dict[str, Any]:
    return {"journal_id": "5f" * 16, "verdicts": [verdict(n) for n in seqs], "void": void, "gone": gone, "next": end}


def test_a_page_accounts_for_every_number() -> None:
    """Verdicts, void and deleted numbers together are all numbers; void and deleted ones are noted."""
    batch = batch_of_page("press-4", page([4, 7], 8, void=[[5, 6]], gone=[1, 3]), 1, new=False)
    assert (batch.first, batch.next, len(batch.verdicts)) == (1, 8, 2)
    assert [(e.kind, e.alarm, e.first, e.last) for e in batch.events] == [("void", False, 5, 6), ("gone", True, 1, 3)]
    first = batch_of_page("press-4", page([4], 5, gone=[1, 3]), 1, new=True)
    assert [(e.kind, e.alarm) for e in first.events] == [("begun_late", False)]


@pytest.mark.parametrize(
    "wrong",
    [
        page([1, 3], 4),
        page([1, 2, 2], 3),
        page([1, 2], 4),
        page([1, 2], 3, void=[[2, 2]]),
        page([2], 3),
        page([1], 2, void=[[3, 2]]),
    ],
)
def test_a_page_with_a_gap_is_refused(wrong: dict[str, Any]) -> None:
    """A number that is missing or there twice never passes in silence."""
    with pytest.raises(PageError):
        batch_of_page("press-4", wrong, 1, new=False)


def test_texts_that_postgresql_does_not_take_are_replaced() -> None:
    """U+0000 and halves of characters become U+FFFD; a backslash before the letters u0000 stays."""
    row = verdict_row("press-4", "5f" * 16, verdict(1, part_id="a\0b", source="\\u0000 \0 é"))
    assert row[6] == "a\ufffdb"
    assert json.loads(row[-1])["part_id"] == "a\ufffdb"
    assert json.loads(row[-1])["source"] == "\\u0000 \ufffd é"
    half = verdict_row("press-4", "5f" * 16, verdict(1, part_id="a\ud800b"))
    assert json.loads(half[-1])["part_id"] == "a\ufffdb"
