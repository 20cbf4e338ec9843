"""Serves one connection of an OPC UA client, and limits what it may send. Everything runs on the event loop's thread.

asyncua's own protocol buffers whatever a client sends, and its processor lets clients without a certificate make sessions where
only certificates are allowed. Both gaps are closed here, before asyncua decodes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from asyncua import ua
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import Buffer, ServiceError
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.ua_binary import Primitives, header_from_binary, nodeid_from_binary, struct_from_binary, uatcp_to_binary

from anosegd.bridge.opcua.sessions import SUBSCRIPTIONS

HEADER = 8
SMALLEST_BUFFER = 8192
LARGEST_CHUNK = 65_535
CHUNKS = 4
"""Chunks of one message, at most."""
LARGEST_MESSAGE = CHUNKS * LARGEST_CHUNK
LARGEST_UNSENT = 2 * 1024 * 1024
CALLS = 4
"""Method calls that one connection may have under way: PrepareRecipe may take seconds."""
UNSENT_S = 20.0
"""A client that has not taken its answers for this long is cut off."""
IDLE_S = 60.0
"""A connection without a whole message for this long is closed."""
SESSION_S = 30.0
"""A connection without a session for this long is closed."""
HELLO, OPEN, MESSAGE, CLOSE = b"HEL", b"OPN", b"MSG", b"CLO"
KINDS = (HELLO, OPEN, MESSAGE, CLOSE)
CHUNK_KINDS = b"FCA"


def _ids(*names: str) -> frozenset[int]:
    return frozenset(int(getattr(ua.ObjectIds, f"{name}Request_Encoding_DefaultBinary")) for name in names)


CALL, PUBLISH, CREATE_SESSION = _ids("Call"), _ids("Publish"), _ids("CreateSession")
DISCOVERY = _ids("FindServers", "GetEndpoints", "CloseSecureChannel")
"""Requests that are answered before the client is known."""
SERVICES = DISCOVERY | _ids(
    "CreateSession",
    "ActivateSession",
    "CloseSession",
    "Read",
    "Write",
    "Browse",
    "TranslateBrowsePathsToNodeIds",
    "RegisterNodes",
    "UnregisterNodes",
    "Call",
    "CreateSubscription",
    "ModifySubscription",
    "SetPublishingMode",
    "DeleteSubscriptions",
    "Publish",
    "Republish",
    "CreateMonitoredItems",
    "ModifyMonitoredItems",
    "SetMonitoringMode",
    "DeleteMonitoredItems",
)


class Gate(Protocol):
    """What a connection needs of the server."""

    iserver: InternalServer
    policies: list[Any]
    anonymous: bool

    def why_refused(self, certificate: bytes | None, client: str | None) -> str | None:
        """Say why a client with this certificate may not connect; None if it may."""

    def admit(self, peer: Peer) -> None:
        """Let a client in, or close its connection."""

    def forget(self, peer: Peer) -> None:
        """Take note that a connection has ended."""

    def report(self, peer: Peer, why: str) -> None:
        """Log why a connection was closed."""


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._unread = bytearray()
        self._arrived, self._drained = asyncio.Event(), asyncio.Event()
        self._drained.set()
        self._blocked_at: float | None = None  # since when the client takes no answers
        self._transport: Any = None
        self._serving: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.processor: Processor | None = None
        self.host: str | None = None
        self.asked_at = self.session_at = time.monotonic()  # when the last whole message came; when it last had a session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.host = None if peer is None else str(peer[0])
        self._transport.set_write_buffer_limits(high=LARGEST_UNSENT)
        self.processor = Processor(self._gate, self._transport, self.host, lambda why: self._gate.report(self, why))
        self._serving = asyncio.get_running_loop().create_task(self._serve())
        self._gate.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection has ended."""
        self._gate.forget(self)
        if self._serving is not None:
            self._serving.cancel()
        if self.processor is not None:
            self.processor.end_calls()
            self._closing = asyncio.get_running_loop().create_task(self._close(self.processor))

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; stop reading at more than two chunks."""
        self._unread += data
        self._arrived.set()
        if len(self._unread) > 2 * LARGEST_CHUNK:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Answer nothing more until the client has taken its answers."""
        self._blocked_at = time.monotonic()
        self._drained.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._blocked_at = None
        self._drained.set()

    @property
    def has_session(self) -> bool:
        """Whether the client has a session that it uses."""
        session = None if self.processor is None else self.processor.session
        return session is not None and session.is_activated()

    def check(self, now: float) -> None:
        """Close the connection if the client sends nothing, or does not take its answers."""
        if self.has_session:
            self.session_at = now
        if self._blocked_at is not None and now - self._blocked_at > UNSENT_S:
            self.drop("it does not read the answers that it gets")
        elif now - self.session_at > SESSION_S:
            self.drop("it has had no session for 30 s")
        elif now - self.asked_at > IDLE_S:
            self.drop("it has sent no request for a minute")

    def drop(self, why: str | None) -> None:
        """Close the connection at once; None: the log says why already."""
        self._gate.forget(self)
        self._unread.clear()
        if self._transport is not None and not self._transport.is_closing():
            if why is not None:
                self._gate.report(self, why)
            self._transport.abort()

    async def _serve(self) -> None:
        """Hand whole messages to the processor, one after another."""
        assert self.processor is not None
        while not self._transport.is_closing():
            frame = self._next()
            if frame is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            self.asked_at = time.monotonic()
            await self._drained.wait()
            try:
                body = Buffer(frame)
                goes_on = await self.processor.process(header_from_binary(body), body)
            except RefusedError as error:
                self._say_error(error.code, str(error))
                self.drop(None if error.code == ua.StatusCodes.BadCertificateUntrusted else str(error))
                return
            except Exception as error:  # noqa: BLE001 - asyncua must not fail on anything that a client sends
                self.drop(f"it sent a message that cannot be decoded ({type(error).__name__})")
                return
            if not goes_on:
                self._transport.close()
                return
            await asyncio.sleep(0)  # others get their turn

    def _next(self) -> bytes | None:
        """Return the next whole chunk; None if it has not arrived yet."""
        if len(self._unread) < HEADER:
            return None
        size = int.from_bytes(self._unread[4:HEADER], "little")
        if bytes(self._unread[:3]) not in KINDS or self._unread[3] not in CHUNK_KINDS or not 12 <= size <= LARGEST_CHUNK:
            self.drop("it does not speak OPC UA")
            return None
        if len(self._unread) < size:
            return None
        frame = bytes(self._unread[:size])
        del self._unread[:size]
        if len(self._unread) <= LARGEST_CHUNK:
            self._transport.resume_reading()
        return frame

    def _say_error(self, code: int, reason: str) -> None:
        with contextlib.suppress(Exception):
            message = ua.ErrorMessage(ua.StatusCode(code), reason)
            self._transport.write(uatcp_to_binary(ua.MessageType.Error, message))

    async def _close(self, processor: Processor) -> None:
        with contextlib.suppress(Exception):
            await processor.close()


