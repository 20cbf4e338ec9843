"""What the control socket does with a key's name: it limits the rate of its requests, and logs its commands."""

from __future__ import annotations

import json
import socket as socketlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from support.anosegd_line import LIMIT_S

from anosegd.client import Client, Key, RefusedError
from anosegd.control import Control
from anosegd.control.requests import TriggerRequest
from anosegd.keys import Guard, Keyring
from anosegd.keys.files import new_client_key, new_station_key, write_key


class Station:
    """A control socket with keys; triggers succeed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "clients").mkdir(mode=0o755)
        self.secret = new_station_key()
        write_key(folder / "station.key", self.secret)
        keyring = Keyring(folder / "station.key", folder / "clients")
        keyring.load()
        self.guard = Guard(keyring)
        with socketlib.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"

        def unused(*_: object) -> None:
            raise AssertionError("this request is not sent")

        def trigger(_request: TriggerRequest, accepted: Callable[[dict[str, Any]], None]) -> None:
            accepted({"part_id": "1"})

        self.control = Control(
            self.address,
            None,
            state=lambda: b'{"state": "Ready"}',
            drain=lambda: None,
            engine=lambda: None,
            reload=unused,
            swap=unused,
            roll_back=unused,
            set_threshold=unused,
            pause=unused,
            prove=unused,
            trigger=trigger,
            recipe=unused,
            guard=self.guard,
        )

    def key(self, name: str, *, control: bool = False, file: str | None = None) -> Key:
        secret, authorised = new_client_key(name, self.secret.public, control=control, expires=None)
        write_key(self.folder / "clients" / f"{file or name}.pub", authorised)
        return Key(secret.name, secret.public, secret.secret, secret.station)

    def client(self, key: Key) -> Client:
        return Client(control=self.address, key=key, request_timeout_s=20)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    station = Station(tmp_path)
    station.guard.start()
    station.control.start()
    try:
        yield station
    finally:
        station.control.stop()
        assert station.control.join(LIMIT_S)
        station.guard.stop()
        assert station.guard.join(LIMIT_S)


def test_all_connections_of_a_name_share_its_rate_and_others_are_served(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection sends more than one burst, and two keys of one name, as while they are changed, are one sender."""
    monkeypatch.setattr("anosegd.control.rates.RATE", 5.0)
    keys = [station.key("screen"), station.key("screen", file="screen-2")]
    refused = []
    with ExitStack() as stack:
        for number in range(12):
            client = stack.enter_context(station.client(keys[number % 2]))
            for _ in range(5):
                try:
                    client.status()
                except RefusedError as error:
                    refused.append(error.code)
        assert set(refused) == {"busy"}
        assert stack.enter_context(station.client(station.key("plc"))).status()["state"] == "Ready"


def test_a_client_with_many_triggers_does_not_hide_another_command(station: Station, caplog: pytest.LogCaptureFixture) -> None:
    """Lines that repeat are counted; the first line of each command and key is logged."""
    caplog.set_level("INFO", "anosegd")
    with station.client(station.key("plc", control=True)) as plc, station.client(station.key("office", control=True)) as office:
        for _ in range(20):
            plc.trigger("top")
        plc.request("drain")
        office.request("drain")
    said = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request.command"]
    assert {(line["key"], line["op"]) for line in said} == {("plc", "trigger"), ("plc", "drain"), ("office", "drain")}
    assert len(said) < 20


def test_a_refused_request_is_logged_with_the_keys_name(station: Station, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that is malformed."""
    screen = station.key("screen")
    with station.client(screen) as client, pytest.raises(RefusedError, match="forbidden"):
        client.trigger("top")
    with station.client(station.key("tester", control=True)) as client, pytest.raises(RefusedError, match="bad_request"):
        client.request("fly")
    said = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request.refused"]
    assert {(line["key"], line["code"]) for line in said} == {("screen", "forbidden"), ("tester", "bad_request")}


def test_an_answer_goes_to_the_client_that_asked(station: Station) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as first, context.socket(zmq.REQ) as second:
        for socket, name in ((first, "one"), (second, "two")):
            key = station.key(name)
            socket.linger = 0
            socket.curve_serverkey, socket.curve_publickey = key.station.encode(), key.public.encode()
            socket.curve_secretkey = key.secret.encode()
            socket.connect(station.address)
            socket.send_json({"id": name, "op": "status"})
        assert json.loads(second.recv())["id"] == "two"
        assert json.loads(first.recv())["id"] == "one"
