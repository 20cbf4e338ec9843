"""Serving other machines: users and TLS are required, and certificates are checked."""

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.anosegd_line import LIMIT_S, run_anosegd
from support.view_server import ViewServer

from anoseg_engines.errors import ConfigError
from anosegd.view.hosts import OwnHost
from anosegd.view.tls import RENEW, VALID, load_certificate, own_certificate
from anosegd.view.users import add_user, certificate_beside


def outside_address() -> str:
    """An address of this machine that is no loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    pytest.skip("this machine has no network")


@pytest.fixture
def token(config: Path) -> str:
    """The token of the only user, beside the configuration."""
    return add_user(config.with_name(f"{config.stem}.users.json"), "ada", "change")


@pytest.fixture
def view(config: Path, token: str, tmp_path: Path) -> Iterator[ViewServer]:
    view = ViewServer(tmp_path, str(config), "--name", "Screen.Example", listen="0.0.0.0:0")
    try:
        yield view
    finally:
        view.close()


def ask(
    view: ViewServer, context: ssl.SSLContext, host: str, method: str = "GET", path: str = "/login", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPSConnection("127.0.0.1", view.port, timeout=LIMIT_S, context=context)
    with contextlib.closing(connection):
        sent = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        body = sent.pop("Body", None)
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def trusting(config: Path) -> ssl.SSLContext:
    """A client that trusts the screen's own certificate and nothing else, and checks the name."""
    return ssl.create_default_context(cafile=certificate_beside(config.with_name(f"{config.stem}.users.json")))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_other_addresses_need_users(address: str, config: Path, tmp_path: Path) -> None:
    """Without users nothing is served, no certificate is made, and the message has the command to make the first user."""
    done = run_anosegd("view", str(config), "--listen", address)
    assert done.returncode == 2
    assert "there are no users yet" in done.stderr
    assert f"anosegd user add --users {config.with_name(f'{config.stem}.users.json')} NAME --role change" in done.stderr
    assert list(tmp_path.rglob("*.pem")) == []
    done = run_anosegd("view", "--listen", address)
    assert (done.returncode, "give CONFIG or --users FILE" in done.stderr) == (2, True)


def test_own_certificate_serves(view: ViewServer, config: Path, token: str) -> None:
    """A client that was given the certificate connects by name; the printed fingerprint is that of the handshake."""
    printed = view.process.stdout.readline() if view.process.stdout else ""
    context = trusting(config)
    with (
        socket.create_connection(("127.0.0.1", view.port), LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname="screen.example") as secure,
    ):
        shown = hashlib.sha256(secure.getpeercert(True) or b"").digest().hex(":").upper()
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
    assert shown in printed
    host = f"127.0.0.1:{view.port}"
    status, headers, _ = ask(view, context, host)
    assert status == 200
    assert "strict-transport-security" not in headers  # a browser would not let anybody accept the certificate any more
    body = json.dumps({"token": token})
    own = {"Origin": f"https://{host}", "Content_Type": "application/json", "Body": body}
    status, headers, _ = ask(view, context, host, "POST", "/login", **own)
    cookie, *flags = [part.strip() for part in headers["set-cookie"].split(";")]
    assert status == 200
    assert {flag.lower() for flag in flags} == {"httponly", "samesite=strict", "path=/", "secure"}
    assert cookie.startswith("__Host-session-0=")
    status, _, content = ask(view, context, host, path="/settings", Cookie=cookie)
    assert (status, json.loads(content)["person"]["name"]) == (200, "ada")
    assert ask(view, context, host, path="/settings")[0] == 401
    status, _, _ = ask(view, context, host, "POST", "/login", **{**own, "Origin": f"http://{host}"})
    assert status == 403  # a page that came without TLS could be anybody's
    assert ask(view, context, "screen.example")[0] == 200
    assert ask(view, context, "evil.example")[0] == 400


