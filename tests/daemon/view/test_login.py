"""Log-in, sessions and roles over real HTTP."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.anosegd_line import LIMIT_S, Line, run_anosegd, wait_until
from support.view_server import EventStream, ViewServer

from anosegd.view.analysis import Analysis
from anosegd.view.app import PAGES
from anosegd.view.people import Role
from anosegd.view.sessions import Sessions, TooManyAttemptsError
from anosegd.view.users import add_user, revoke_user

THRESHOLD = {"camera": "top", "value": 0.75, "why": "a test"}
PROTECTED = (
    "/events",
    "/settings",
    "/journal",
    "/part?journal=x&seq=1",
    "/parts.csv",
    "/pictures/x/1/map",
    "/nothing",
    "/login.html",
)
PUBLIC = ("/login", "/login.js", "/style.css", "/en.json", "/icon.svg")


@pytest.fixture
def users(tmp_path: Path) -> Path:
    return tmp_path / "users.json"


@pytest.fixture
def tokens(users: Path) -> dict[Role, str]:
    """A user for each role."""
    roles: tuple[Role, ...] = ("see", "mark", "change")
    return {role: add_user(users, f"person who may {role}", role) for role in roles}


@pytest.fixture
def view(config: Path, users: Path, tokens: dict[Role, str], tmp_path: Path) -> Iterator[ViewServer]:
    view = ViewServer(tmp_path, str(config), "--users", str(users))
    try:
        yield view
    finally:
        view.close()


def log_in(view: ViewServer, token: str) -> str:
    """Return the cookie."""
    answer = view.post("/login", {"token": token})
    assert answer.status == 200, answer.body
    return answer.headers["set-cookie"].partition(";")[0]


def wait_for_end(stream: EventStream) -> None:
    give_up_at = time.monotonic() + LIMIT_S
    with contextlib.suppress(EOFError):
        while time.monotonic() < give_up_at:
            stream.next()
    assert time.monotonic() < give_up_at


def test_nobody_sees_without_login(view: ViewServer, tokens: dict[Role, str]) -> None:
    """Pages lead to the page of login and back, everything else is refused; the page of login works."""
    for path in PROTECTED:
        for cookie in ("", "session-0=", "session-0=x", "session-0=" + "a" * 4000, "session-0=\xe9"):
            answer = view.get(path, **({"Cookie": cookie} if cookie else {}))
            assert (answer.status, answer.json()["error"]) == (401, "no_login"), path
    for path, back in (("/", ""), ("/parts?camera=top&part=a%26b", "parts%3Fcamera%3Dtop%26part%3Da%2526b")):
        answer = view.get(path)
        assert (answer.status, answer.headers["location"]) == (303, f"/login?to={back}")
    for name in PAGES:
        assert view.get(f"/{name}").status == 303, name
    routes = [*Analysis(None, None, ()).routes, "/bundles.json"]
    assert len(routes) > 3
    for path in routes:
        assert view.get(path).status == 401, path
    assert view.get("/?lang=de&x=1").headers["location"] == "/login?to=%3Flang%3Dde%26x%3D1&lang=de"
    for path in PUBLIC:
        assert view.get(path).status == 200
    for path in ("/login/../settings", "//settings", "/login%2f..%2fsettings", "/LOGIN", "/style.css/../settings"):
        assert view.get(path).status in (401, 404), path
    cookie = log_in(view, tokens["see"])
    for path in ("/", "/parts"):
        assert view.get(path, Cookie=cookie).status == 200
    assert view.get("/settings", Cookie=cookie).json()["person"] == {"name": "person who may see", "role": "see"}


def test_cookie_is_kept_from_scripts_and_sites(view: ViewServer, tokens: dict[Role, str]) -> None:
    """HttpOnly and SameSite=Strict, for this host only, and for as long as the browser runs; another value each time."""
    answer = view.post("/login", {"token": tokens["see"]})
    value, *flags = [part.strip() for part in answer.headers["set-cookie"].split(";")]
    assert {flag.lower() for flag in flags} == {"httponly", "samesite=strict", "path=/"}
    assert len(value.partition("=")[2]) >= 43
    assert value != log_in(view, tokens["see"])


def test_wrong_and_revoked_tokens_are_the_same(view: ViewServer, users: Path, tokens: dict[Role, str]) -> None:
    """Nobody learns from an answer that a token was once valid; no token is in the log or in an answer."""
    cookie = log_in(view, tokens["see"])
    revoke_user(users, "person who may see")
    wait_until(lambda: view.get("/settings", Cookie=cookie).status == 401, "the screen has read the file again")
    answers = [view.post("/login", {"token": token}) for token in (tokens["see"], "wrong", tokens["mark"][:-1], "")]
    assert {(answer.status, answer.body) for answer in answers} == {(403, answers[0].body)}
    assert all("set-cookie" not in answer.headers for answer in answers)
    log_in(view, tokens["mark"])
    for body in (b"", b"{}", b'{"token":1}', b'{"token":"x","more":1}'):
        assert view.post("/login", body).status == 400
    assert view.post("/login", b"x" * 100_000).status == 413
    assert view.post("/login", {"token": tokens["mark"]}, Origin="http://evil.example").status == 403
    assert view.post("/login", {"token": tokens["mark"]}, Content_Type="text/plain").status == 415
    log = view.log
    assert '"login.refused"' in log
    assert '"login.done"' in log
    for token in tokens.values():
        assert token not in log
        assert token.split("-")[3] not in log


def test_attempts_are_limited(view: ViewServer, tokens: dict[Role, str]) -> None:
    """After ten attempts from one address there is a pause, also for a valid token; the screen itself goes on."""
    cookie = log_in(view, tokens["see"])
    statuses = [view.post("/login", {"token": "wrong"}).status for _ in range(30)]
    assert statuses.count(403) <= 12
    answer = view.post("/login", {"token": tokens["see"]})
    assert (answer.status, answer.json()["error"]) == (429, "too_many_attempts")
    assert view.get("/settings", Cookie=cookie).status == 200


def logged_in(sessions: Sessions, attempts: Iterable[tuple[str, str]]) -> list[str | None]:
    """Try each token from its address, all at once. Return the cookies; "refused" where somebody has tried too often."""

    async def attempt(token: str, address: str) -> str | None:
        try:
            return await sessions.log_in(token, address)
        except TooManyAttemptsError:
            return "refused"

    async def all_of_them() -> list[str | None]:
        return await asyncio.gather(*(attempt(*one) for one in attempts))

    return asyncio.run(all_of_them())


@pytest.fixture
def sessions(users: Path, tokens: dict[Role, str]) -> Iterator[Sessions]:
    sessions = Sessions(users, secure=True, port=8443)
    sessions.load()
    yield sessions
    sessions.stop()


def test_attempts_from_many_addresses_lock_nobody_out(sessions: Sessions, tokens: dict[Role, str]) -> None:
    """Whoever guesses tokens, from however many addresses, does not keep others from logging in."""
    guesses = [(f"{n:04d}-guess", f"10.0.{n // 100}.{n % 100}") for n in range(200)]
    found = logged_in(sessions, [*guesses, (tokens["see"], "192.168.1.5")])
    assert found[-1] not in (None, "refused")
    assert "refused" in found  # so many at once cannot all be hashed


def test_attempts_are_limited_for_each_user_and_network(sessions: Sessions, tokens: dict[Role, str]) -> None:
    """Guesses at one user's token are limited over all addresses. A network of IPv6 addresses counts as one address."""
    for n in range(12):
        found = logged_in(sessions, [(tokens["see"][:-1], f"10.0.0.{n}")])
        assert found == (["refused"] if n >= 10 else [None])
    assert logged_in(sessions, [(tokens["mark"], "10.0.0.99")]) not in (["refused"], [None])
    for n in range(12):
        found = logged_in(sessions, [(f"{n:04d}-guess", f"2001:db8::{n + 1}")])
        assert found == (["refused"] if n >= 10 else [None])
    assert logged_in(sessions, [(tokens["mark"], "2001:db8:0:1::1")]) not in (["refused"], [None])


