"""Serves the tags and the objects of OPC 40100-1 over OPC UA, with asyncua. Everything runs on the event loop's thread.

asyncua decodes, encrypts and keeps the address space. Sockets, limits and writes are the bridge's own: `connection.py`,
`sessions.py`, and here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.server.internal_session import InternalSession

from anosegd import logs
from anosegd.bridge.config import OpcUaConfig
from anosegd.bridge.encoding import STATUS_BITS
from anosegd.bridge.kind import Handle
from anosegd.bridge.listener import open_listener
from anosegd.bridge.opcua.certificates import Certificates
from anosegd.bridge.opcua.connection import Peer
from anosegd.bridge.opcua.machine_vision import MachineVision
from anosegd.bridge.opcua.sessions import NODES, LimitedServer
from anosegd.bridge.opcua.variables import (
    INPUTS,
    LONGEST_TEXT,
    OUTPUTS,
    Shown,
    Value,
    Variable,
    controls_of,
    initial_inputs,
    values_of,
)
from anosegd.bridge.tags import Outputs

NAMESPACE = "urn:anoseg-edge:bridge"
"""Its index is 2."""
MAX_CONNECTIONS = 128
"""Beyond this, the connection that has been silent for longest is closed; those without a session go first."""
PREPARE_S, PREPARE_POLL_S = 10.0, 0.02
"""How long a call of PrepareRecipe waits, and how often it looks for the end of the change."""
LIMITS = (
    "MaxNodesPerRead",
    "MaxNodesPerWrite",
    "MaxNodesPerMethodCall",
    "MaxNodesPerBrowse",
    "MaxNodesPerRegisterNodes",
    "MaxNodesPerTranslateBrowsePathsToNodeIds",
    "MaxMonitoredItemsPerCall",
)


class OpcUaServer:
    """Is the kind `opcua`.

    Attributes:
        iserver, policies, anonymous: As `Gate` (`connection.py`) requires.
    """

    listens = True

    def __init__(self, config: OpcUaConfig, folder: Path, camera: str) -> None:
        self._config, self._camera = config, camera
        self._certificates = Certificates(folder, camera, config.address[0])
        self._handle: Handle | None = None
        self._outputs = Outputs()
        self._written: dict[str, Shown] = {}  # what the address space has
        self._inputs = initial_inputs()
        self._inputs_written: set[str] = set()  # since the start
        self._of_call: set[str] = set()  # inputs that a call of PrepareRecipe has written, and nobody since
        self._peers: set[Peer] = set()
        self._changed, self._writing = asyncio.Event(), asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: asyncio.AbstractServer | None = None
        self._refused = logs.Throttle("bridge.client_refused")
        self.anonymous = config.anonymous
        self.iserver = LimitedServer(self)
        self._vision = MachineVision(self._prepare_recipe)
        self._server = Server(iserver=self.iserver)
        self.policies: list[Any] = self._server._policies

    @property
    def place(self) -> str:
        """Where a PLC finds it."""
        return f"opc.tcp://{self._config.listen}"

    async def start(self, handle: Handle) -> None:
        """Begin to serve.

        Raises:
            PublishError: Another program uses the address.
            ConfigError: The folder or the address cannot be used.
        """
        self._handle = handle
        # It would log whatever anybody sends: `report` counts that instead.
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)
        loop = asyncio.get_running_loop()
        self._certificates.prepare()
        listener = open_listener(self._config.address, "opcua.listen")
        if self.anonymous:
            logs.warning(
                "bridge.open_to_network",
                listen=self._config.listen,
                clients="everyone",
                hint="opcua.anonymous: whoever reaches this address can read and write, without a certificate",
            )
        gc.disable()  # many objects are made, and all of them stay
        try:
            await self._build()
        finally:
            gc.enable()
            gc.freeze()
        loop.set_exception_handler(_spared(loop.get_exception_handler()))
        await self.iserver.start()
        await self.refresh()
        self._listening = await loop.create_server(lambda: Peer(self), sock=listener)
        self._tasks = [loop.create_task(self._keep_current()), loop.create_task(self._sweep())]
        for task in self._tasks:
            task.add_done_callback(_report_end)

    def show(self, outputs: Outputs) -> None:
        """Let the PLC read these outputs from now on."""
        self._outputs = outputs
        self._changed.set()

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        if self._listening is not None:
            self._listening.close()
            for peer in list(self._peers):
                peer.drop(None)
            await self.iserver.stop()

    # ---- for sessions

    async def refresh(self) -> None:
        """Let time pass in the handshake, and write what has changed into the address space."""
        assert self._handle is not None
        self._handle.refresh()
        await self._write_outputs()

    async def take_writes(self, writes: list[ua.WriteValue]) -> list[ua.StatusCode]:
        """Take everything that one request writes as one write to the handshake."""
        assert self._handle is not None
        taken: dict[str, Value] = {}
        codes = [self._take(write, taken) for write in writes]
        good = int(ua.StatusCodes.Good)
        if all(code == good for code in codes):
            self._of_call.difference_update(taken)
            await self._write_inputs(taken)
        else:  # a trigger must not be taken with the part id of the previous part
            codes = [int(ua.StatusCodes.BadInvalidState) if code == good else code for code in codes]
        return [ua.StatusCode(code) for code in codes]

    def is_connected(self, session: InternalSession) -> bool:
        """Whether a session has a connection."""
        return any(peer.processor is not None and peer.processor.session is session for peer in self._peers)

    # ---- for connections

    def why_refused(self, certificate: bytes | None, client: str | None) -> str | None:
        """Say why a client with this certificate may not connect; None if it may."""
        self._certificates.read_trusted()
        why = self._certificates.why_refused(certificate)
        if why is not None:
            self._certificates.keep_refused(certificate, client, why)
        return why

    def admit(self, peer: Peer) -> None:
        """Let a client in, and close another connection if there are too many."""
        self._peers.add(peer)
        if len(self._peers) > MAX_CONNECTIONS:
            oldest = min(self._peers, key=lambda peer: (peer.has_session, peer.asked_at))
            oldest.drop(f"more than {MAX_CONNECTIONS} connections")

    def forget(self, peer: Peer) -> None:
        """Take note that a connection has ended."""
        self._peers.discard(peer)

    def report(self, peer: Peer, why: str) -> None:
        """Log why a connection was closed."""
        self._refused.warning(client=peer.host, why=why)

    # ---- the rest

    async def _build(self) -> None:
        """Fill the address space."""
        server = self._server
        await server.init()
        server.set_endpoint(f"opc.tcp://{self._config.listen}")
        server.set_server_name(f"AnoSeg Edge bridge {self._camera}")
        server.product_uri = NAMESPACE
        server.application_type = ua.ApplicationType.Server
        await server.set_application_uri(self._certificates.uri)
        await server.set_build_info(NAMESPACE, "AnoSeg Edge", "anosegd bridge opcua", "", "", datetime.now(timezone.utc))
        self.iserver.certificate, self.iserver.private_key = self._certificates.own, self._certificates.key
        secure = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity, *secure] if self.anonymous else secure)
        await server._setup_server_nodes()
        for name in LIMITS:
            node = server.get_node(getattr(ua.ObjectIds, f"Server_ServerCapabilities_OperationLimits_{name}"))
            await node.write_value(ua.Variant(NODES, ua.VariantType.UInt32))
        index = await server.register_namespace(NAMESPACE)
        handshake = await server.nodes.objects.add_object(ua.NodeId("Handshake", index), ua.QualifiedName("Handshake", index))
        for folder, variables in (("Outputs", OUTPUTS), ("Inputs", INPUTS)):
            parent = await handshake.add_object(ua.NodeId(folder, index), ua.QualifiedName(folder, index))
            for variable in variables:
                place = ua.NodeId(f"{folder}.{variable.name}", index)
                initial = self._inputs[variable.name] if folder == "Inputs" else _empty(variable)
                kind = getattr(ua.VariantType, variable.kind)
                node = await parent.add_variable(place, ua.QualifiedName(variable.name, index), initial, kind)
                if folder == "Inputs":
                    await node.set_writable()
        counts = await server.nodes.objects.add_object(ua.NodeId("Diagnostics", index), ua.QualifiedName("Diagnostics", index))
        for name, count in (
            ("connections", lambda: len(self._peers)),
            ("sessions", lambda: len(self.iserver._external_sessions)),
            ("subscriptions", lambda: len(self.iserver.subscription_service.subscriptions)),
        ):
            node = await counts.add_variable(
                ua.NodeId(f"Diagnostics.{name}", index), ua.QualifiedName(name, index), 0, ua.VariantType.UInt32
            )
            self.iserver.set_attribute_value_callback(node.nodeid, partial(_count, count))
        await self._vision.build(server, index)

    async def _write_inputs(self, taken: dict[str, Value], *, forgotten: frozenset[str] = frozenset()) -> None:
        """Hand inputs to the handshake, and show them to whoever reads them.

        Args:
            taken: Their values.
            forgotten: Those of them that count as never written.
        """
        assert self._handle is not None
        self._inputs.update(taken)
        self._inputs_written.update(taken)
        self._inputs_written -= forgotten
        self._handle.write(controls_of(self._inputs, self._inputs_written))
        for variable in INPUTS:
            if variable.name in taken:
                await self._put(f"Inputs.{variable.name}", variable, Shown(taken[variable.name]))
        await self._write_outputs()

    async def _prepare_recipe(self, name: str) -> bool:
        """Change the recipe for a client that calls PrepareRecipe; return whether it is in force.

        What the PLC writes meanwhile takes precedence, and ends the call at once. After a failure, the inputs are as before.
        """
        text = _text_of(name)
        if not text or self._inputs["recipe_change"]:
            return False
        earlier, was_written = self._inputs["recipe"], "recipe" in self._inputs_written
        self._of_call.clear()  # another call, which the PLC has just ended, may not have noticed yet
        self._of_call = own = {"recipe", "recipe_change"}
        await self._write_inputs({"recipe": text, "recipe_change": True})
        done = False
        try:
            give_up_at = time.monotonic() + PREPARE_S
            while self._asks_for(text) and not self._outputs.recipe_acknowledge and time.monotonic() < give_up_at:
                await asyncio.sleep(PREPARE_POLL_S)
            done = self._asks_for(text) and self._outputs.recipe_acknowledge and not self._outputs.recipe_refused
            return done
        finally:  # also if the client is lost
            restored: dict[str, Value] = {"recipe_change": False} if "recipe_change" in own else {}
            if not done and "recipe" in own:
                restored["recipe"] = earlier
            forgotten = frozenset() if was_written or "recipe" not in restored else frozenset({"recipe"})
            own.clear()
            if restored:
                await self._write_inputs(restored, forgotten=forgotten)

    def _asks_for(self, recipe: str) -> bool:
        return self._inputs["recipe_change"] is True and self._inputs["recipe"] == recipe

    async def _write_outputs(self) -> None:
        """Bring the address space up to date."""
        async with self._writing:
            self._changed.clear()
            values = values_of(self._outputs)
            # Subscribers get changes in this order, and take the result when `result_valid` or the toggle changes.
            status_last = values["result_valid"].value is True
            for variable in sorted(OUTPUTS, key=lambda variable: (variable.name in STATUS_BITS) is status_last):
                if self._written.get(variable.name) != values[variable.name]:
                    self._written[variable.name] = values[variable.name]
                    await self._put(f"Outputs.{variable.name}", variable, values[variable.name])
            await self._vision.show(self._outputs, self.iserver.write_attribute_value)

    async def _put(self, place: str, variable: Variable, shown: Shown) -> None:
        value = ua.DataValue(
            ua.Variant(shown.value, getattr(ua.VariantType, variable.kind)),
            StatusCode=ua.StatusCode(ua.StatusCodes.Good if shown.certain else ua.StatusCodes.UncertainInitialValue),
            SourceTimestamp=datetime.now(timezone.utc),
        )
        await self.iserver.write_attribute_value(ua.NodeId(place, 2), value)

    def _take(self, write: ua.WriteValue, taken: dict[str, Value]) -> int:
        """Check one write, and note it; return its status code."""
        codes = ua.StatusCodes
        node, value = write.NodeId, write.Value
        if node not in self.iserver.aspace:
            return int(codes.BadNodeIdUnknown)
        folder, _, name = str(node.Identifier).partition(".")
        variable = next((variable for variable in INPUTS if variable.name == name), None)
        if node.NamespaceIndex != 2 or folder != "Inputs" or variable is None or write.AttributeId != ua.AttributeIds.Value:
            return int(codes.BadNotWritable)
        if write.IndexRange or value.Value is None or (value.StatusCode is not None and not value.StatusCode.is_good()):
            return int(codes.BadWriteNotSupported)
        content = value.Value.Value
        if variable.kind == "Boolean":
            if not isinstance(content, bool):
                return int(codes.BadTypeMismatch)
            taken[name] = content
            return int(codes.Good)
        if value.Value.VariantType != ua.VariantType.String or not isinstance(content, str | None):
            return int(codes.BadTypeMismatch)
        text = _text_of(content or "")
        if text is None:
            return int(codes.BadOutOfRange)
        taken[name] = text
        return int(codes.Good)

    async def _keep_current(self) -> None:
        """Write changes into the address space for those who subscribe to it, until cancelled."""
        while True:
            await self._changed.wait()
            await self._write_outputs()

    async def _sweep(self) -> None:
        """Once a second, close connections of silent clients and of those that are not trusted any more, until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            self._certificates.read_trusted()
            self._certificates.check_dates()
            now = time.monotonic()
            for peer in list(self._peers):
                certificate = None if peer.processor is None else peer.processor.certificate
                if certificate is not None and not self._certificates.is_trusted(certificate):
                    peer.drop("its certificate is no longer in trusted/")
                else:
                    peer.check(now)


