"""Connects to a running station. All commands that talk to a station use this module."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import zmq

from anoseg_engines.errors import ConfigError, PublishError
from anoseg_engines.files import shown_json
from anosegd.client import Client, ClientError, Event, Key, KeyFileError, NoAnswerError, RefusedError, RequestError, Verdict
from anosegd.config import DEFAULT_CONTROL, DEFAULT_ENDPOINT, load_config
from anosegd.endpoint import answers
from anosegd.keys import CLIENT_CREDENTIAL, CREDENTIALS, keep_out_of_core_dumps

T = TypeVar("T")


class Endpoints(NamedTuple):
    """Holds a station's addresses, and the configuration that they come from, if one was given.

    `control` is None for a station without a control socket. `key` is that of this client, where the station asks for one.
    """

    publish: str
    control: str | None
    config: Path | None = None
    key: Key | None = None

    @property
    def is_down(self) -> bool:
        """Whether nothing listens at any address of the station."""
        return not any(answers(endpoint) for endpoint in (self.publish, self.control) if endpoint is not None)

    @property
    def hint_to_start(self) -> str:
        """What to do about a station that is down."""
        return (
            f"start it: anosegd run {self.config}" if self.config else "start it, or give the configuration that it runs with"
        )


def endpoints_of(options: argparse.Namespace) -> Endpoints:
    """Return the addresses given by CONFIG, or by `--connect` and `--control`.

    Raises:
        ConfigError: CONFIG is invalid.
    """
    key = client_key(options.key)
    if options.config is not None:
        config = load_config(options.config)
        if config.keys is not None and key is None:
            raise ConfigError(
                f"{options.config}: this station asks for a key", hint="give --key FILE; anosegd keygen client makes it"
            )
        return Endpoints(config.publish.endpoint, config.control.endpoint if config.control else None, options.config, key)
    control = options.control or (None if options.connect else DEFAULT_CONTROL)
    return Endpoints(options.connect or DEFAULT_ENDPOINT, control, key=key)


def _credential() -> Path | None:
    path = Path(os.environ.get(CREDENTIALS, "/nonexistent"), CLIENT_CREDENTIAL)
    try:
        return path if path.is_file() else None
    except PermissionError:  # systemd 252 names the folder to ExecReload, but hides it
        return None


def client_key(given: Path | None) -> Key | None:
    """Read the key of this client: the file that is given, or the credential that systemd passes to a service."""
    path = given or _credential()
    if path is None:
        return None
    keep_out_of_core_dumps()
    try:
        return Key.read(path)
    except KeyFileError as error:
        raise ConfigError(str(error)) from error


def refuse_if_down(endpoints: Endpoints) -> None:
    """Look whether anything listens at the control endpoint, which takes no time. A request would wait for its time limit.

    Raises:
        PublishError: Nothing does: the station is down.
    """
    if endpoints.control is None or answers(endpoints.control):
        return
    what = f"{endpoints.control}: nothing listens there"
    if answers(endpoints.publish):
        raise PublishError(
            f"{what}, but a station publishes at {endpoints.publish}",
            hint="is `control` in the configuration that it runs with?",
        )
    raise PublishError(f"{what}: the station is down", hint=endpoints.hint_to_start)


@contextmanager
def connect(
    endpoints: Endpoints,
    *,
    on_event: Callable[[Event], None] | None = None,
    on_state: Callable[[dict[str, Any]], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    request_timeout_s: float = 2.0,
) -> Iterator[Client]:
    """Open a client of the station for the length of a `with` block. The arguments are those of `Client`.

    Raises:
        ConfigError: An endpoint is invalid, or a request cannot be sent.
        PublishError: The station does not answer, or refuses a request.
    """
    try:
        with Client(
            endpoints.publish,
            endpoints.control,
            key=endpoints.key,
            on_event=on_event,
            on_state=on_state,
            on_wait=on_wait,
            request_timeout_s=request_timeout_s,
        ) as client:
            yield client
    except zmq.ZMQError as error:
        raise invalid_endpoint(endpoints.publish, error) from error
    except RefusedError as error:
        raise PublishError(str(error)) from error
    except NoAnswerError as error:
        hint = "is it just starting, or does it hang? See its log"
        if endpoints.key is None:
            hint += ". Or does it ask for a key (--key)?"
        else:
            hint += f", which also says if it refuses the key of {endpoints.key.name}"
        raise PublishError(str(error), hint=hint) from error
    except RequestError as error:
        raise ConfigError(str(error)) from error
    except ClientError as error:
        raise PublishError(str(error), hint="set `control` in the station's configuration, or give --control") from error


def invalid_endpoint(endpoint: str, error: zmq.ZMQError) -> ConfigError:
    """Return the error for an endpoint that ZeroMQ does not accept."""
    return ConfigError(f"{endpoint}: invalid endpoint ({error.strerror})", hint="write tcp://127.0.0.1:PORT")


def decoded(header: dict[str, Any] | bytes, kind: type[T]) -> T:
    """Return a received header as the struct `kind`.

    Raises:
        ConfigError: The header does not fit: another program, or another version of the daemon, publishes there.
    """
    try:
        return msgspec.json.decode(header, type=kind) if isinstance(header, bytes) else msgspec.convert(header, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"this version does not understand a received header: {error}") from error


def print_line(verdict: Verdict) -> None:
    """Print a verdict's header as one JSON line."""
    sys.stdout.write(shown_json(json.dumps(verdict, separators=(",", ":"), ensure_ascii=False)) + "\n")


def print_missing(event: Event) -> None:
    """Report on stderr numbers that the journal cannot deliver."""
    if event.kind in ("gone", "void", "journal_changed"):
        sys.stderr.write(f"anosegd: {event.kind} {event.first}…{event.last}: {event.detail}\n")
