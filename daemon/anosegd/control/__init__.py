"""Answers requests from people, PLCs and the command line at the control socket, on one thread.

`server` is the thread, `requests` has the requests, and `triggers` hands software triggers to the cameras.
"""

from anosegd.control.requests import ReloadRequest, SlowRequest, SwapRequest
from anosegd.control.server import Control
from anosegd.control.triggers import Triggers

__all__ = ["Control", "ReloadRequest", "SlowRequest", "SwapRequest", "Triggers"]
