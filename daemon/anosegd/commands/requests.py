"""What the command line asks of a station beyond its live stream: replay, export, drain, reload, swap. Built on `client`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import zmq

from anoseg_engines.errors import AnosegError, ConfigError, PublishError
from anosegd.client import Client, ClientError, Event, Verdict

T = TypeVar("T")
PROVING_TIMEOUT_S = 60.0
"""A reload and a swap prove a bundle first, which takes as long as that takes."""
COLUMNS = (
    "seq",
    "captured_at",
    "committed_at",
    "camera",
    "part_id",
    "outcome",
    "reason",
    "score",
    "threshold",
    "recipe",
    "source",
)


class Where(NamedTuple):
    """A station's endpoints; control: None if it has no control socket."""

    publish: str
    control: str | None


@contextmanager
def opened(
    where: Where,
    *,
    on_event: Callable[[Event], None] | None = None,
    on_state: Callable[[dict[str, Any]], None] | None = None,
    request_timeout_s: float = 2.0,
) -> Iterator[Client]:
    """A client of the station.

    Raises:
        ConfigError: an endpoint is none. PublishError: the station does not answer, or refuses.
    """
    try:
        with Client(
            where.publish, where.control, on_event=on_event, on_state=on_state, request_timeout_s=request_timeout_s
        ) as client:
            yield client
    except zmq.ZMQError as error:
        raise ConfigError(f"{where.publish}: not an endpoint ({error.strerror})", hint="write tcp://127.0.0.1:PORT") from error
    except ClientError as error:
        raise PublishError(str(error), hint="is the station running, and is `control` in its configuration?") from error


def decoded(header: dict[str, Any], kind: type[T]) -> T:
    """A header as `kind`.

    Raises:
        ConfigError: it is not such a header: another program, or another version, publishes there.
    """
    try:
        return msgspec.convert(header, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a header that this version does not understand: {error}") from error


def first_since(client: Client, since: datetime | None) -> int | None:
    """The first number committed since then; None if no time is given."""
    return None if since is None else client.first_seq_since(_ns(since))


def print_lines(where: Where, first: int, last: int | None) -> None:
    """Write committed verdicts as JSON lines; what is missing is told on stderr."""
    with opened(where, on_event=_tell) as client:
        for verdict in client.replay(first, last):
            sys.stdout.write(json.dumps(verdict, separators=(",", ":"), ensure_ascii=False) + "\n")


def export_csv(where: Where, path: Path, since: datetime | None, until: datetime | None) -> int:
    """Write the verdicts committed from `since` up to `until` to a new CSV file; returns their number.

    Raises:
        ConfigError: the file exists. AnosegError: it cannot be written.
    """
    try:
        with opened(where, on_event=_tell) as client:
            first = client.first_seq_since(_ns(since)) if since else 1  # asked first: a station that is down leaves no file
            last = client.first_seq_since(_ns(until)) - 1 if until else None
            with path.open("x", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow((*COLUMNS, "defects"))
                rows = 0
                for verdict in client.replay(first, last):
                    writer.writerow(_row(verdict))
                    rows += 1
                return rows
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already", hint="give a new file") from error
    except OSError as error:
        raise AnosegError(f"{path}: cannot be written ({error.strerror})") from error


def ask(where: Where, op: str, **arguments: str) -> dict[str, Any]:
    """One request and its answer."""
    with opened(where, request_timeout_s=5.0 if op == "drain" else PROVING_TIMEOUT_S) as client:
        return client.request(op, **arguments)


def _row(verdict: Verdict) -> list[Any]:
    return [*(verdict.get(column) for column in COLUMNS), len(verdict["defects"])]


def _ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1e9)


def _tell(event: Event) -> None:
    if event.kind in ("gone", "void", "journal_changed"):
        print(f"anosegd: {event.kind} {event.first}…{event.last}: {event.detail}", file=sys.stderr)  # noqa: T201
