"""The commands of `anoseg-engine`: one module each, with `add_parser` and `run`."""
