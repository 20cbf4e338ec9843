"""Runs the real `anosegd view` for tests, and reads its stream of events over a plain socket."""

from __future__ import annotations

import http.client
import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.anosegd_line import LIMIT_S


class ViewServer:
    """`anosegd view` in a process of its own, at a free port. `prefix` is a command that runs it."""

    def __init__(self, folder: Path, *arguments: str, listen: str = "127.0.0.1:0", prefix: tuple[str, ...] = ()) -> None:
        self._log = folder / "view.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "anosegd", "view", "--listen", listen, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT_S)
        said = self.process.stdout.readline() if ready else ""
        if not said.startswith("the screen is at "):
            self.close()
            raise AssertionError(f"the screen does not start: {said}{self.log}")
        self.url = said.split()[-1]
        self.port = int(urlsplit(self.url).port or 0)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path exactly as it is written."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Send JSON as a page of this screen does. A header given as "" is left out; bytes, or an iterator, are sent as is."""
        sent = {"Origin": self.url.rstrip("/"), "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            content = body if isinstance(body, (bytes, Iterator)) else json.dumps(body).encode()
            connection.request("POST", path, content, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def stream(self, **headers: str) -> EventStream:
        return EventStream(self.port, headers)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Sent:
    kind: str
    id: str | None
    data: Any


class EventStream:
    """A connection to /events."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        self._connection.request("GET", "/events", headers={name.replace("_", "-"): value for name, value in headers.items()})
        self.answer = self._connection.getresponse()
        self.received: list[Sent] = []

    def next(self) -> Sent:
        fields: dict[str, str] = {}
        while (line := self.answer.readline().decode().rstrip("\n")) or not fields:
            if not line:
                raise EOFError("the stream ended")
            name, _, value = line.partition(": ")
            fields[name] = value
        sent = Sent(fields["event"], fields.get("id"), json.loads(fields["data"]))
        self.received.append(sent)
        return sent

    def wait_for(self, kind: str, **values: Any) -> Sent:
        """Return the next event of a kind that has these values."""
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at:
            sent = self.next()
            if sent.kind == kind and all(sent.data.get(name) == value for name, value in values.items()):
                return sent
        raise AssertionError(f"no {kind} {values}; last: {self.received[-3:]}")

    def wait_for_list(self, kind: str) -> list[Any]:
        """Return the data of the next event of a kind whose data are a list."""
        while (sent := self.next()).kind != kind:
            pass
        return list(sent.data)

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


StartView = Callable[[], ViewServer]
