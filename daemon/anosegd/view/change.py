"""Defines what a change is that a page may ask for. `changes` has the list of them and the way to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from anosegd.view.people import Role
from anosegd.view.station_requests import StationRequests


class ChangeRefusedError(Exception):
    """A change that is not made.

    Attributes:
        code: The reason for the page, which has texts `error.CODE`. The message is for people.
        status: The HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class Change:
    """One kind of change.

    Attributes:
        name: Its name in the address: `POST /changes/NAME`.
        role: What a person must be allowed to do.
        values: The struct of its values. Give it `forbid_unknown_fields`.
        make: Makes the change. It takes the station, the name of who asks, and the values, and returns what the page gets. It
            runs on the event loop's thread and must not block. It may raise ClientError and ChangeRefusedError.
    """

    name: str
    role: Role
    values: type[msgspec.Struct]
    make: Callable[[StationRequests, str, Any], Awaitable[Any]]
