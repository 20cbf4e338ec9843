"""Reads a YAML file into strict msgspec structs. Refuses unknown and repeated keys and wrong types, and names key and line."""

from __future__ import annotations

import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from anoseg_engines.errors import ConfigError
from anoseg_engines.yaml_document import MAX_BYTES, Document, Index, Keys

FORMAT = 1
"""The newest format of configuration files. A file may say in its key `format` which one it has; without the key it is 1."""

T = TypeVar("T", bound=msgspec.Struct)
Removed = Mapping[type[msgspec.Struct], Mapping[str, str]]
"""For each struct, the keys that earlier versions knew, each with what happens instead."""

_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a mapping (key: value)",
}
"""What msgspec's names of types mean to a user."""
_BOUNDS = {">=": "must be at least", ">": "must be greater than", "<=": "must be at most", "<": "must be less than"}
_SIZES = {">=": "at least", "<=": "at most", "": "exactly"}
_UNITS = {"str": "characters", "array": "items", "object": "entries"}


def read_yaml(path: Path, kind: type[T], *, at: Sequence[str] = (), removed: Removed | None = None) -> T:
    """Read a file, or one value in it.

    Args:
        path: The YAML file.
        kind: The struct to return.
        at: Keys that lead to the value to read. The rest of the file must be valid YAML and is not checked further.
        removed: Keys of earlier versions, which are refused with an explanation.

    Raises:
        ConfigError: The file cannot be read, is not YAML, is of a newer format, or does not fit `kind`. The message names file,
            line and key.
    """
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError: the path contains NUL
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read ({why})", hint="give the path of a YAML file") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes: not a configuration")
    document = Document(path, data)
    _take_format(document)
    value = _value_at(document, tuple(at))
    _Check(document, removed or {}).check(kind, tuple(at), value)
    return msgspec.convert(value, kind)


def _take_format(document: Document) -> None:
    """Remove the key `format`, and refuse a newer one. First of all: its other keys may be unknown here."""
    found = document.value.pop("format", FORMAT) if isinstance(document.value, dict) else FORMAT
    if type(found) is not int or found < 1:
        hint = f"write format: {FORMAT}, or leave the key out"
        raise document.error(("format",), f"{document.shown(('format',), found)} is not a format", hint=hint)
    if found > FORMAT:
        what = f"this file has format {found}; this program reads formats up to {FORMAT}"
        raise document.error(("format",), what, hint="update anoseg-edge on this machine")


def _value_at(document: Document, at: Keys) -> Any:
    """Return the value that these mapping keys lead to."""
    value = document.value
    for n, key in enumerate(at):
        mapping = _mapping(document, at[:n], value)
        if key not in mapping:
            raise document.error(at[:n], f"{key!r} is missing", hint=f"known here: {_listed(map(str, mapping))}")
        value = mapping[key]
    return value


