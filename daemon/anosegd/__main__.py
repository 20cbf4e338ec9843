"""Runs the command `anosegd` for `python -m anosegd`."""

from anosegd.cli import main

main()