def test_other_machines_reach_it(view: ViewServer, config: Path) -> None:
    """At an address of the network, the certificate is for that address; without TLS there is no answer."""
    address = outside_address()
    context = trusting(config)
    with socket.create_connection((address, view.port), LIMIT_S) as plain:
        context.wrap_socket(plain, server_hostname=address).close()
    with socket.create_connection((address, view.port), LIMIT_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(1000)
    assert view.stop() == 0
    assert view.log == ""


def test_own_certificate_stays(tmp_path: Path) -> None:
    """It is the same at each start, for its owner only, and made again before it ends or for a new name."""
    path = tmp_path / "line.tls.pem"
    first = own_certificate(path, {"10.1.2.3", "screen.example"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {"screen.example", "localhost"} <= first.names
    assert {"10.1.2.3", "127.0.0.1", "::1"} <= first.addresses
    assert own_certificate(path, {"10.1.2.3"}).fingerprint == first.fingerprint
    assert own_certificate(path, {"SCREEN.example"}).fingerprint == first.fingerprint
    now = datetime.now(timezone.utc)
    late = own_certificate(path, set(), now=now + VALID - RENEW + timedelta(hours=1))
    assert late.fingerprint != first.fingerprint
    other = own_certificate(path, {"other.example"})
    assert "other.example" in other.names
    path.write_bytes(path.read_bytes()[:-100])
    assert own_certificate(path, set()).fingerprint != other.fingerprint
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_bad_certificates_are_refused(config: Path, token: str, tmp_path: Path) -> None:
    """Each message names the file and what is wrong with it; none asks for a password."""
    from cryptography.hazmat.primitives import serialization

    pem, other = tmp_path / "a.pem", tmp_path / "b.pem"
    own_certificate(pem, set())
    own_certificate(other, set())
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    text.chmod(0o600)
    certificate_only = tmp_path / "c.pem"
    certificate_only.write_text(pem.read_text().partition("-----BEGIN PRIVATE KEY")[0])
    certificate_only.chmod(0o600)
    key = serialization.load_pem_private_key(pem.read_bytes(), None)
    secret = tmp_path / "secret.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    secret.chmod(0o600)
    everybody = tmp_path / "open.pem"
    everybody.write_bytes(pem.read_bytes())
    everybody.chmod(0o644)
    for given, said in (
        ((tmp_path / "none.pem", None), r"none\.pem: cannot be read \(No such file"),
        ((tmp_path, None), r"cannot be read \(Is a directory"),
        ((text, None), r"text\.pem: is not a certificate"),
        ((certificate_only, None), r"c\.pem: is not a private key"),
        ((pem, text), r"text\.pem: is not a private key"),
        ((pem, other), r"b\.pem: is not the key of .*a\.pem"),
        ((pem, secret), r"secret\.pem: the key is encrypted"),
        ((pem, everybody), r"open\.pem: everybody may use this key \(mode 0644\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_certificate(*given)
    done = run_anosegd("view", str(config), "--listen", "0.0.0.0:0", "--certificate", str(pem), "--certificate-key", str(other))
    assert done.returncode == 2
    assert "is not the key of" in done.stderr
    done = run_anosegd("view", str(config), "--listen", "127.0.0.1:0", "--certificate-key", str(other))
    assert (done.returncode, "--certificate FILE" in done.stderr) == (2, True)


def test_given_certificate_serves(config: Path, token: str, tmp_path: Path) -> None:
    """A certificate and a key of one's own in two files, on a loopback address too."""
    pem = tmp_path / "a.pem"
    given = own_certificate(pem, {"screen.example"})
    head, mark, key = pem.read_text().partition("-----BEGIN PRIVATE KEY")
    (tmp_path / "cert.pem").write_text(head)
    (tmp_path / "key.pem").write_text(mark + key)
    (tmp_path / "key.pem").chmod(0o640)
    options = ("--certificate", str(tmp_path / "cert.pem"), "--certificate-key", str(tmp_path / "key.pem"))
    view = ViewServer(tmp_path, str(config), *options)
    try:
        assert view.url.startswith("https://127.0.0.1:")
        assert given.fingerprint in (view.process.stdout.readline() if view.process.stdout else "")
        assert ask(view, ssl.create_default_context(cafile=pem), "screen.example", path="/settings")[0] == 200
    finally:
        view.close()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("screen.example", True),
        ("SCREEN.example:8443", True),
        ("10.9.8.7:8443", True),
        ("[fe80::1]:8443", True),
        ("a.plant.example", True),
        ("a.b.plant.example", False),
        ("plant.example", False),
        ("evil.example", False),
        ("10.9.8.7.evil.example", False),
        ("screen.example.", False),
        ("", False),
        ("[", False),
        ("*.plant.example", True),
    ],
)
def test_names_are_checked(host: str, allowed: bool) -> None:
    """A site that points its own name at this machine is refused; addresses are not names."""

    async def app(*_: object) -> None:
        return None

    assert OwnHost(app, {"screen.example", "*.plant.example"}, any_address=True).is_allowed(host) is allowed


def test_connection_without_a_request_is_closed(view: ViewServer, config: Path) -> None:
    """Whoever connects and sends nothing, or one letter after another, loses the connection within seconds."""
    context = trusting(config)
    context.check_hostname = False
    silent = context.wrap_socket(socket.create_connection(("127.0.0.1", view.port), LIMIT_S))
    slow = context.wrap_socket(socket.create_connection(("127.0.0.1", view.port), LIMIT_S))
    began = time.monotonic()
    with contextlib.suppress(OSError):  # the connection is closed
        for letter in b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1000:
            slow.sendall(bytes([letter]))
            time.sleep(0.2)
    assert time.monotonic() < began + LIMIT_S
    assert silent.recv(10) == b""
    silent.close()
    slow.close()