def _report_end(task: asyncio.Task[None]) -> None:
    """End the bridge if one of its own tasks has failed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "a task has failed", "exception": error})


def _count(count: Callable[[], int], *_: Any) -> ua.DataValue:
    return ua.DataValue(ua.Variant(count(), ua.VariantType.UInt32), SourceTimestamp=datetime.now(timezone.utc))


def _text_of(content: str) -> str | None:
    """Return a text that a client has sent, up to a NUL; None if it is too long, or no text."""
    text = content.partition("\0")[0].rstrip()
    return text if len(text) <= LONGEST_TEXT and text == text.encode("utf-8", "replace").decode() else None


def _empty(variable: Variable) -> Value:
    values: dict[str, Value] = {"Boolean": False, "String": "", "Double": 0.0}
    return values.get(variable.kind, 0)


def _spared(handler: Callable[..., Any] | None) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return an exception handler that keeps the bridge running if a task of asyncua fails: such a task serves one client."""
    refused = logs.Throttle("bridge.client_refused")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        code = getattr(task.get_coro(), "cr_code", None) if isinstance(task, asyncio.Task) else None
        if code is not None and "asyncua" in Path(code.co_filename).parts:
            refused.warning(why=f"the session of a client has failed: {context.get('exception')!r}")
            return
        if handler is not None:
            handler(loop, context)

    return handle
