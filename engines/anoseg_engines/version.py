"""Reads the version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version, or `0+checkout` in a checkout that is not installed. The first call takes some 20 ms."""
    try:
        return version("anoseg-edge")
    except PackageNotFoundError:
        return "0+checkout"
