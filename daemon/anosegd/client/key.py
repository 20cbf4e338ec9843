"""Reads a client's key. Any thread."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from .errors import KeyFileError

Z85 = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
"""A key of 32 bytes as ZeroMQ writes it."""


class Key(NamedTuple):
    """A client's key, for a station that asks for one.

    Attributes:
        name: The name under which the station knows it.
        public, secret: The client's key pair, as ZeroMQ writes it.
        station: The station's public key: no other station can answer.
    """

    name: str
    public: str
    secret: str
    station: str

    def __repr__(self) -> str:
        """Leave the secret out."""
        return f"Key({self.name!r}, {self.public!r})"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Key:
        """Read the file that `anosegd keygen client` made for this client.

        Raises:
            KeyFileError: It cannot be read, is another file, or other users of the machine may read it.
        """
        try:
            with Path(path).open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o027:
                    raise KeyFileError(f"{path}: other users may read or change this secret key; run: chmod 600 {path}")
                content = json.loads(file.read(4096))
            key = cls(*(content[field] for field in cls._fields))
            if content["kind"] != "client" or not all(Z85.fullmatch(value) for value in key[1:]):
                raise ValueError
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, RecursionError):  # without `from`: it could show a part of the secret
            raise KeyFileError(f"{path}: is not the key of a client; make it with: anosegd keygen client") from None
        return key
