"""Who is admitted to a protected socket, over real connections. Refusals are proved beside a client that is admitted."""

import errno
import json
import os
import socket as socketlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import zmq
from support.anosegd_line import wait_until

from anoseg_engines.errors import ConfigError
from anosegd.client import Key, connect
from anosegd.keys import Guard, Keyring
from anosegd.keys.files import new_client_key, new_station_key, write_key
from anosegd.keys.guard import new_socket

LIMIT_S = 30.0
REFUSED_S = 1.5
"""A client that is admitted receives within a few milliseconds; see `receives`, which tries again until the limit."""


class Station:
    """A keyring in a folder, a guard, and a publisher that repeats one message."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "clients").mkdir(mode=0o755)
        self.secret = new_station_key()
        write_key(folder / "station.key", self.secret)
        self.keyring = Keyring(folder / "station.key", folder / "clients")
        self.guard = Guard(self.keyring)
        self.port = 0
        self._bound, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def start(self, *, guard: bool = True) -> None:
        self.keyring.load()
        if guard:
            self.guard.start()
        self._thread.start()
        self._bound.wait(LIMIT_S)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if not self.guard.alive:
            self.guard.start()  # to close what it would have closed
        self.guard.stop()
        assert self.guard.join(LIMIT_S)
        assert self.guard.failure is None

    def client(self, name: str, days: int | None = None) -> Key:
        expires = None if days is None else datetime.now(timezone.utc).date() + timedelta(days)
        secret, authorised = new_client_key(name, self.secret.public, control=False, expires=expires)
        write_key(self.folder / "clients" / f"{name}.pub", authorised)
        write_key(self.folder / f"{name}.key", secret)
        return Key.read(self.folder / f"{name}.key")

    def revoke(self, name: str) -> None:
        (self.folder / "clients" / f"{name}.pub").unlink()

    def _publish(self) -> None:
        with new_socket(zmq.XPUB, self.guard) as (socket, limits):
            socket.bind("tcp://127.0.0.1:0")
            self.port = int(socket.get(zmq.LAST_ENDPOINT).rpartition(b":")[2].rstrip(b"\0"))
            self._bound.set()
            while not self._stopping.wait(0.02):
                limits.check()
                while socket.poll(0):
                    frame = socket.recv(copy=False)
                    if frame.bytes[:1] == b"\1":
                        self.guard.peer(frame)
                socket.send(b"verdict secret-part-id")


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    station = Station(tmp_path)
    try:
        yield station
    finally:
        station.stop()


@contextmanager
def subscriber(set_up: Callable[[zmq.Socket[bytes]], None]) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(b"")
        set_up(socket)
        yield socket


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why clients were refused, or the event where it has no reason."""
    return [record.__dict__.get("fields", {}).get("why") or record.getMessage() for record in caplog.records]


def receives(station: Station, key: Key, timeout_s: float = LIMIT_S) -> bool:
    with subscriber(lambda socket: connect(socket, f"tcp://127.0.0.1:{station.port}", key)) as socket:
        return bool(socket.poll(timeout_s * 1000))


def test_a_client_with_an_authorised_key_receives(station: Station) -> None:
    key = station.client("screen")
    station.start()
    assert receives(station, key)


def _no_key(_: zmq.Socket[bytes]) -> None:
    pass


def _plain(socket: zmq.Socket[bytes]) -> None:
    socket.plain_username, socket.plain_password = b"screen", b"password"


