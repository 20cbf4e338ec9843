"""Runs the commands of `anoseg-train`. Each has a module; its `run` takes the parsed options."""
