"""Says who sits in front of a page, and what that person may do. Without login, everybody at this machine may do everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

Role = Literal["see", "mark", "change"]
"""What a person may do; each role includes those before it: look, mark parts, change how the station inspects."""
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in front of a page.

    Attributes:
        name: The name of the user; None without login, where the page says who changes something.
        role: What the person may do.
    """

    name: str | None
    role: Role

    def may(self, role: Role) -> bool:
        """Return whether the person's role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Access(Protocol):
    """Knows who sends a request."""

    def person(self, connection: HTTPConnection) -> Person | None:
        """Return who sends it; None if nobody is logged in."""


class NoLogin:
    """Lets everybody do everything, on a loopback address without login."""

    def person(self, connection: HTTPConnection) -> Person | None:
        """Return somebody without a name, who may do everything."""
        return Person(None, "change")
