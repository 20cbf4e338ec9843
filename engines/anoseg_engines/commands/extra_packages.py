"""Says what to install if a command needs packages that only some users have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from anoseg_engines.errors import ConfigError

EXTRAS = {"pyarrow": "parquet", "ray": "fleet", "pandas": "fleet"} | dict.fromkeys(
    ("torch", "onnx", "onnxscript", "sklearn", "scipy", "matplotlib"), "train"
)
"""Which extra a package belongs to."""


@contextlib.contextmanager
def extra_packages(command: str) -> Iterator[None]:
    """Say what to install if an import in this context lacks a package of an extra.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise ConfigError(
            f"{command} needs the package {package}, which is not installed",
            hint=f"pip install -c constraints.txt --editable '.[{EXTRAS[package]}]'",
        ) from error
