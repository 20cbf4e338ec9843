"""Reads a YAML file into strict msgspec structs. Refuses unknown and repeated keys and wrong types, and names key and line."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from anoseg_engines.errors import ConfigError
from anoseg_engines.passwords import mask_passwords

FORMAT = 1
"""The newest format of configuration files. A file may say in its key `format` which one it has; without the key it is 1."""
MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_NODES = 10_000

T = TypeVar("T", bound=msgspec.Struct)
Removed = Mapping[type[msgspec.Struct], Mapping[str, str]]
"""For each struct, the keys that earlier versions knew, each with what happens instead."""
_Keys = tuple[Any, ...]
"""The path from the document to a value: mapping keys and list indices."""


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
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", hint="give the path of a YAML file") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes: not a configuration")
    document = _Document(path, data, removed or {})
    document.take_format()
    value = document.value_at(tuple(at))
    document.check(kind, tuple(at), value)
    return msgspec.convert(value, kind)


class _Document:
    """A parsed file and the line of every key."""

    def __init__(self, path: Path, data: bytes, removed: Removed) -> None:
        self.path = path
        self._removed = removed
        self._lines: dict[_Keys, int] = {}
        self._nodes = 0
        try:
            self._loader = yaml.SafeLoader(data)
            node = self._loader.get_single_node()
            self.value = {} if node is None else self._construct(node, ())
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ConfigError(f"{path}{line}: not valid YAML: {mask_passwords(problem)}") from None  # it quotes the file
        except RecursionError as error:  # PyYAML, on thousands of brackets
            raise ConfigError(f"{path}: nested too deep: not a configuration") from error

    def take_format(self) -> None:
        """Remove the key `format`, and refuse a newer one. First of all: its other keys may be unknown here."""
        found = self.value.pop("format", FORMAT) if isinstance(self.value, dict) else FORMAT
        if type(found) is not int or found < 1:
            raise self._error(("format",), f"{found!r} is not a format", hint=f"write format: {FORMAT}, or leave the key out")
        if found > FORMAT:
            what = f"this file has format {found}; this program reads formats up to {FORMAT}"
            raise self._error(("format",), what, hint="update anoseg-edge on this machine")

    def value_at(self, at: _Keys) -> Any:
        """Return the value that these mapping keys lead to."""
        value = self.value
        for n, key in enumerate(at):
            mapping = self._mapping(at[:n], value)
            if key not in mapping:
                raise self._error(at[:n], f"{key!r} is missing", hint=f"known here: {_listed(map(str, mapping))}")
            value = mapping[key]
        return value

    def check(self, kind: Any, at: _Keys, value: Any) -> None:
        """Check value and type key by key, so that an error names the exact key. msgspec alone says `$.cameras[...]`."""
        origin = get_origin(kind)
        if origin is Annotated:
            if get_origin(get_args(kind)[0]) is dict:
                self.check(get_args(kind)[0], at, value)
            self._convert(kind, at, value)  # the annotation's own limits
        elif origin in (Union, types.UnionType):
            structs = [t for t in get_args(kind) if _is_struct(t)]
            if structs and value is not None:
                self.check(self._chosen(structs, at, value), at, value)
            else:
                self._convert(kind, at, value)
        elif origin is dict:
            key_kind, value_kind = get_args(kind)
            for key, item in self._mapping(at, value).items():
                self._convert(key_kind, (*at, key), key)
                self.check(value_kind, (*at, key), item)
        elif _is_struct(kind):
            self._check_struct(kind, at, value)
        else:
            self._convert(kind, at, value)

    def _check_struct(self, kind: type[msgspec.Struct], at: _Keys, value: Any) -> None:
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        known = [*fields, *([kind.__struct_config__.tag_field] if kind.__struct_config__.tag_field else [])]
        mapping = self._mapping(at, value)
        for key in mapping:
            if key not in known and kind.__struct_config__.forbid_unknown_fields:
                if (instead := self._removed.get(kind, {}).get(key)) is not None:
                    raise self._error((*at, key), "was removed", hint=f"delete this line; {instead}")
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                raise self._error(
                    (*at, key), "unknown key", hint=f"did you mean {near[0]!r}?" if near else f"known here: {_listed(known)}"
                )
        for name, field in fields.items():
            if name in mapping:
                self.check(hints[field.name], (*at, name), mapping[name])
            elif field.required:
                raise self._error(at, f"{name!r} is missing")
        self._convert(kind, at, value)  # the struct's own __post_init__

    def _chosen(self, structs: list[type[msgspec.Struct]], at: _Keys, value: Any) -> type[msgspec.Struct]:
        """The struct whose tag the value carries."""
        config = structs[0].__struct_config__
        if len(structs) == 1 and config.tag_field is None:
            return structs[0]
        tag_field = str(config.tag_field)
        choices = {str(t.__struct_config__.tag): t for t in structs}
        mapping = self._mapping(at, value)
        if tag_field not in mapping:
            raise self._error(at, f"{tag_field!r} is missing", hint=f"one of {_listed(choices)}")
        tag = mapping[tag_field]
        if not isinstance(tag, str) or tag not in choices:
            raise self._error((*at, tag_field), f"{_shown(tag)} is unknown", hint=f"one of {_listed(choices)}")
        return choices[tag]

    def _mapping(self, at: _Keys, value: Any) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise self._error(at, f"expected a mapping (key: value), found {_shown(value)}")
        return value

    def _convert(self, kind: Any, at: _Keys, value: Any) -> None:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            found = "" if isinstance(value, (dict, list)) else f", found {_shown(value)}"
            raise self._error(at, f"{error}{found}") from error

    def _construct(self, node: yaml.Node, at: _Keys) -> Any:
        """Build a value as `yaml.safe_load` does, but keep line numbers and refuse repeated keys. YAML would take the last."""
        self._lines.setdefault(at, node.start_mark.line + 1)
        if len(at) > MAX_DEPTH:
            raise self._error(at[:2], f"nested more than {MAX_DEPTH} deep")
        self._nodes += 1
        if self._nodes > MAX_NODES:  # a few nested aliases can expand without bound
            raise self._error((), f"more than {MAX_NODES} values: not a configuration")
        if isinstance(node, yaml.MappingNode):
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self._scalar(key_node, at)
                key_path = (*at, key)
                self._lines[key_path] = key_node.start_mark.line + 1
                if key in mapping:
                    raise self._error((*at, key), "appears twice")
                mapping[key] = self._construct(value_node, (*at, key))
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [self._construct(item, (*at, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, at)

    def _scalar(self, node: yaml.Node, at: _Keys) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(at, "a key must be plain text")
        try:
            return self._loader.construct_object(node)
        except ValueError as error:
            raise self._error(at, f"{_shown(node.value)} cannot be read: {error}") from error

    def _error(self, at: _Keys, what: str, hint: str = "") -> ConfigError:
        line = next((self._lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in self._lines), 1)
        name = ".".join(str(key) for key in at)
        said = mask_passwords(f"{f'{name}: ' if name else ''}{what}")
        return ConfigError(f"{self.path}, line {line}: {said}", hint=mask_passwords(hint))


def _shown(value: Any) -> str:
    """Return a value for a message. One that may hold a password, as an address does before its @, is not shown."""
    text = repr(value)
    return "a value that is not shown, because it may contain a password" if "@" in text else text


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
