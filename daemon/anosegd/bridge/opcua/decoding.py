"""Limits what asyncua makes of a few bytes. Importing this module sets the limits, before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import Any

from asyncua.ua import ua_binary
from asyncua.ua.uaerrors import UaError

MAX_ELEMENTS = 10_000
"""Elements of a matrix that a client declares, at most."""


class _NoArrays:
    """Refuses arrays of the type Null: their elements have no bytes, so that six bytes would become an array of any length."""

    @staticmethod
    def unpack_array(data: Any, length: int) -> None:
        raise UaError("an array of the type Null")

    @staticmethod
    def pack_array(data: Any) -> bytes:
        raise UaError("an array of the type Null")


def _enum_deserializer(kind: Any) -> Callable[[Any], Any]:
    """Return a function that decodes flags to an integer. Python keeps each combination of flags until the process ends."""
    if issubclass(kind, IntFlag):
        name = kind.datatype() if hasattr(kind, "datatype") else "UInt32"
        unpack: Callable[[Any], Any] = getattr(ua_binary.Primitives, name).unpack
        return unpack
    return _of_asyncua(kind)


_of_asyncua: Callable[[Any], Callable[[Any], Any]] = ua_binary.create_enum_deserializer
ua_binary.create_enum_deserializer = _enum_deserializer
ua_binary.Primitives1.Null = _NoArrays
ua_binary.MAX_RESHAPE_ELEMENTS = MAX_ELEMENTS
