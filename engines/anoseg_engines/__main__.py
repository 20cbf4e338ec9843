"""Runs the command `anoseg-engine` for `python -m anoseg_engines`."""

from anoseg_engines.cli import main

main()
