"""Runs `anosegd drain`, `reload`, `swap`, `rollback` and `prove`.

Each sends one request to the station and waits for the answer. `prove` runs the self-test.
"""

from __future__ import annotations

import argparse
import sys

from anosegd.commands.connection import connect, endpoints_of, refuse_if_down

DRAIN_TIMEOUT_S = 5.0
TIMEOUT_S = 60.0
"""For requests that load a bundle and run its self-test first."""


def main(options: argparse.Namespace) -> int:
    """Send the request that the command stands for, and print the answer.

    Raises:
        PublishError: The station does not answer, or refuses; the message gives the reason.
    """
    arguments: dict[str, str] = {}
    if options.command == "swap":
        arguments["bundle"] = str(options.bundle.absolute())
    timeout_s = DRAIN_TIMEOUT_S if options.command == "drain" else TIMEOUT_S
    endpoints = endpoints_of(options)
    refuse_if_down(endpoints)
    with connect(endpoints, request_timeout_s=timeout_s) as client:
        client.request(options.command, **arguments)
    result = "done"
    if options.command == "swap":
        result = f"inspecting with {options.bundle}"
    sys.stdout.write(f"{options.command}: {result}\n")
    return 0
