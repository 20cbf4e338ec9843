"""Refuses requests that name another host than this screen. Any thread.

A site that lets its own name lead to this machine's address could otherwise read the screen in a visitor's browser (DNS
rebinding). A request to an address, without a name, cannot come about in that way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OwnHost:
    """Passes on requests whose `Host` is allowed.

    Args:
        app: What is protected.
        hosts: The host names and addresses; `*.` stands for one label.
        any_address: Whether every IP address is allowed.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], *, any_address: bool) -> None:
        self._app, self._any_address = app, any_address
        self._hosts = frozenset(host.lower() for host in (*hosts, *LOOPBACK))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not self.is_allowed(Headers(scope=scope).get("host", "")):
            await PlainTextResponse("this screen has another name\n", 400)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def is_allowed(self, given: str) -> bool:
        """Return whether a request may have this `Host`."""
        host = given.lower()
        if host.startswith("["):
            host = host[1:].partition("]")[0]
        elif host.count(":") < 2:
            host = host.partition(":")[0]
        if host in self._hosts or f"*.{host.partition('.')[2]}" in self._hosts:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._any_address
