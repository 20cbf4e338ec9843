"""Runs `anosegd pause` and `anosegd resume`: inspect nothing for a time, and inspect again."""

from __future__ import annotations

import argparse
import sys

from anosegd.commands.connection import connect, endpoints_of, refuse_if_down
from anosegd.commands.shown import local_time, shown


def main(options: argparse.Namespace) -> int:
    """Send the request, and print which cameras are paused now, or inspected again.

    Raises:
        PublishError: The station is down, does not answer, or refuses; the message gives the reason.
    """
    endpoints = endpoints_of(options)
    refuse_if_down(endpoints)
    who, why, camera = options.who, options.why, options.camera
    with connect(endpoints) as client:
        if options.command == "resume":
            names = client.resume(who=who, why=why, camera=camera)
            said = f"inspecting again: {_listed(names)}" if names else "nothing was paused"
        else:
            done = client.pause(options.minutes, who=who, why=why, camera=camera)
            until = local_time(done["until"], "%H:%M:%S")
            said = f"paused until {until}: {_listed(done['cameras'])}\n  every part is UNKNOWN: paused; treat it like a reject"
    sys.stdout.write(f"{options.command}: {said}\n")
    return 0


def _listed(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names)