@pytest.mark.parametrize("set_up", [_no_key, _plain])
def test_a_client_without_a_key_receives_nothing(
    station: Station, set_up: Callable[[zmq.Socket[bytes]], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "anosegd")
    key = station.client("screen")
    station.start()
    with subscriber(set_up) as socket:
        socket.connect(f"tcp://127.0.0.1:{station.port}")
        assert receives(station, key)
        assert not socket.poll(REFUSED_S * 1000)
    # Which of the two is logged depends on who closes the connection first.
    wait_until(lambda: bool({"the client uses no key", "key.unfinished"} & set(reasons(caplog))), "the refusal is logged")


def test_a_key_that_is_not_authorised_receives_nothing_until_it_is(station: Station, caplog: pytest.LogCaptureFixture) -> None:
    station.start()
    stranger, authorised = new_client_key("late", station.secret.public, control=False, expires=None)
    key = Key(stranger.name, stranger.public, stranger.secret, stranger.station)
    with subscriber(lambda socket: connect(socket, f"tcp://127.0.0.1:{station.port}", key)) as socket:
        assert not socket.poll(REFUSED_S * 1000)
        wait_until(lambda: "the key is not authorised" in reasons(caplog), "the refusal is logged")
        refused = [record.fields for record in caplog.records if record.getMessage() == "key.refused"]  # type: ignore[attr-defined]
        assert {"address": "127.0.0.1", "public": key.public}.items() <= refused[0].items()
        assert receives(station, station.client("screen"))  # so the socket does serve
        write_key(station.folder / "clients" / "late.pub", authorised)
        assert socket.poll(LIMIT_S * 1000)  # without a restart of either side


def test_the_key_of_another_station_receives_nothing(station: Station, caplog: pytest.LogCaptureFixture) -> None:
    key = station.client("screen")
    station.start()
    other = key._replace(station=new_station_key().public)
    assert receives(station, key)
    assert not receives(station, other, REFUSED_S)
    wait_until(lambda: "the client has another station's public key" in reasons(caplog), "the refusal is logged")


def test_a_key_is_accepted_up_to_its_last_day(station: Station, caplog: pytest.LogCaptureFixture) -> None:
    today, yesterday = station.client("today", days=0), station.client("yesterday", days=-1)
    station.start()
    assert receives(station, today)
    assert not receives(station, yesterday, REFUSED_S)
    wait_until(lambda: any("the key of yesterday expired on" in why for why in reasons(caplog)), "the refusal is logged")


def test_a_revoked_key_loses_its_open_connection_and_no_other_does(station: Station) -> None:
    kept, revoked = station.client("kept"), station.client("revoked")
    station.start()
    url = f"tcp://127.0.0.1:{station.port}"
    with (
        subscriber(lambda socket: connect(socket, url, kept)) as stays,
        subscriber(lambda socket: connect(socket, url, revoked)) as goes,
    ):
        assert stays.poll(LIMIT_S * 1000)
        assert goes.poll(LIMIT_S * 1000)
        events = stays.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        station.revoke("revoked")
        give_up_at = time.monotonic() + LIMIT_S
        while goes.poll(REFUSED_S * 1000):  # until nothing comes for this long
            goes.recv()
            assert time.monotonic() < give_up_at
        stays.recv()
        assert stays.poll(LIMIT_S * 1000)
        assert not events.poll(0)
        stays.disable_monitor()
        events.close()


def test_two_keys_of_one_client_are_accepted_while_they_are_changed(station: Station) -> None:
    old, new = station.client("screen"), station.client("screen-2")
    station.start()
    assert receives(station, old)
    assert receives(station, new)


def test_without_the_guards_answer_nobody_is_admitted(station: Station) -> None:
    """libzmq would admit every key if nobody answered it and the socket did not insist."""
    key = station.client("screen")
    station.start(guard=False)
    assert not receives(station, key, REFUSED_S)


def test_what_is_sent_cannot_be_read_on_the_wire(station: Station) -> None:
    key = station.client("screen")
    station.start()
    seen = bytearray()
    with closing(socketlib.create_server(("127.0.0.1", 0))) as listener:
        tap = threading.Thread(target=_relay, args=(listener, station.port, seen))
        tap.start()
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with subscriber(lambda socket: connect(socket, url, key)) as socket:
            assert socket.poll(LIMIT_S * 1000)
            assert b"secret-part-id" in socket.recv()
        tap.join(LIMIT_S)
    assert len(seen) > 200
    assert b"secret-part-id" not in seen
    assert key.secret.encode() not in seen


def _relay(listener: socketlib.socket, port: int, seen: bytearray) -> None:
    """Pass bytes on between a client and the station until one of them closes, and remember those of the station."""
    client, _ = listener.accept()
    server = socketlib.create_connection(("127.0.0.1", port))

    def pump(source: socketlib.socket, target: socketlib.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(65536):
                kept += data
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socketlib.SHUT_RDWR)

    up = threading.Thread(target=pump, args=(client, server, bytearray()))
    up.start()
    pump(server, client, seen)
    up.join()
    client.close()
    server.close()


def test_a_file_that_is_no_authorisation_authorises_nobody_and_harms_nobody(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    key = station.client("screen")
    (station.folder / "clients" / "broken.pub").write_text('{"kind": "authorised", "name": "x"')
    (station.folder / "clients" / "secret.pub").write_text(json.dumps({"kind": "client", "name": "x", "secret": "y" * 40}))
    (station.folder / "clients" / "folder.pub").mkdir()
    os.mkfifo(station.folder / "clients" / "pipe.pub")  # opening one waits for a writer
    station.start()
    assert receives(station, key)
    assert receives(station, station.client("more"))  # the folder was read again
    assert "y" * 40 not in caplog.text


def test_without_free_descriptors_known_keys_stay_authorised(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many connections must not throw out the clients that have a key."""
    key, gone = station.client("screen"), station.client("gone")
    station.keyring.load()
    station.revoke("gone")

    def no_descriptors(*_: object) -> list[Path]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", no_descriptors)
        time.sleep(1.1)
        assert station.keyring.client(key.public) is not None
    time.sleep(1.1)
    assert station.keyring.client(gone.public) is None
    assert station.keyring.client(key.public) is not None


def test_a_file_whose_permissions_change_is_read_again(station: Station) -> None:
    key = station.client("screen")
    file = station.folder / "clients" / "screen.pub"
    content = file.read_text()
    file.write_text("half")
    station.keyring.load()
    assert station.keyring.client(key.public) is None
    file.write_text(content)
    time.sleep(0.1)
    assert station.keyring.client(key.public) is not None


def test_a_dead_guard_ends_its_thread(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """The station looks for dead threads; one that waits for its sockets forever would go unnoticed."""
    key = station.client("screen")
    station.start()
    assert receives(station, key)
    dead = Guard(station.keyring)
    monkeypatch.setattr(dead, "_close_revoked", lambda: 1 / 0)
    dead.start_until(dead._bound)
    with dead.context.socket(zmq.PULL):  # a socket that stays open
        assert dead.join(LIMIT_S)
    assert isinstance(dead.failure, ZeroDivisionError)
    dead.context.term()


class Frame:
    """A message of a client, whose connection may be closed already."""

    def __init__(self, public: str, descriptor: int) -> None:
        self._values = {"User-Id": public, zmq.SRCFD: descriptor}

    def get(self, name: object) -> object:
        return self._values[name]  # type: ignore[index]


def _is_open(end: socketlib.socket) -> bool:
    end.setblocking(False)
    try:
        return end.recv(1) != b""
    except BlockingIOError:
        return True


def test_a_descriptor_that_is_used_again_is_not_taken_for_the_connection_before(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libzmq closes a revoked client's connection, and another one gets its number, while the guard looks at it."""
    revoked = station.client("revoked")
    station.keyring.load()
    guard = station.guard
    connection, its_client = socketlib.socketpair()
    other, other_client = socketlib.socketpair()
    assert guard.peer(Frame(revoked.public, connection.fileno())) is not None  # type: ignore[arg-type]
    station.revoke("revoked")
    time.sleep(1.1)
    look = os.fstat

    def look_and_use_again(descriptor: int) -> os.stat_result:
        seen = look(descriptor)
        os.dup2(other.fileno(), connection.fileno())
        return seen

    with connection, its_client, other, other_client:
        with monkeypatch.context() as patched:
            patched.setattr("anosegd.descriptors.os.fstat", look_and_use_again)
            guard._close_revoked()
        assert _is_open(other_client)
        assert not _is_open(its_client)


def test_a_message_of_a_closed_connection_does_not_hide_the_client_that_has_its_descriptor_now(station: Station) -> None:
    """A message may be read after its connection was closed and another client got the descriptor."""
    kept, revoked = station.client("kept"), station.client("revoked")
    station.keyring.load()
    connection, its_client = socketlib.socketpair()
    with connection, its_client:
        for public in (revoked.public, kept.public):
            assert station.guard.peer(Frame(public, connection.fileno())) is not None  # type: ignore[arg-type]
        station.revoke("revoked")
        time.sleep(1.1)
        station.guard._close_revoked()
        assert not _is_open(its_client)


def test_a_file_with_a_connections_descriptor_is_left_alone(station: Station, tmp_path: Path) -> None:
    revoked = station.client("revoked")
    station.keyring.load()
    with (tmp_path / "verdicts.db").open("wb") as file:
        station.guard.peer(Frame(revoked.public, file.fileno()))  # type: ignore[arg-type]
        station.revoke("revoked")
        time.sleep(1.1)
        before = set(Path("/proc/self/fd").iterdir())
        station.guard._close_revoked()
        assert set(Path("/proc/self/fd").iterdir()) == before
        file.write(b"verdict")


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, object]]:
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == event]


