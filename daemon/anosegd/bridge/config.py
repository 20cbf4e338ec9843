"""Reads the configuration file of a bridge into strict structs with defaults. `configs/bridge.yaml` documents every key."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from anoseg_engines.strict_yaml import read_yaml
from anosegd.bridge.handshake_data import Settings
from anosegd.client import Key
from anosegd.config import DEFAULT_CONTROL, DEFAULT_ENDPOINT, CameraName
from anosegd.endpoint import MAX_PORT, check_address

T = TypeVar("T", bound=msgspec.Struct)
Order = Literal["big", "little"]
NotEmpty = Annotated[str, Meta(min_length=1)]
TextLength = Annotated[int, Meta(ge=2, le=120, multiple_of=2)]
"""Characters of a text in registers, two in each."""

_LISTEN = _HOST = re.compile(r"(\[[^\[\]]+\]|[^\[\]:\s]+):(\d{1,5})")
_TAG = r"^(Program:[A-Za-z_]\w{0,39}\.)?[A-Za-z_]\w{0,39}\Z"
_PLC = re.compile(r"([^\[\]:\s]+)(?::(\d{1,5}))?")


class StationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where the station is.

    Attributes:
        publish: Where it publishes.
        control: Where it answers requests; None for a station without a control socket.
        key: File of the bridge's key, for a station that asks for one.
    """

    publish: str = DEFAULT_ENDPOINT
    control: str | None = DEFAULT_CONTROL
    key: NotEmpty | None = None

    def __post_init__(self) -> None:
        for name, endpoint in (("publish", self.publish), ("control", self.control)):
            if endpoint is not None:
                try:
                    check_address(endpoint)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error


class ListeningConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where a bridge listens.

    Attributes:
        listen: IP address and port.
    """

    listen: str

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address[0]).is_loopback

    def check_listen(self, port: int, usual_port: int) -> None:
        """Check the address.

        Args:
            port: Of the default, which the message shows.
            usual_port: Where PLCs expect such a server.

        Raises:
            ValueError: It is not an IP address with a port.
        """
        match = _LISTEN.fullmatch(self.listen)
        if not match or not 0 < int(match[2]) <= MAX_PORT:
            raise ValueError(f"listen: {self.listen}: not an address; write 127.0.0.1:{port}")
        try:
            ipaddress.ip_address(self.address[0])
        except ValueError:
            raise ValueError(f"listen: {self.listen}: give an IP address, such as 192.168.7.20:{usual_port}") from None


class ModbusConfig(ListeningConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how the Modbus server is reached, and how it writes texts and large numbers.

    Attributes:
        listen: IP address and port.
        clients: Addresses or networks that may connect; empty lets in everyone who reaches the address.
        byte_order: Whether the first of two characters is in the upper byte of a register (big) or in the lower one.
        word_order: Whether the upper half of a 32-bit number comes first (big) or the lower one.
        part_id_length, recipe_length: Characters of these texts.
    """

    listen: Annotated[str, Meta(examples=["127.0.0.1:5020"])] = "127.0.0.1:5020"
    clients: tuple[str, ...] = ()
    byte_order: Order = "big"
    word_order: Order = "big"
    part_id_length: TextLength = 32
    recipe_length: TextLength = 32

    def __post_init__(self) -> None:
        self.check_listen(5020, 502)
        for client in self.clients:
            try:
                ipaddress.ip_network(client)
            except ValueError:
                raise ValueError(
                    f"clients: {client}: not an address or a network; write 192.168.7.10 or 192.168.7.0/24"
                ) from None

    def may_connect(self, host: str) -> bool:
        """Whether a client of this address is let in."""
        address = ipaddress.ip_address(host)
        address = (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
        return not self.clients or any(address in ipaddress.ip_network(client) for client in self.clients)


class OpcUaConfig(ListeningConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how the OPC UA server is reached, and by whom.

    Attributes:
        listen: IP address and port.
        folder: Holds the bridge's certificate and those of trusted clients. None: the service's own folder, or else `opcua`
            beside the configuration.
        anonymous: Whether clients without a certificate may also connect, unencrypted.
    """

    listen: str = "127.0.0.1:4840"
    folder: NotEmpty | None = None
    anonymous: bool = False

    def __post_init__(self) -> None:
        self.check_listen(4840, 4840)


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how the broker is checked, and how the bridge shows who it is.

    Attributes:
        ca: PEM file of the authority that signed the broker's certificate; None takes the system's authorities.
        certificate, key: PEM files of the bridge's own certificate, for a broker that asks for one; one file may have both.
    """

    ca: NotEmpty | None = None
    certificate: NotEmpty | None = None
    key: NotEmpty | None = None


class MqttConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where results and state are mirrored.

    Attributes:
        broker: Host and port.
        topic: Topics begin with it and the camera's name.
        user, password_file: For a broker that asks for them; the file has one line.
        tls: None connects without TLS, which only a broker on this machine may.
    """

    broker: str = "127.0.0.1:1883"
    topic: Annotated[str, Meta(pattern=r"^[^#+\x00/][^#+\x00]*\Z", description="a topic without # and +")] = "anoseg"
    user: NotEmpty | None = None
    password_file: NotEmpty | None = None
    tls: TlsConfig | None = None

    def __post_init__(self) -> None:
        match = _HOST.fullmatch(self.broker)
        if not match or not 0 < int(match[2]) <= MAX_PORT:
            raise ValueError(f"broker: {self.broker}: not an address; write 127.0.0.1:1883 or broker.example:8883")
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file: a password needs a user: set user, too")
        if self.tls is None and not _is_loopback(self.address[0]):
            raise ValueError(f"tls: needed for a broker on another machine ({self.broker}): set tls: {{}}")

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        host, _, port = self.broker.rpartition(":")
        return host.strip("[]"), int(port)


PollMs = Annotated[float, Meta(ge=5, le=1000)]
S7TextLength = Annotated[int, Meta(ge=1, le=254)]


class S7Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says which data block of which Siemens PLC the bridge reads and writes.

    Attributes:
        plc: Host and port; None for a bridge of another kind.
        rack, slot: Of the CPU.
        db: Number of the data block.
        poll_ms: The pause between two reads.
        part_id_length, recipe_length: Lengths of these STRINGs.
    """

    plc: str | None = None
    rack: Annotated[int, Meta(ge=0, le=7)] = 0
    slot: Annotated[int, Meta(ge=0, le=31)] = 1
    db: Annotated[int, Meta(ge=1, le=65_535)] = 100
    poll_ms: PollMs = 20.0
    part_id_length: S7TextLength = 32
    recipe_length: S7TextLength = 32

    def __post_init__(self) -> None:
        if self.plc is not None:
            _check_plc(self.plc, S7_PORT)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the PLC."""
        return _plc_address(self.plc, S7_PORT)


class LogixConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says which tag of which Rockwell controller the bridge reads and writes.

    Attributes:
        plc: Host and port; None for a bridge of another kind.
        slot: Of the controller in its chassis.
        tag: The tag of the data type AnoSeg; with its program unless it is a controller tag.
        poll_ms: The pause between two reads.
    """

    plc: str | None = None
    slot: Annotated[int, Meta(ge=0, le=31)] = 0
    tag: Annotated[str, Meta(pattern=_TAG, description="a tag, such as AnoSeg or Program:Main.AnoSeg")] = "AnoSeg"
    poll_ms: PollMs = 20.0

    def __post_init__(self) -> None:
        if self.plc is not None:
            _check_plc(self.plc, LOGIX_PORT)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the controller."""
        return _plc_address(self.plc, LOGIX_PORT)


S7_PORT, LOGIX_PORT = 102, 44_818
LOGIX_TEXT_LENGTH = 82
"""Characters of a STRING; Logix has no other length."""


def _check_plc(plc: str, port: int) -> None:
    match = _PLC.fullmatch(plc)
    if not match or not 0 < int(match[2] or port) <= MAX_PORT:
        raise ValueError(f"plc: {plc}: not an address; write 192.168.7.30 or 192.168.7.30:{port}")


def _plc_address(plc: str | None, port: int) -> tuple[str, int]:
    assert plc is not None  # `commands/bridge.py` has checked that
    host, _, given = plc.partition(":")
    return host, int(given or port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class BridgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describes a bridge between one camera of a station and one PLC.

    Attributes:
        camera: The camera whose parts the PLC handles.
        station: Where the station is.
        trigger: Who triggers a part: the PLC through the bridge, or the camera by itself (input, interval, every frame).
        result_window_ms: A result that is not there so long after its trigger, or else after its capture, is UNKNOWN: late.
        results: How many parts may be without an acknowledged result before that is an overrun.
        modbus, mqtt, s7, logix, opcua: For the kind of this name.
    """

    camera: CameraName
    station: StationConfig = StationConfig()
    trigger: Literal["plc", "camera"] = "plc"
    result_window_ms: Annotated[float, Meta(ge=10, le=60_000)] = 200.0
    results: Annotated[int, Meta(ge=1, le=256)] = 8
    modbus: ModbusConfig = ModbusConfig()
    mqtt: MqttConfig = MqttConfig()
    s7: S7Config = S7Config()
    logix: LogixConfig = LogixConfig()
    opcua: OpcUaConfig = OpcUaConfig()

    def __post_init__(self) -> None:
        if self.trigger == "plc" and self.station.control is None:
            raise ValueError(
                "station.control: null, but triggers are sent there: give the station's endpoint, or set trigger: camera"
            )

    @property
    def handshake(self) -> Settings:
        """The settings of the handshake."""
        return Settings(triggered=self.trigger == "plc", window_s=self.result_window_ms / 1000, capacity=self.results)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Says which camera of which station a bridge serves, and with which key.

    Attributes:
        camera, publish, control, key: As in `BridgeConfig`.
        window_s: How soon a result must be there.
        recipe_length: The greatest length of a recipe's name, in bytes of UTF-8; None: no limit.
        recipe_length_can_be_set: Whether the configuration has a key for `recipe_length`.
    """

    camera: str
    publish: str
    control: str | None
    key: Key | None
    window_s: float
    recipe_length: int | None = None
    recipe_length_can_be_set: bool = True


def load_bridge_config(path: Path) -> BridgeConfig:
    """Read a bridge's configuration file. A relative path in it starts at the file's folder.

    Raises:
        ConfigError: The file cannot be read, or a value is invalid. The message names file, line and key.
    """
    config = read_yaml(path, BridgeConfig)
    tls = config.mqtt.tls and _with_absolute_paths(config.mqtt.tls, path, "ca", "certificate", "key")
    mqtt = msgspec.structs.replace(_with_absolute_paths(config.mqtt, path, "password_file"), tls=tls)
    opcua = _with_absolute_paths(config.opcua, path, "folder")
    return msgspec.structs.replace(config, station=_with_absolute_paths(config.station, path, "key"), mqtt=mqtt, opcua=opcua)


def _with_absolute_paths(struct: T, file: Path, *names: str) -> T:
    base = file.absolute().parent
    given = {name: path for name in names if (path := getattr(struct, name)) is not None}
    return msgspec.structs.replace(struct, **{name: str(base / os.path.expanduser(path)) for name, path in given.items()})  # noqa: PTH111 - as in `load_config`
