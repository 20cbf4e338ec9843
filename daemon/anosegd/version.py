"""The version that runs. Apart from what the capture process loads: looking it up takes as long as many an import."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("anoseg-edge")
except PackageNotFoundError:  # run from a checkout that was not installed
    VERSION = "0+checkout"
