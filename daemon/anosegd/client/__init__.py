"""Follows the verdicts of an AnoSeg Edge station without losing one, and commands the station.

This folder needs only pyzmq. It can be copied into another program, under any name.

    from anosegd.client import Client

    with Client("tcp://127.0.0.1:5570", "tcp://127.0.0.1:5571") as station:
        for verdict in station.follow(consumer="archive"):
            store(verdict)          # acknowledged when the loop asks for the next one

A slow or restarting subscriber misses messages of a ZeroMQ publisher. Every verdict carries (journal_id, seq). When the client
notices a gap in seq, it asks the station's journal for the missing verdicts and yields everything once and in order. To store
each verdict exactly once even if your own program crashes, store the verdict and `verdict.cursor` in one transaction and start
again with `follow(after=cursor)`.

A verdict with `durable: false` could not be committed, or not before its deadline. The client yields it at once. It has no
cursor (None: keep the one you have), and its number stays open. If the verdict is committed later, the client yields it again
from the journal, durable. Otherwise an event reports the number as void. Both verdicts say the same, with one exception: if
the daemon was killed just after it sent UNKNOWN: deadline, the journal may hold the result of the inspection.

A Client belongs to one thread.
"""

from .client import Client
from .connection import MAX_REQUEST_BYTES, connect
from .errors import ClientError, KeyFileError, NoAnswerError, RefusedError, RequestError
from .key import Key
from .messages import Cursor, Event, Picture, Verdict, with_marks
from .stream import BUSY_S

__all__ = [
    "BUSY_S",
    "MAX_REQUEST_BYTES",
    "Client",
    "ClientError",
    "Cursor",
    "Event",
    "Key",
    "KeyFileError",
    "NoAnswerError",
    "Picture",
    "RefusedError",
    "RequestError",
    "Verdict",
    "connect",
    "with_marks",
]