def test_files_that_are_not_read_because_there_are_too_many_are_named(
    station: Station, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit is lowered, so that the test writes few files."""
    monkeypatch.setattr("anosegd.keys.keyring.MAX_CLIENTS", 2)
    keys = [station.client(name) for name in ("a", "b", "c", "d")]
    station.keyring.load()
    assert [station.keyring.client(key.public) is not None for key in keys] == [True, True, False, False]
    (said,) = logged(caplog, "keys.too_many")
    assert said.items() >= {"files": 4, "read": 2, "first_not_read": "c.pub"}.items()
    station.revoke("a")
    time.sleep(1.1)
    assert station.keyring.client(keys[2].public) is not None
    assert [said["files"] for said in logged(caplog, "keys.too_many")] == [4, 3]


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_folder_in_which_others_may_write_starts_no_station(station: Station, mode: int) -> None:
    """As ssh refuses a file of authorised keys that others may write."""
    (station.folder / "clients").chmod(mode)
    with pytest.raises(ConfigError, match="other users may write in this folder") as refused:
        station.keyring.load()
    assert refused.value.hint == f"run: chmod go-w {station.folder / 'clients'}"


def test_while_others_may_write_in_the_folder_nobody_new_is_admitted_and_the_line_goes_on(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    known, gone = station.client("known"), station.client("gone")
    station.keyring.load()
    (station.folder / "clients").chmod(0o777)
    new = station.client("new")
    station.revoke("gone")
    time.sleep(1.1)
    assert [station.keyring.client(key.public) is not None for key in (known, gone, new)] == [True, False, False]
    assert len(logged(caplog, "keys.writable")) == 1
    (station.folder / "clients").chmod(0o755)
    time.sleep(0.1)
    assert station.keyring.client(new.public) is not None


def test_a_file_that_others_may_change_authorises_nobody(station: Station, caplog: pytest.LogCaptureFixture) -> None:
    key = station.client("screen")
    (station.folder / "clients" / "screen.pub").chmod(0o664)
    station.keyring.load()
    assert station.keyring.client(key.public) is None
    assert "other users may change this authorisation" in str(logged(caplog, "keys.unreadable"))