def test_role_decides(line: Line, config: Path, view: ViewServer, tokens: dict[Role, str]) -> None:
    """Only the role `change` sets a threshold; the journal gets the user's name, whatever the page says."""
    line.run(config)
    line.listener.wait_for_verdicts(1)
    for role in ("see", "mark"):
        cookie = log_in(view, tokens[role])
        answer = view.post("/changes/set_threshold", {"who": "eve", "values": THRESHOLD}, Cookie=cookie)
        assert (answer.status, answer.json()["error"]) == (403, "not_allowed")
    cookie = log_in(view, tokens["change"])
    assert view.post("/changes/set_threshold", {"who": "eve", "values": THRESHOLD}, Cookie=cookie).status == 200
    changes = run_anosegd("changes", str(config), "--json").stdout.splitlines()
    assert json.loads(changes[-1])["who"] == "person who may change"
    assert view.post("/changes/set_threshold", {"who": "eve", "values": THRESHOLD}).status == 401
    forged = view.post("/changes/set_threshold", {"values": THRESHOLD}, Cookie=cookie, Origin="http://evil.example")
    assert forged.status == 403


def test_revoked_user_is_out_within_seconds(view: ViewServer, users: Path, tokens: dict[Role, str]) -> None:
    """The open stream ends, and the session opens nothing any more; other users stay."""
    cookie, other = log_in(view, tokens["see"]), log_in(view, tokens["mark"])
    stream, stays = view.stream(Cookie=cookie), view.stream(Cookie=other)
    stream.wait_for("hello")
    began = time.monotonic()
    revoke_user(users, "person who may see")
    wait_for_end(stream)
    assert time.monotonic() - began < 10
    assert view.get("/settings", Cookie=cookie).status == 401
    add_user(users, "person who may see", "change")  # the same name again does not open the old session
    time.sleep(2)
    assert view.get("/settings", Cookie=cookie).status == 401
    assert view.get("/settings", Cookie=other).status == 200
    for _ in range(3):
        stays.wait_for("tick")
    stays.close()
    stream.close()


