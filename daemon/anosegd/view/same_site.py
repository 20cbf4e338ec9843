"""Refuses requests that pages of other sites send. Any thread.

A browser may send the cookies of this screen with a request that a page of another site makes. `Origin` and `Sec-Fetch-Site`
say which page asks: the browser sets them, and no page can.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection


def is_own_page(request: HTTPConnection) -> bool:
    """Return whether a page of this screen sends the request. A request without `Origin` is not taken for one.

    The name in `Host` must have been checked before: it is what `Origin` is compared with.
    """
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    return request.headers.get("origin") == own and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