def _mapping(document: Document, at: Keys, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise document.error(at, f"expected a mapping (key: value), found {document.shown(at, value)}")
    return value


class _Check:
    """Checks values and types key by key, so that an error names the exact key. msgspec alone says `$.cameras[...]`."""

    def __init__(self, document: Document, removed: Removed) -> None:
        self._document = document
        self._removed = removed

    def check(self, kind: Any, at: Keys, value: Any) -> None:
        """Check one value and what is in it.

        Raises:
            ConfigError: It does not fit the type.
        """
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            if get_origin(arguments[0]) in (dict, tuple, list):
                self.check(arguments[0], at, value)
            self._convert(kind, at, value)  # the annotation's own limits
        elif origin in (Union, types.UnionType):
            self._check_union(kind, at, value)
        elif origin is dict:
            for key, item in _mapping(self._document, at, value).items():
                self._convert(arguments[0], (*at, key), key)
                self.check(arguments[1], (*at, key), item)
        elif origin in (tuple, list) and isinstance(value, list):
            same = origin is list or arguments[1] is Ellipsis
            for i, item in enumerate(value if same else value[: len(arguments)]):
                self.check(arguments[0 if same else i], (*at, Index(i)), item)
            self._convert(kind, at, value)  # the number of items
        elif _is_struct(kind):
            self._check_struct(kind, at, value)
        else:
            self._convert(kind, at, value)

    def _check_union(self, kind: Any, at: Keys, value: Any) -> None:
        choices = [t for t in get_args(kind) if t is not types.NoneType]
        structs = [t for t in choices if _is_struct(t)]
        if value is None and types.NoneType in get_args(kind):
            return
        if structs:
            self.check(self._chosen(structs, at, value), at, value)
        elif len(choices) == 1:
            self.check(choices[0], at, value)
        else:
            self._convert(kind, at, value)

    def _check_struct(self, kind: type[msgspec.Struct], at: Keys, value: Any) -> None:
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        known = [*fields, *([kind.__struct_config__.tag_field] if kind.__struct_config__.tag_field else [])]
        mapping = _mapping(self._document, at, value)
        for key in mapping:
            if key not in known and kind.__struct_config__.forbid_unknown_fields:
                if (instead := self._removed.get(kind, {}).get(key)) is not None:
                    raise self._document.error((*at, key), "was removed", hint=f"delete this line; {instead}")
                raise self._document.error(
                    (*at, key), "unknown key", hint=_nearest(key, known) or f"known here: {_listed(known)}"
                )
        for name, field in fields.items():
            if name in mapping:
                self.check(hints[field.name], (*at, name), mapping[name])
            elif field.required:
                raise self._document.error(at, f"{name!r} is missing")
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:  # the struct's own __post_init__
            key, _, what = str(error).partition(": ")
            if self._document.has(place := (*at, *key.split("."))):  # it begins with the key that is wrong
                raise self._document.error(place, what) from error
            raise self._document.error(at, str(error)) from error

    def _chosen(self, structs: list[type[msgspec.Struct]], at: Keys, value: Any) -> type[msgspec.Struct]:
        """The struct whose tag the value carries."""
        config = structs[0].__struct_config__
        if len(structs) == 1 and config.tag_field is None:
            return structs[0]
        tag_field = str(config.tag_field)
        choices = {str(t.__struct_config__.tag): t for t in structs}
        mapping = _mapping(self._document, at, value)
        if tag_field not in mapping:
            raise self._document.error(at, f"{tag_field!r} is missing", hint=f"one of {_listed(choices)}")
        tag = mapping[tag_field]
        if not isinstance(tag, str) or tag not in choices:
            place = (*at, tag_field)
            raise self._document.error(
                place, f"{self._document.shown(place, tag)} is unknown", hint=f"one of {_listed(choices)}"
            )
        return choices[tag]

    def _convert(self, kind: Any, at: Keys, value: Any) -> None:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            what, hint = self._explained(str(error), kind, at, value)
            raise self._document.error(at, what, hint) from error

    def _explained(self, said: str, kind: Any, at: Keys, value: Any) -> tuple[str, str]:
        """Return what is wrong and what to write instead, from msgspec's words."""
        shown = self._document.shown(at, value)
        if said.startswith("Invalid enum value"):
            choices = [str(choice) for choice in _choices(kind)]
            return f"{shown} is unknown", f"one of {_listed(choices)}"
        if said.startswith("Expected `str` matching"):
            return f"{shown} is not allowed", _description(kind)
        if (match := re.fullmatch(r"Expected `(\w+)` of length (>=|<=|) ?(\d+)(?:, got \d+)?", said)) is not None:
            many = f"{_SIZES[match[2]]} {match[3]} {_UNITS[match[1]]}"
            return ("must not be empty" if many.startswith("at least 1 ") else f"must have {many}, has {len(value)}"), ""
        if (match := re.fullmatch(r"Expected `(?:int|float)` (>=|>|<=|<) (\S+)", said)) is not None:
            return f"{_BOUNDS[match[1]]} {float(match[2]):.15g}, found {shown}", ""
        if (match := re.fullmatch(r"Expected `([^`]+)`, got `\w+`", said)) is not None:
            names = match[1].split(" | ")
            expected = " or ".join(_KINDS.get(name, name) for name in names)
            return f"expected {expected}, found {shown}", _example(kind) or self._instead(names, at, value)
        if (match := re.fullmatch(r"Expected `int` that's a multiple of (\d+)", said)) is not None:
            return f"must be {'an even number' if match[1] == '2' else f'a multiple of {match[1]}'}, found {shown}", ""
        return f"{said}, found {shown}", ""

    def _instead(self, names: list[str], at: Keys, value: Any) -> str:
        """Return what to write instead of a value of the wrong type; empty if nobody can know."""
        written = self._document.written(at)
        if "str" in names and written and value is not None:
            means = (
                f"without quotes, YAML reads {written} as {'true' if value else 'false'}; " if isinstance(value, bool) else ""
            )
            return f"{means}put text in quotes: '{written}'"
        number = {"int", "float"} & set(names)
        if number and isinstance(value, str) and "@" not in value:
            found = re.fullmatch(r"([-+]?\d+),(\d+)", value)
            text = f"{found[1]}.{found[2]}" if found else value
            try:
                meant = float(text)
            except ValueError:
                return ""
            if not math.isfinite(meant):
                return "no number is so large" if value[-1:].isdecimal() else "give a finite number"
            return f"write {meant:.15g}" + (", without quotes" if re.fullmatch(r"[-+]?[\d.]+", value) else "")
        if number and isinstance(value, float) and value.is_integer():
            return f"write {value:.0f}"
        return ""


def _choices(kind: Any) -> list[Any]:
    """Return the values that a `Literal` or a union of them allows."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) in (Union, types.UnionType, Annotated):
        return [choice for part in get_args(kind) for choice in _choices(part)]
    return []


def _description(kind: Any) -> str:
    """Return what an annotated type says about its values."""
    metas = [part for part in get_args(kind) if isinstance(part, msgspec.Meta)]
    return next((meta.description for meta in metas if meta.description), "")


def _example(kind: Any) -> str:
    """Return a hint that shows the example of an annotated type, if it has one."""
    metas = [part for part in get_args(kind) if isinstance(part, msgspec.Meta)]
    return next((f"write it as in '{meta.examples[0]}'" for meta in metas if meta.examples), "")


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
