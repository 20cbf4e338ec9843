"""Runs `anosegd trigger`: reports a part to a camera with software triggers, and on request waits for the verdict."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import zmq

from anoseg_engines.errors import PublishError
from anoseg_engines.files import shown_json
from anoseg_engines.words import counted
from anosegd.client import Client, RefusedError
from anosegd.client import connect as connect_socket
from anosegd.commands.connection import Endpoints, connect, endpoints_of, refuse_if_down
from anosegd.commands.moments import unix_ns
from anosegd.commands.shown import shown

TIMEOUT_S = 5.0
"""For the answer. The part has moved on by then."""


def main(options: argparse.Namespace) -> int:
    """Send the trigger and print the part's id; with --wait, print the verdict too.

    Raises:
        PublishError: The station is down, does not answer, refuses, or gives no verdict in time.
    """
    endpoints = endpoints_of(options)
    refuse_if_down(endpoints)
    arguments = {name: getattr(options, name) for name in ("camera", "part_id", "request_id", "recipe")}
    with contextlib.ExitStack() as opened:
        client = opened.enter_context(connect(endpoints, request_timeout_s=TIMEOUT_S))
        arriving = opened.enter_context(_verdicts(endpoints, options.camera, options.timeout)) if options.wait else None
        answer = client.request("trigger", **{name: value for name, value in arguments.items() if value is not None})
        if not options.json:
            _print(f"trigger: part {shown(answer['part_id'])}")
        elif arriving is None:
            _print_json({name: answer[name] for name in ("part_id", "triggered_at", "durable")})
        if arriving is not None:
            verdict = _verdict_of(answer, options, chain(_stored(client, answer) if options.request_id else (), arriving))
            if options.json:
                _print_json(verdict)
            else:
                _print(_in_words(verdict))
    return 0


def _verdict_of(answer: dict[str, Any], options: argparse.Namespace, verdicts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdict that belongs to the trigger. Part ids may be the same, but the times of triggers differ.

    Raises:
        PublishError: It is not among `verdicts`.
    """
    for verdict in verdicts:
        if verdict["camera"] == options.camera and all(verdict[key] == answer[key] for key in ("part_id", "triggered_at")):
            return verdict
    raise PublishError(
        f"part {shown(answer['part_id'])}: no verdict within {options.timeout:g} s",
        hint="the trigger was accepted, so the verdict follows: `anosegd tail CONFIG` shows it",
    )


@contextmanager
def _verdicts(endpoints: Endpoints, camera: str, timeout_s: float) -> Iterator[Iterator[dict[str, Any]]]:
    """Subscribe to a camera's verdicts. Gives what arrives until `timeout_s` after the first verdict is asked for.

    Raises:
        PublishError: Nothing arrives at all: the station hangs, or publishes elsewhere.
    """
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(f"verdict.{camera}")
        socket.subscribe("state")
        connect_socket(socket, endpoints.publish, endpoints.key)
        if not socket.poll(round(TIMEOUT_S * 1000)):  # from the first heartbeat on, no verdict is missed
            raise PublishError(
                f"{endpoints.publish}: nothing is published there", hint="is this the station's publish.endpoint?"
            )
        yield _received(socket, timeout_s)


def _received(socket: zmq.Socket[bytes], timeout_s: float) -> Iterator[dict[str, Any]]:
    end = time.monotonic() + timeout_s
    while (left := end - time.monotonic()) > 0:
        if socket.poll(round(left * 1000) + 1):
            topic, header, *_ = socket.recv_multipart()
            if topic != b"state":
                yield json.loads(header)


def _stored(client: Client, answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the journal's verdicts from the trigger on: the request may have been sent and answered before."""
    triggered_at = unix_ns(answer["triggered_at"])
    with contextlib.suppress(RefusedError):  # the station keeps no journal
        yield from client.replay(client.first_seq_since(triggered_at - 1_000_000))


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _print_json(content: dict[str, Any]) -> None:
    _print(shown_json(json.dumps(content, separators=(",", ":"), ensure_ascii=False)))


def _in_words(verdict: dict[str, Any]) -> str:
    outcome = verdict["outcome"] if verdict["reason"] is None else f"{verdict['outcome']}: {verdict['reason']}"
    words = [f"verdict {verdict['seq']}: {outcome}"]
    if verdict["score"] is not None:
        at = "" if verdict["threshold"] is None else f" (threshold {verdict['threshold']:.4f})"
        words.append(f"score {verdict['score']:.4f}{at}")
    if n := len(verdict["defects"]):
        words.append(counted(n, "defect"))
    if verdict["detail"]:
        words.append(shown(verdict["detail"]))
    return ", ".join(words)
