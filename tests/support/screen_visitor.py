"""Visits a screen as a browser does, with the standard library alone: `screen_visitor.py ORIGIN PATH [TOKEN]`. Prints JSON.

It shows the certificate's fingerprint; the status of PATH without a login, and of a login with a wrong token; who is logged in
with TOKEN; what PATH then answers; and the first event of the stream.
"""

import hashlib
import http.client
import json
import ssl
import sys
from typing import Any
from urllib.parse import urlsplit

LIMIT_S = 10.0
ANY_CERTIFICATE = ssl.create_default_context()
ANY_CERTIFICATE.check_hostname = False
ANY_CERTIFICATE.verify_mode = ssl.CERT_NONE


def connect(origin: str) -> http.client.HTTPConnection:
    place = urlsplit(origin)
    assert place.hostname is not None
    if place.scheme == "https":
        return http.client.HTTPSConnection(place.hostname, place.port, timeout=LIMIT_S, context=ANY_CERTIFICATE)
    return http.client.HTTPConnection(place.hostname, place.port, timeout=LIMIT_S)


def ask(origin: str, path: str, cookie: str = "", body: dict[str, str] | None = None) -> tuple[int, Any, str]:
    """Return status, decoded body and cookie of an answer."""
    connection = connect(origin)
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json", "Cookie": cookie}
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    content = answer.read()
    is_json = answer.getheader("content-type", "").startswith("application/json")
    return answer.status, json.loads(content) if is_json else None, (answer.getheader("set-cookie") or "").partition(";")[0]


def first_event(origin: str, cookie: str) -> str:
    connection = connect(origin)
    connection.request("GET", "/events", headers={"Cookie": cookie})
    answer = connection.getresponse()
    if answer.status != 200:
        return ""
    while not (line := answer.readline().decode()).startswith("event: "):
        assert line, "the stream ended"
    return line.removeprefix("event: ").strip()


def fingerprint(origin: str) -> str:
    connection = connect(origin)
    connection.connect()
    certificate = connection.sock.getpeercert(binary_form=True)
    connection.close()
    return hashlib.sha256(certificate).digest().hex(":").upper()


def main() -> None:
    origin, path, token = [*sys.argv[1:], ""][:3]
    found: dict[str, Any] = {"without": ask(origin, path)[0]}
    cookie = ""
    if urlsplit(origin).scheme == "https":
        found["fingerprint"] = fingerprint(origin)
        found["wrong"] = ask(origin, "/login", body={"token": "wrong"})[0]
        cookie = ask(origin, "/login", body={"token": token})[2]
    person = (ask(origin, "/settings", cookie)[1] or {}).get("person")
    found |= {"who": person and person["name"], "body": ask(origin, path, cookie)[1], "event": first_event(origin, cookie)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
