"""Runs `anosegd schema`: prints the JSON Schema of the published headers."""

from __future__ import annotations

import argparse
import json
import sys

from anosegd.wire import schemas


def main(options: argparse.Namespace) -> int:
    """Print the schemas as one JSON object, by topic."""
    sys.stdout.write(json.dumps(schemas(), indent=2) + "\n")
    return 0
