"""Speaks OPC UA by hand, so that a client can stop at any step and send what no library would send."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary

NONE = "http://opcfoundation.org/UA/SecurityPolicy#None"
URL = "opc.tcp://x"


class Wire:
    """One connection.

    Attributes:
        channel, token: Of its secure channel.
        session: The session's authentication token.
        subscription: The id of its subscription.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._sequence, self.channel, self.token = 0, 0, 0
        self.session = ua.NodeId()
        self.subscription = 0

    @classmethod
    async def connect(cls, port: int, session: bool = True) -> Wire:
        """Open a channel, and a session with a subscription on it."""
        wire = cls(*await asyncio.open_connection("127.0.0.1", port))
        try:
            await wire.open_channel()
            if session:
                await wire.create_session()
                await wire.activate()
                await wire.subscribe()
        except BaseException:
            await wire.close()
            raise
        return wire

    async def open_channel(self) -> None:
        """Say hello, and open a channel without security."""
        self.raw(b"HEL", struct.pack("<5Ii", 0, 65535, 65535, 0, 0, len(URL)) + URL.encode())
        await self.answer()
        opening = ua.OpenSecureChannelRequest()
        opening.Parameters.SecurityMode = ua.MessageSecurityMode.None_
        opening.Parameters.RequestedLifetime = 60_000
        self.raw(b"OPN", self.opening(NONE, struct_to_binary(opening)))
        body = await self.answer()
        struct_from_binary(ua.AsymmetricAlgorithmHeader, body)
        struct_from_binary(ua.SequenceHeader, body)
        token = struct_from_binary(ua.OpenSecureChannelResponse, body).Parameters.SecurityToken
        self.channel, self.token = token.ChannelId, token.TokenId

    async def create_session(self, timeout_ms: float = 0.0) -> float:
        """Create a session; return its timeout in milliseconds."""
        create = ua.CreateSessionRequest()
        create.Parameters.EndpointUrl, create.Parameters.RequestedSessionTimeout = URL, timeout_ms
        response = await self.ask(create, ua.CreateSessionResponse)
        self.session = response.Parameters.AuthenticationToken
        return float(response.Parameters.RevisedSessionTimeout)

    async def activate(self) -> None:
        """Activate the session."""
        activate = ua.ActivateSessionRequest()
        activate.Parameters.UserIdentityToken = ua.AnonymousIdentityToken(PolicyId="anonymous")
        await self.ask(activate, ua.ActivateSessionResponse)

    async def subscribe(self) -> None:
        """Create a subscription."""
        response = await self.ask(ua.CreateSubscriptionRequest(), ua.CreateSubscriptionResponse)
        self.subscription = response.Parameters.SubscriptionId

    def opening(self, policy: str, body: bytes, certificate: bytes | None = None) -> bytes:
        """Return what follows the header of a message that opens a channel."""
        security = ua.AsymmetricAlgorithmHeader(SecurityPolicyURI=policy, SenderCertificate=certificate)
        self._sequence += 1
        return struct.pack("<I", 0) + struct_to_binary(security) + struct.pack("<II", self._sequence, 1) + body

    def raw(self, kind: bytes, content: bytes, chunk: bytes = b"F", size: int | None = None) -> None:
        """Send a message with a right header, or with another size in it."""
        self.writer.write(kind + chunk + struct.pack("<I", size if size is not None else len(content) + 8) + content)

    def message(self, body: bytes, chunk: bytes = b"F") -> None:
        """Send a request, right up to its body."""
        self._sequence += 1
        self.raw(b"MSG", struct.pack("<IIII", self.channel, self.token, self._sequence, self._sequence) + body, chunk)

    def binary(self, request: object) -> bytes:
        """Return a request in this session."""
        request.RequestHeader.AuthenticationToken = self.session  # type: ignore[attr-defined]
        if isinstance(request, ua.CreateMonitoredItemsRequest):
            request.Parameters.SubscriptionId = self.subscription
        return struct_to_binary(request)

    async def ask(self, request: object, answer: type) -> Any:
        """Send a request and return its answer.

        Raises:
            UaStatusCodeError: The server has refused it.
        """
        self.message(self.binary(request))
        body = await self.answer()
        body.skip(16)
        kind = nodeid_from_binary(body.copy())
        if kind.Identifier == ua.ObjectIds.ServiceFault_Encoding_DefaultBinary:
            answer = ua.ServiceFault
        answered = struct_from_binary(answer, body)
        answered.ResponseHeader.ServiceResult.check()
        return answered

    async def answer(self) -> Buffer:
        """Return the next message without its header."""
        head = await asyncio.wait_for(self.reader.readexactly(8), 30)
        size = int.from_bytes(head[4:], "little")
        return Buffer((await asyncio.wait_for(self.reader.readexactly(size - 8), 30)), 4 if head[:3] == b"OPN" else 0)

    async def close(self) -> None:
        """Close the connection."""
        await close(self.writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever has become of it."""
    writer.close()
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 5)
