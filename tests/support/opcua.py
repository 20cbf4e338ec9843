"""A PLC for tests that speaks OPC UA, with asyncua's client."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.anosegd_line import LIMIT_S
from support.bridge_process import Bridged, BridgeProcess

PREFIX = "ns=2;s="


class OpcUaBridge:
    """A bridge of the kind `opcua`, its folder of certificates, and a client that it trusts."""

    def __init__(self, bridged: Bridged, *, opcua: str = "", more: str = "") -> None:
        self.folder = bridged.line.folder / "opcua"
        self.config = bridged.line.folder / "opcua.yaml"
        self.config.write_text(
            f"camera: eye\nstation: {{publish: '{bridged.line.endpoint}', control: '{bridged.control}'}}\n"
            f"result_window_ms: 20000\nopcua: {{listen: '127.0.0.1:{bridged.port}'{opcua}}}\n{more}\n"
        )
        self.url = f"opc.tcp://127.0.0.1:{bridged.port}"
        self.plc = Identity(bridged.line.folder / "plc", "plc")
        (self.folder / "trusted").mkdir(parents=True, exist_ok=True)
        self.trust(self.plc)
        self.process = BridgeProcess(self.config, kind="opcua")
        bridged.bridges.append(self.process)
        self.process.wait_for("bridge.listening")

    def trust(self, client: Identity) -> None:
        shutil.copy(client.certificate, self.folder / "trusted" / f"{client.name}.der")

    def distrust(self, client: Identity) -> None:
        (self.folder / "trusted" / f"{client.name}.der").unlink()

    async def client(self, identity: Identity | None = None) -> Client:
        """Return a client that is not connected yet."""
        identity = identity or self.plc
        client = Client(self.url, timeout=LIMIT_S)
        client.application_uri = identity.uri
        await client.set_security(
            SecurityPolicyBasic256Sha256,
            identity.certificate,
            identity.key,
            server_certificate=self.folder / "own" / "certificate.der",
        )
        return client


class Identity:
    """A client's certificate and key."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self.name, self.uri = name, f"urn:test:{name}"
        self.certificate, self.key = folder / f"{name}.der", folder / f"{name}.pem"
        asyncio.run(
            setup_self_signed_certificate(
                self.key, self.certificate, self.uri, "localhost", [ExtendedKeyUsageOID.CLIENT_AUTH], {"commonName": name}
            )
        )


class Plc:
    """Reads and writes the variables of docs/plc.md."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def get(self, name: str) -> Any:
        return (await self.data(name)).Value.Value

    async def data(self, name: str) -> ua.DataValue:
        return await self.client.get_node(f"{PREFIX}Outputs.{name}").read_data_value(raise_on_bad_status=False)

    async def set(self, **values: bool | str) -> None:
        """Write in one request."""
        nodes = [self.client.get_node(f"{PREFIX}Inputs.{name}") for name in values]
        await self.client.write_values(nodes, list(values.values()))

    async def wait(self, name: str, value: Any = True) -> None:
        give_up_at = time.monotonic() + LIMIT_S
        while await self.get(name) != value:
            assert time.monotonic() < give_up_at, f"{name} is not {value}"
            await asyncio.sleep(0.01)

    async def open(self) -> None:
        await self.wait("online")
        await self.set(enable=False)
        await self.wait("idle")
        await self.set(enable=True)
        await self.wait("enabled")

    async def trigger(self, part_id: str) -> None:
        await self.wait("trigger_ready")
        await self.set(part_id=part_id, trigger=True)
        await self.wait("trigger_acknowledge")
        await self.set(trigger=False)

    async def result(self) -> tuple[str, str]:
        """Wait for the next result, and acknowledge it."""
        await self.wait("result_valid")
        result = await self.get("part_id"), await self.get("outcome_text")
        await self.set(result_acknowledge=True)
        await self.wait("result_valid", False)
        await self.set(result_acknowledge=False)
        return result
