"""Parses a YAML file into plain values and keeps the line of each. Refuses text that YAML reads otherwise than people do."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from anoseg_engines.errors import ConfigError
from anoseg_engines.passwords import mask_passwords

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_NODES = 10_000
MOST_SHOWN = 80
"""Characters of a value in a message."""

Keys = tuple[Any, ...]
"""The path from the document to a value: keys of mappings, and the `Index` of items in lists."""

_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_PLAIN_FLOAT = re.compile(r"[^_:]+")
_UNPRINTABLE = re.compile("[\0\ud800-\udfff]")
"""YAML's escapes allow these characters; paths and messages cannot contain them."""


class Index(int):
    """The place of an item in a list, shown as `[0]`."""

    def __str__(self) -> str:
        return f"[{int(self)}]"


class Document:
    """A parsed file.

    Attributes:
        path: The file, for messages.
        value: The whole file as dicts, lists, texts, numbers, booleans and None. Every key of a mapping is a text.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        """Parse.

        Raises:
            ConfigError: The bytes are not YAML, or contain what configurations must not contain.
        """
        self.path = path
        self._lines: dict[Keys, int] = {}
        self._written: dict[Keys, str] = {}
        self._nodes = 0
        try:
            self._loader = yaml.SafeLoader(data)
            node = self._loader.get_single_node()
            self.value = {} if node is None else self._construct(node, ())
        except yaml.reader.ReaderError as error:
            raise _unreadable(path, data, error) from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ConfigError(f"{path}{line}: not valid YAML: {mask_passwords(problem)}") from None  # it quotes the file
        except RecursionError as error:  # PyYAML, on thousands of brackets
            raise ConfigError(f"{path}: nested too deep: not a configuration") from error

    def has(self, at: Keys) -> bool:
        """Return whether the file has this key."""
        return at in self._lines

    def shown(self, at: Keys, value: Any) -> str:
        """Return a value for a message, as it is written in the file. One that may contain a password is not shown."""
        text = "nothing (null)" if value is None else self._written.get(at) or repr(value)
        if "@" in text:
            return "a value that is not shown, because it may contain a password"
        text = mask_passwords(text)
        return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"

    def written(self, at: Keys) -> str | None:
        """Return what the file says where YAML reads a text without quotes as something else; None for texts and lists."""
        return self._written.get(at)

    def error(self, at: Keys, what: str, hint: str = "") -> ConfigError:
        """Return an error that names the file, the line and the key."""
        line = next((self._lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in self._lines), 1)
        name = ".".join(str(key) if str(key).isprintable() else repr(key) for key in at).replace(".[", "[")
        said = mask_passwords(f"{f'{name}: ' if name else ''}{what}")
        return ConfigError(f"{self.path}, line {line}: {said}", hint=mask_passwords(hint))

    def _construct(self, node: yaml.Node, at: Keys) -> Any:
        self._lines.setdefault(at, node.start_mark.line + 1)
        if len(at) > MAX_DEPTH:
            raise self.error(at[:2], f"nested more than {MAX_DEPTH} deep")
        self._nodes += 1
        if self._nodes > MAX_NODES:  # a few nested aliases can expand without bound
            raise self.error((), f"more than {MAX_NODES} values: not a configuration")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            raise self._tagged(at)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        return [self._construct(item, (*at, Index(i))) for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, at: Keys) -> dict[str, Any]:
        """Build a mapping. A repeated key is refused; YAML would take the last."""
        mapping: dict[str, Any] = {}
        merged: yaml.Node | None = None
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._lines[at] = key_node.start_mark.line + 1
                raise self.error(at, "a key must be plain text")
            key: str = key_node.value  # as written: YAML would make False of the key no, and 1 of 01
            place = (*at, key)
            self._lines[place] = key_node.start_mark.line + 1
            if key in mapping or (key == _MERGE and merged is not None):
                raise self.error(place, "appears twice")
            if key_node.tag == f"{_TAG}merge":
                merged = value_node
            else:
                mapping[key] = self._construct(value_node, place)
        if merged is not None:
            for source, defaults in self._merged(merged, (*at, _MERGE)):
                for key in defaults.keys() - mapping.keys():
                    mapping[key] = defaults[key]
                    self._copy_lines((*source, key), (*at, key))
        return mapping

    def _merged(self, node: yaml.Node, at: Keys) -> Iterator[tuple[Keys, dict[str, Any]]]:
        """Yield the mappings that a merge key names, the ones that count first at the beginning, each with its path."""
        value = self._construct(node, at)
        items = value if isinstance(value, list) else [value]
        for i, found in enumerate(items):
            place = (*at, Index(i)) if isinstance(value, list) else at
            if not isinstance(found, dict):
                raise self.error(at, f"{_MERGE} takes in the keys of another mapping; here is {self.shown(place, found)}")
            yield place, found

    def _copy_lines(self, source: Keys, at: Keys) -> None:
        """Give the values that a mapping takes in from another one the lines of that one."""
        for keys in [keys for keys in self._lines if keys[: len(source)] == source]:
            taken = (*at, *keys[len(source) :])
            self._lines[taken] = self._lines[keys]
            if keys in self._written:
                self._written[taken] = self._written[keys]

    def _scalar(self, node: yaml.ScalarNode, at: Keys) -> Any:
        text: str = node.value
        plain = node.style is None
        usual = self._loader.resolve(yaml.ScalarNode, text, (plain, not plain))  # type: ignore[no-untyped-call]
        if node.tag not in (usual, f"{_TAG}str"):
            raise self._tagged(at)
        kind = node.tag.removeprefix(_TAG)
        if (found := _UNPRINTABLE.search(text)) is not None:
            raise self.error(at, f"contains the character U+{ord(found[0]):04X}, which no text may contain")
        if kind not in ("null", "bool", "int", "float"):  # dates are texts here
            return text
        self._written[at] = text
        try:
            value = self._loader.construct_object(node)
        except ValueError as error:
            raise self.error(at, f"{self.shown(at, text)} cannot be read: {error}") from error
        if (kind == "int" and not _PLAIN_INT.fullmatch(text)) or (kind == "float" and not _PLAIN_FLOAT.fullmatch(text)):
            raise self._surprise(at, text, value)
        if kind == "float" and not math.isfinite(value):
            raise self.error(at, f"{text} is not a finite number")
        return value

    def _surprise(self, at: Keys, text: str, value: float) -> ConfigError:
        """Return the error for a number that YAML 1.1 reads otherwise than it looks."""
        how = "with base 60" if ":" in text else "as a binary number" if "b" in text else "as an octal number"
        if "_" in text:
            what, number = f"{text} has an underscore, which not every YAML reader takes for a part of a number", f"{value:g}"
        else:
            what, number = f"{text} is ambiguous: YAML reads it {how}, so it would be {value:g}", text.lstrip("+-0") or "0"
        number = str(value) if not number.isdecimal() else text[: text.startswith("-")] + number
        return self.error(at, what, hint=f"for a number, write {number}; for text, put it in quotes: '{text}'")

    def _tagged(self, at: Keys) -> ConfigError:
        return self.error(at, "has a YAML tag (a word that begins with !), which configurations do not use", hint="remove it")


def _unreadable(path: Path, data: bytes, error: yaml.reader.ReaderError) -> ConfigError:
    """Return the error for bytes that are no text, or for a character that YAML does not allow."""
    if isinstance(error.character, int) and error.encoding == "unicode":
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")
        line = text[: error.position].count("\n") + 1
        return ConfigError(f"{path}, line {line}: not valid YAML: contains the character U+{error.character:04X}")
    line = data[: error.position].count(b"\n") + 1
    return ConfigError(f"{path}, line {line}: not valid YAML: this is not UTF-8 text", hint="save the file as UTF-8")
