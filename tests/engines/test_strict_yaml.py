"""The one reader of configuration files: what YAML would read otherwise than people do is refused, with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from anoseg_engines.errors import ConfigError
from anoseg_engines.strict_yaml import read_yaml


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    side: int | None = None
    mode: Literal["auto"] | Literal["fast", "slow"] = "auto"

    def __post_init__(self) -> None:
        if self.side == 13:
            raise ValueError("side: 13 is not possible")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=8)] = "x"
    device: int | str = 0
    number: float = 0.0
    on: bool = False
    items: tuple[Item, ...] = ()
    by_name: dict[Annotated[str, Meta(pattern=r"^[a-z]+\Z", description="lower case only")], Item] = msgspec.field(
        default_factory=dict
    )
    pair: tuple[int, int] = (1, 2)


def read(folder: Path, text: str | bytes) -> File:
    path = folder / "c.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(path, File)


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "says", "hint"),
    [
        (
            "0100",
            "0100 is ambiguous: YAML reads it as an octal number, so it would be 64",
            "write 100; for text, put it in quotes",
        ),
        ("-010", "-010 is ambiguous", "write -10"),
        ("1:30", "1:30 is ambiguous: YAML reads it with base 60, so it would be 90", "'1:30'"),
        ("1:30.5", "1:30.5 is ambiguous", "write 90.5"),
        ("0b101", "0b101 is ambiguous: YAML reads it as a binary number", "write 5"),
        ("1_000", "1_000 has an underscore", "write 1000"),
        (".inf", ".inf is not a finite number", ""),
        ("-.INF", "-.INF is not a finite number", ""),
        (".nan", ".nan is not a finite number", ""),
        ("1.0e+999", "1.0e+999 is not a finite number", ""),
        ("!!float '1'", "has a YAML tag", "remove it"),
        ("!!binary aGk=", "has a YAML tag", "remove it"),
        ("!!python/object/apply:os.getcwd []", "has a YAML tag", "remove it"),
        ("1" * 5000, "cannot be read", ""),
        ('"a\\0b"', "contains the character U+0000", ""),
        ('"\\ud800"', "contains the character U+D800", ""),
    ],
)
@pytest.mark.parametrize("key", ["number", "name"])
def test_what_yaml_reads_otherwise_is_refused_for_numbers_and_text_alike(
    tmp_path: Path, key: str, value: str, says: str, hint: str
) -> None:
    """With file, line and key, whatever the key takes. The hint is what to write instead."""
    message = refused(tmp_path, f"# a comment\n{key}: {value}\n")
    assert f"c.yaml, line 2: {key}: " in message
    assert says in message
    assert hint in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: no", "name: expected text, found no\n  without quotes, YAML reads no as false; put text in quotes: 'no'"),
        ("name: On", "without quotes, YAML reads On as true; put text in quotes: 'On'"),
        ("name: 12", "name: expected text, found 12\n  put text in quotes: '12'"),
        ("name: 0x1F", "put text in quotes: '0x1F'"),
        ("name: ~", "name: expected text, found nothing (null)"),
        ("name: ''", "name: must not be empty"),
        ("name: 123456789x", "name: must have at most 8 characters, has 10"),
        ("device: yes", "device: expected a whole number or text, found yes"),
        ("number: 1e4", "number: expected a number, found '1e4'\n  write 10000"),
        ("number: 1,5", "number: expected a number, found '1,5'\n  write 1.5"),
        ("number: '7'", "number: expected a number, found '7'\n  write 7, without quotes"),
        ("number: soon", "number: expected a number, found 'soon'"),
        ("on: y", "on: expected true or false, found 'y'"),
        ("items: 3", "items: expected a list, found 3"),
        ("items:\n- {}\n- {share: 2}", "line 3: items[1].share: must be at most 1, found 2"),
        ("items:\n- {}\n-\n  share: -1", "line 4: items[1].share: must be at least 0, found -1"),
        ("items: [{side: 1.0}]", "items[0].side: expected a whole number, found 1.0\n  write 1"),
        ("items: [{mode: fats}]", "items[0].mode: 'fats' is unknown\n  one of auto, fast, slow"),
        ("items: [{mode: 1}]", "items[0].mode: expected text, found 1"),
        ("items: [{sied: 1}]", "items[0].sied: unknown key\n  did you mean 'side'?"),
        ("items:\n- share: 1\n  side: 13", "line 3: items[0].side: 13 is not possible"),
        ("by_name: {A: {}}", "by_name.A: 'A' is not allowed\n  lower case only"),
        ('by_name: {"a\\n": {}}', "by_name.'a\\n'"),
        ("by_name: {a: {}, a: {}}", "by_name.a: appears twice"),
        ("by_name: {a: {side: 1}, 'a': {}}", "by_name.a: appears twice"),
        ("by_name:\n  a: {<<: 3}", "line 2: by_name.a.<<: << takes in the keys of another mapping; here is 3"),
        ("by_name:\n  a: {<<: [{}, x]}", "by_name.a.<<: << takes in the keys of another mapping; here is 'x'"),
        ("by_name:\n  a: {<<: {}, <<: {}}", "by_name.a.<<: appears twice"),
        ("by_name:\n  a: &a\n    sied: 3\n  b: {<<: *a}", "line 3: by_name.a.sied: unknown key"),
        ("by_name: &a {<<: *a}", "nested more than"),
        ("pair: [1]", "pair: must have exactly 2 items, has 1"),
        ("pair: [1, 2, 3]", "pair: must have exactly 2 items, has 3"),
        ("pair: [1, x]", "pair[1]: expected a whole number, found 'x'"),
        ("? [a]\n: 1", "a key must be plain text"),
        ("3", "expected a mapping (key: value), found 3"),
        ("name: " + "x" * 5000 + "\non: []", "must have at most 8 characters, has 5000"),
        ("on: [" + "x, " * 500 + "]", "found ['x', 'x'"),
        (b"# caf\xe9\nname: x", "line 1: not valid YAML: this is not UTF-8 text\n  save the file as UTF-8"),
        (b"on: true\nname: a\0b", "line 2: not valid YAML: contains the character U+0000"),
    ],
)
def test_a_wrong_value_is_named_in_plain_words(tmp_path: Path, text: str | bytes, says: str) -> None:
    """The message has the key and what is written there, and says what is expected, and no word of Python or msgspec."""
    message = refused(tmp_path, text)
    assert says in message
    assert "c.yaml, line " in message
    assert len(message) < 400
    for word in ("`", "msgspec", "enum", "NoneType"):
        assert word not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("number: 0", {"number": 0.0}),
        ("number: -12.5e+2", {"number": -1250.0}),
        ("device: 0x1F", {"device": 31}),
        ("name: '0100'", {"name": "0100"}),
        ("name: !!str 0100", {"name": "0100"}),
        ("name: 089", {"name": "089"}),
        ("name: 2024-5-1", {"name": "2024-5-1"}),
        ("name: <<", {"name": "<<"}),
        ("on: off", {"on": False}),
        ("on: true", {"on": True}),
        ("pair: [3, 4]", {"pair": (3, 4)}),
    ],
)
def test_what_is_clear_is_read_as_it_is_written(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    """Plain numbers and quoted text; a date is text, which no clock reads."""
    found = read(tmp_path, text)
    assert {key: getattr(found, key) for key in expected} == expected


def test_keys_are_text(tmp_path: Path) -> None:
    """YAML would make False of a camera that is called `no`, and 1 of both `1` and `01`."""
    path = tmp_path / "c.yaml"
    path.write_text("no: {}\n1: {}\n01: {}\n~: {}\n2024-01-01: {}\n")

    class AnyNames(msgspec.Struct, frozen=True):
        pass

    read_yaml(path, AnyNames)
    with pytest.raises(ConfigError, match="known here: no, 1, 01, ~, 2024-01-01"):
        read_yaml(path, AnyNames, at=("two",))


def test_merge_keys(tmp_path: Path) -> None:
    """A mapping takes in the keys of others. Its own keys count most, then those of the first; an error names the line."""
    text = (
        "by_name:\n  a: &a\n    share: 0.25\n    side: 3\n  b: &b {side: 4, mode: fast}\n"
        "  c: {<<: *a, side: 5}\n  d: {side: 6, <<: [*a, *b]}\n"
    )
    found = read(tmp_path, text).by_name
    assert found["c"] == Item(share=0.25, side=5)
    assert found["d"] == Item(share=0.25, side=6, mode="fast")
    assert found["a"] == Item(share=0.25, side=3)
    message = refused(tmp_path, "pair: [1, 2]\nby_name:\n  b:\n    <<:\n      share: 9\n")
    assert "line 5: by_name.b.share: must be at most 1, found 9" in message


def test_many_aliases_do_not_expand_without_bound(tmp_path: Path) -> None:
    """A small file that describes billions of values is refused at once."""
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    assert "more than 10000 values" in refused(tmp_path, text)


def test_a_path_that_no_file_can_have() -> None:
    """NUL in a path is refused as a file that cannot be read."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(Path("a\0b"), File)
