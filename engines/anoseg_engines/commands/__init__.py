"""Runs the commands of `anoseg-engine`. Each has a module with `add_parser` and `run`."""
