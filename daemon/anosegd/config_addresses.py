"""Refuses addresses of streams where a configuration needs something else. Pure functions.

Only `source.url` may contain an address with a user name and a password. Every other value can appear in messages and verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from anoseg_engines.errors import ConfigError
from anoseg_engines.passwords import address_of, has_login, is_address
from anosegd.capture.config import FileSource, FolderSource, UrlSource

PATHS = {"path", "empty", "bundle", "device"}
"""The keys whose values are paths. `device` may also be a number."""
_STREAM = "for a stream, write source: {kind: url, url: …}"


def refuse_addresses(file: Path, config: msgspec.Struct) -> None:
    """Check every text of a configuration that is not made absolute yet.

    Raises:
        ConfigError: A path is an address, or an address with a login is in another key than `source.url`.
    """
    _check(file, config, "")


def _check(file: Path, value: Any, key: str) -> None:
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if not (isinstance(value, UrlSource) and name == "url"):
                below = getattr(value, name)
                _check_path(file, value, name, f"{key}{name}")
                _check(file, below, f"{key}{name}.")
    elif isinstance(value, Mapping):
        for name, below in value.items():
            _check(file, below, f"{key}{name}.")
    elif isinstance(value, (list, tuple)):
        for n, below in enumerate(value):
            _check(file, below, f"{key}{n}.")
    elif isinstance(value, str) and has_login(value):
        raise ConfigError(
            f"{file}: {key[:-1]}: this value contains a user name or a password, and could be shown in messages",
            hint=f"only source.url may contain them; {_STREAM}",
        )


def _check_path(file: Path, struct: msgspec.Struct, name: str, key: str) -> None:
    text = getattr(struct, name)
    if name not in PATHS or not isinstance(text, str) or not is_address(text):
        return
    hint = _STREAM if isinstance(struct, (FileSource, FolderSource)) or name == "device" else "write the path of a file"
    raise ConfigError(f"{file}: {key}: {address_of(text)} is an address, not a path", hint=hint)
