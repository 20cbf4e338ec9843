"""The control socket: requests from people, PLCs and the command line. One thread."""

from anosegd.control.server import Control
from anosegd.control.triggers import Triggers

__all__ = ["Control", "Triggers"]
