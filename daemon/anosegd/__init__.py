"""The daemon: grabs frames, runs the engine, publishes verdicts and masks over ZeroMQ."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("anoseg-edge")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+checkout"