def test_log_out_ends_the_session(view: ViewServer, tokens: dict[Role, str]) -> None:
    """The cookie is worth nothing afterwards, also in a stream that is open; another site cannot log anybody out."""
    cookie = log_in(view, tokens["see"])
    assert view.post("/logout", Cookie=cookie, Origin="http://evil.example").status == 403
    assert view.get("/settings", Cookie=cookie).status == 200
    stream = view.stream(Cookie=cookie)
    answer = view.post("/logout", Cookie=cookie)
    assert (answer.status, "Max-Age=0" in answer.headers["set-cookie"]) == (200, True)
    assert view.get("/settings", Cookie=cookie).status == 401
    wait_for_end(stream)
    stream.close()


def test_unusable_file_lets_nobody_in(view: ViewServer, users: Path, tokens: dict[Role, str]) -> None:
    """A file that is damaged while the screen runs ends all sessions and is logged once; repaired, it serves again."""
    cookie = log_in(view, tokens["see"])
    good = users.read_text()
    users.write_text("{")
    wait_until(lambda: view.get("/settings", Cookie=cookie).status == 401, "the session has ended")
    assert view.post("/login", {"token": tokens["see"]}).status == 403
    time.sleep(2)  # it reads the file twice meanwhile
    assert view.log.count("users.unreadable") == 1
    users.write_text(good)
    statuses = []
    while 200 not in statuses and len(statuses) < 8:  # it pauses after ten attempts
        time.sleep(1)
        statuses.append(view.post("/login", {"token": tokens["see"]}).status)
    assert statuses[-1] == 200, statuses


def test_no_users_no_screen(config: Path, users: Path) -> None:
    """Without a user who may log in, the command says how to make the first one."""
    done = run_anosegd("view", str(config), "--listen", "127.0.0.1:0", "--users", str(users))
    assert done.returncode == 2
    assert f"anosegd user add --users {users} NAME --role change" in done.stderr
    add_user(users, "ada", "see", expires_s=1)
    done = run_anosegd("view", str(config), "--listen", "127.0.0.1:0", "--users", str(users))
    assert (done.returncode, "names nobody who may log in" in done.stderr) == (2, True)
    users.chmod(0o644)
    done = run_anosegd("view", str(config), "--listen", "127.0.0.1:0", "--users", str(users))
    assert (done.returncode, "others may use this file (mode 0644)" in done.stderr) == (2, True)


def test_screens_of_one_machine_do_not_share_a_session(tmp_path: Path) -> None:
    """A browser sends cookies to every port of a host: a second screen must not overwrite the first one's."""
    names = {Sessions(tmp_path, secure=secure, port=port).cookie for secure in (True, False) for port in (8443, 8444)}
    assert len(names) == 4