class RefusedError(Exception):
    """The client may not do this; its connection ends."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Processor(UaProcessor):  # type: ignore[misc] # `follow_imports` in pyproject.toml
    """Has asyncua answer the messages of one connection, as far as they are allowed.

    Attributes:
        session: The client's session; None before it has one.
    """

    session: InternalSession | None

    def __init__(self, gate: Gate, transport: Any, host: str | None, report: Callable[[str], None]) -> None:
        limits = TransportLimits(
            max_recv_buffer=LARGEST_CHUNK,
            max_send_buffer=LARGEST_CHUNK,
            max_chunk_count=CHUNKS,
            max_message_size=LARGEST_MESSAGE,
        )
        super().__init__(gate.iserver, transport, limits)
        self._gate, self._host, self._report = gate, host, report
        self._greeted = False
        self._calls: set[asyncio.Task[None]] = set()
        self.set_policies(gate.policies)

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER form; None for a channel without security."""
        policy = self._connection.security_policy
        return None if policy.URI == SecurityPolicyNone.URI else bytes(policy.peer_certificate)

    async def process(self, header: ua.Header, body: Buffer) -> bool:
        """Answer one chunk; return whether the connection goes on.

        Raises:
            RefusedError: The client may not do this.
        """
        if (header.MessageType == HELLO) is self._greeted:
            raise RefusedError(
                ua.StatusCodes.BadTcpMessageTypeInvalid, "its first message was not Hello, or it sent Hello twice"
            )
        if header.MessageType == HELLO:
            hello = struct_from_binary(ua.Hello, body.copy())
            if min(hello.ReceiveBufferSize, hello.SendBufferSize) < SMALLEST_BUFFER:
                raise RefusedError(
                    ua.StatusCodes.BadTcpNotEnoughResources, f"its buffers are smaller than {SMALLEST_BUFFER} bytes"
                )
            self._greeted = True
        elif header.MessageType == OPEN:
            self._check_channel(body.copy())
        elif not self._connection.is_open():
            raise RefusedError(ua.StatusCodes.BadSecureChannelIdInvalid, "it sent a request before it opened a secure channel")
        return bool(await super().process(header, body))

    async def process_message(self, seqhdr: Any, body: Buffer) -> bool:
        """Answer a request if this client may send it. So far, only its kind has been decoded."""
        seen = body.copy()
        service = nodeid_from_binary(seen)
        if service.NamespaceIndex != 0 or service.Identifier not in self._services:
            handle = _request_handle(seen)
            response = ua.ServiceFault()
            allowed = service.Identifier not in SERVICES
            code = ua.StatusCodes.BadServiceUnsupported if allowed else ua.StatusCodes.BadSecurityModeInsufficient
            response.ResponseHeader.ServiceResult = ua.StatusCode(code)
            self.send_response(handle, seqhdr, response)
            return True
        _request_handle(seen)
        if service.Identifier in CALL:
            if len(self._calls) >= CALLS:
                await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.get_running_loop().create_task(self._call(seqhdr, body))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            return True
        result = await super().process_message(seqhdr, body)
        return result is not False  # asyncua returns nothing after some errors

    def end_calls(self) -> None:
        """End the methods that still run: nobody waits for their results any more."""
        for task in self._calls:
            task.cancel()

    async def _call(self, seqhdr: Any, body: Buffer) -> None:
        """Call methods while the connection's other requests are answered."""
        try:
            await super().process_message(seqhdr, body)
        except Exception as error:  # noqa: BLE001 - as for other messages: the connection ends, not the bridge
            self._report(f"a method that it called has failed: {error!r}")
            self._transport.abort()

    async def forward_publish_response(self, result: Any, requestdata: Any) -> None:
        """Send a notification. An error must not reach the subscription's task, which would end the bridge."""
        try:
            await super().forward_publish_response(result, requestdata)
        except Exception as error:  # noqa: BLE001 - the connection is of no use any more
            self._report(f"a notification could not be sent to it: {error!r}")
            self._transport.abort()

    async def _process_message(self, typeid: Any, requesthdr: Any, seqhdr: Any, body: Any) -> bool:
        creates = typeid.Identifier in CREATE_SESSION
        if creates and self.session is not None:
            if self._session_watchdog_task is not None:
                self._session_watchdog_task.cancel()
            await self.session.close_session(True)
            self.session = None
        if creates and self._gate.anonymous is False and self.certificate is None:
            raise ServiceError(ua.StatusCodes.BadSecurityModeInsufficient)
        if typeid.Identifier in PUBLISH:  # asyncua keeps its header, in which the client may have put long texts
            requesthdr = ua.RequestHeader(RequestHandle=requesthdr.RequestHandle, TimeoutHint=requesthdr.TimeoutHint)
        return bool(await super()._process_message(typeid, requesthdr, seqhdr, body))

    def publish_request_limit(self, subscription_count: int) -> int:
        """Return how many publish requests may wait. asyncua counts the subscriptions of all sessions."""
        return int(super().publish_request_limit(min(subscription_count, SUBSCRIPTIONS)))

    @property
    def _services(self) -> frozenset[int]:
        return SERVICES if self.certificate is not None or self._gate.anonymous else DISCOVERY

    def _check_channel(self, body: Buffer) -> None:
        """Refuse a client without a trusted certificate before asyncua computes anything for it."""
        security = struct_from_binary(ua.AsymmetricAlgorithmHeader, body)
        if security.SecurityPolicyURI == SecurityPolicyNone.URI:
            if self.certificate is not None:
                raise RefusedError(
                    ua.StatusCodes.BadSecurityPolicyRejected,
                    "its connection was encrypted, and it asked to go on without encryption",
                )
            return
        why = self._gate.why_refused(security.SenderCertificate, self._host)
        if why is not None:
            raise RefusedError(ua.StatusCodes.BadCertificateUntrusted, why)


def _request_handle(body: Buffer) -> int:
    """Return the handle of a request whose header begins here.

    Raises:
        RefusedError: It has an additional header, which would be decoded before the sender is known.
    """
    nodeid_from_binary(body)  # the session's token
    body.skip(8)
    handle = int(Primitives.UInt32.unpack(body))
    body.skip(4)
    Primitives.String.unpack(body)
    body.skip(4)
    if nodeid_from_binary(body).Identifier != 0:
        raise RefusedError(
            ua.StatusCodes.BadDecodingError, "its request has an additional header, which the bridge does not accept"
        )
    return handle
