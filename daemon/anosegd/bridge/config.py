"""Reads the configuration file of a bridge into strict structs with defaults. `configs/bridge.yaml` documents every key."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from anoseg_engines.strict_yaml import read_yaml
from anosegd.bridge.handshake import Settings
from anosegd.client import Key
from anosegd.config import DEFAULT_CONTROL, DEFAULT_ENDPOINT, CameraName
from anosegd.endpoint import MAX_PORT, check_address

Order = Literal["big", "little"]
TextLength = Annotated[int, Meta(ge=2, le=120, multiple_of=2)]
"""Characters of a text in registers, two in each."""

_LISTEN = re.compile(r"(\[[^\[\]]+\]|[^\[\]:\s]+):(\d{1,5})")


class StationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where the station is.

    Attributes:
        publish: Where it publishes.
        control: Where it answers requests; None for a station without a control socket.
        key: File of the bridge's key, for a station that asks for one.
    """

    publish: str = DEFAULT_ENDPOINT
    control: str | None = DEFAULT_CONTROL
    key: Annotated[str, Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        for name, endpoint in (("publish", self.publish), ("control", self.control)):
            if endpoint is not None:
                try:
                    check_address(endpoint)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error


class ModbusConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how the Modbus server is reached, and how it writes texts and large numbers.

    Attributes:
        listen: IP address and port.
        clients: Addresses or networks that may connect; empty lets in everyone who reaches the address.
        byte_order: Whether the first of two characters is in the upper byte of a register (big) or in the lower one.
        word_order: Whether the upper half of a 32-bit number comes first (big) or the lower one.
        part_id_length, recipe_length: Characters of these texts.
    """

    listen: str = "127.0.0.1:5020"
    clients: tuple[str, ...] = ()
    byte_order: Order = "big"
    word_order: Order = "big"
    part_id_length: TextLength = 32
    recipe_length: TextLength = 32

    def __post_init__(self) -> None:
        match = _LISTEN.fullmatch(self.listen)
        if not match or not 0 < int(match[2]) <= MAX_PORT:
            raise ValueError(f"listen: {self.listen}: not an address; write 127.0.0.1:5020")
        _check_ip(self.address[0], f"listen: {self.listen}: give an IP address, such as 192.168.7.20:502")
        for client in self.clients:
            try:
                ipaddress.ip_network(client)
            except ValueError:
                raise ValueError(
                    f"clients: {client}: not an address or a network; write 192.168.7.10 or 192.168.7.0/24"
                ) from None

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address[0]).is_loopback

    def may_connect(self, host: str) -> bool:
        """Whether a client of this address is let in."""
        address = ipaddress.ip_address(host)
        address = (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
        return not self.clients or any(address in ipaddress.ip_network(client) for client in self.clients)


def _check_ip(host: str, message: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(message) from None


class BridgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describes a bridge between one camera of a station and one PLC.

    Attributes:
        camera: The camera whose parts the PLC handles.
        station: Where the station is.
        trigger: Who triggers a part: the PLC through the bridge, or the camera by itself (input, interval, every frame).
        result_window_ms: A result that is not there so long after its trigger, or else after its capture, is UNKNOWN: late.
        results: How many parts may be without an acknowledged result before that is an overrun.
        modbus: For the kind modbus.
    """

    camera: CameraName
    station: StationConfig = StationConfig()
    trigger: Literal["plc", "camera"] = "plc"
    result_window_ms: Annotated[float, Meta(ge=10, le=60_000)] = 200.0
    results: Annotated[int, Meta(ge=1, le=256)] = 8
    modbus: ModbusConfig = ModbusConfig()

    def __post_init__(self) -> None:
        if self.trigger == "plc" and self.station.control is None:
            raise ValueError("station.control: triggers are sent there: give its endpoint, or set trigger: camera")

    @property
    def handshake(self) -> Settings:
        """The settings of the handshake."""
        return Settings(triggered=self.trigger == "plc", window_s=self.result_window_ms / 1000, capacity=self.results)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Says which camera of which station a bridge serves, and with which key."""

    camera: str
    publish: str
    control: str | None
    key: Key | None
    window_s: float


def load_bridge_config(path: Path) -> BridgeConfig:
    """Read a bridge's configuration file. A relative path in it starts at the file's folder.

    Raises:
        ConfigError: The file cannot be read, or a value is invalid. The message names file, line and key.
    """
    config = read_yaml(path, BridgeConfig)
    if config.station.key is None:
        return config
    key = str(path.absolute().parent / os.path.expanduser(config.station.key))  # noqa: PTH111 - as in `load_config`
    return msgspec.structs.replace(config, station=msgspec.structs.replace(config.station, key=key))
