"""Runs `anosegd bridge KIND CONFIG`: connects a PLC to one camera of a station."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anosegd import logs
from anosegd.bridge.config import (
    LOGIX_TEXT_LENGTH,
    BridgeConfig,
    LogixConfig,
    ModbusConfig,
    OpcUaConfig,
    S7Config,
    Target,
    load_bridge_config,
)
from anosegd.bridge.kind import Kind
from anosegd.commands.connection import client_key

EXTRAS = {"pymodbus": "plc", "paho": "plc", "snap7": "plc", "pylogix": "plc", "asyncua": "opcua", "cryptography": "opcua"}
"""Which extra a package belongs to."""
STATE_DIRECTORY = "STATE_DIRECTORY"
"""The variable in which systemd names the folder of a unit's own files."""


def main(options: argparse.Namespace) -> int:
    """Serve the PLC until stopped; with --check or --plc-source, print the map and open nothing.

    Raises:
        ConfigError: The configuration, the key or the address is refused, or a package is not installed.
        PublishError: The address is in use.
    """
    config = load_bridge_config(options.config)
    if options.kind == "mqtt" and config.trigger != "camera":
        raise ConfigError(f"{options.config}: trigger: plc, but the kind mqtt triggers nothing", hint="set trigger: camera")
    if options.kind in ("s7", "logix") and getattr(config, options.kind).plc is None:
        hint = "give the PLC's address, such as 192.168.7.30"
        raise ConfigError(f"{options.config}: {options.kind}.plc is missing", hint=hint)
    if options.plc_source:
        sys.stdout.write(_source(options.kind, config))
        return 0
    key = client_key(options.key or (Path(config.station.key) if config.station.key else None))
    if options.check:
        _print_map(options.config, options.kind, config)
        return 0
    try:
        from anosegd.bridge.service import run_bridge

        kind = _kind(options.kind, config, _opcua_folder(options.config, config.opcua))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ConfigError(
            f"anosegd bridge {options.kind} needs the package {error.name}, which is not installed",
            hint=f"pip install -c constraints.txt --editable '.[{extra}]', or make install EXTRAS={extra}",
        ) from error
    logs.set_up(journal=os.environ.get("JOURNAL_STREAM"))
    target = Target(
        camera=config.camera,
        publish=config.station.publish,
        control=config.station.control,
        key=key,
        window_s=config.handshake.window_s,
        recipe_length=_recipe_length(options.kind, config),
        recipe_length_can_be_set=options.kind != "logix",
    )
    settings = replace(config.handshake, mirror=options.kind == "mqtt")
    return run_bridge(kind, target, settings, os.environ, os.getpid())


def _recipe_length(kind: str, config: BridgeConfig) -> int | None:
    """Return how many bytes a recipe's name may have; None: as many as it has."""
    lengths = {"modbus": config.modbus.recipe_length, "s7": config.s7.recipe_length, "logix": LOGIX_TEXT_LENGTH}
    return lengths.get(kind)


def _kind(name: str, config: BridgeConfig, opcua_folder: Path) -> Kind:
    """Return the kind of this name, which is imported only then.

    Raises:
        ConfigError: Its configuration cannot be used.
    """
    if name == "modbus":
        from anosegd.bridge.modbus.server import ModbusServer

        return ModbusServer(config.modbus)
    if name == "logix":
        from anosegd.bridge.logix.memory import LogixMemory
        from anosegd.bridge.polling import PollingKind

        return PollingKind(LogixMemory(config.logix), config.logix.poll_ms / 1000)
    if name == "s7":
        from anosegd.bridge.polling import PollingKind
        from anosegd.bridge.s7.memory import S7Memory

        return PollingKind(S7Memory(config.s7), config.s7.poll_ms / 1000)
    if name == "opcua":
        from anosegd.bridge.opcua.server import OpcUaServer

        return OpcUaServer(config.opcua, opcua_folder, config.camera)
    from anosegd.bridge.mqtt.mirror import MqttMirror

    return MqttMirror(config.mqtt, config.camera)


def _print_map(path: Path, kind: str, config: BridgeConfig) -> None:
    lines = [f"{shown_name(path)}: valid", f"  camera {config.camera} of the station at {config.station.publish}"]
    if kind == "modbus":
        lines += _modbus_lines(config.modbus)
    elif kind == "s7":
        lines += _s7_lines(config.s7)
    elif kind == "logix":
        lines += _logix_lines(config.logix)
    elif kind == "opcua":
        lines += _opcua_lines(config.opcua, _opcua_folder(path, config.opcua))
    else:
        lines += _mqtt_lines(config)
    sys.stdout.write("\n".join(lines) + "\n")


def _opcua_folder(path: Path, opcua: OpcUaConfig) -> Path:
    """Return the folder of certificates: the configured one, the service's own, or one beside the configuration."""
    if opcua.folder is not None:
        return Path(opcua.folder)
    own = os.environ.get(STATE_DIRECTORY, "").partition(":")[0]
    return Path(own) if own else path.absolute().parent / "opcua"


def _opcua_lines(opcua: OpcUaConfig, folder: Path) -> list[str]:
    from anosegd.bridge.opcua.variables import INPUTS, OUTPUTS

    lines = [f"  OPC UA at opc.tcp://{opcua.listen}, Basic256Sha256, SignAndEncrypt; certificates in {folder}"]
    if opcua.anonymous:
        lines.append("  warning: opcua.anonymous: whoever reaches this address can read and write, without a certificate")
    lines.append("  variables to read (in the namespace urn:anoseg-edge:bridge):")
    lines += [f"    s=Outputs.{variable.name}  {variable.kind}" for variable in OUTPUTS]
    lines.append("  variables to write:")
    lines += [f"    s=Inputs.{variable.name}  {variable.kind}" for variable in INPUTS]
    return lines


def _mqtt_lines(config: BridgeConfig) -> list[str]:
    topic, tls = f"{config.mqtt.topic}/{config.camera}", "no TLS" if config.mqtt.tls is None else "TLS"
    return [
        f"  MQTT 5 at {config.mqtt.broker}, {tls}",
        f"  {topic}/state   retained, and the last will",
        f"  {topic}/result  each result",
    ]


def _source(kind: str, config: BridgeConfig) -> str:
    """Return the declaration of what a PLC must have in its memory.

    Raises:
        ConfigError: A PLC of this kind needs none.
    """
    if kind == "s7":
        from anosegd.bridge.s7 import Block

        return Block(config.s7).declaration()
    if kind == "logix":
        from anosegd.bridge.logix import TagMap

        return TagMap(config.logix.tag).declaration()
    raise ConfigError(f"--plc-source: a PLC needs no declaration for {kind}", hint="see --check for the map")


def _s7_lines(s7: S7Config) -> list[str]:
    from anosegd.bridge.s7 import Block

    block = Block(s7)
    lines = [f"  DB{s7.db} of the S7 PLC at {s7.plc}, {block.size} bytes; texts are UTF-8"]
    for title, fields in (("written by the PLC", block.controls), ("written by the bridge", block.outputs)):
        lines.append(f"  {title}:")
        for field in fields:
            names = [(f"{field.offset + n // 8}.{n % 8}", "BOOL", bit) for n, bit in enumerate(field.bits)]
            names = names or [(f"{field.offset}.0", field.kind, field.name)]
            lines += [f"    {offset:>6}  {kind:10}  {name}" for offset, kind, name in names]
    return lines


def _logix_lines(logix: LogixConfig) -> list[str]:
    from anosegd.bridge.logix.tag_map import CONTROLS, OUTPUTS

    lines = [f"  {logix.tag} of the Logix controller at {logix.plc}, slot {logix.slot}; texts are UTF-8"]
    for title, part, members in (("PLC", "control", CONTROLS), ("bridge", "status", OUTPUTS)):
        lines.append(f"  written by the {title}:")
        for member in members:
            lines.append(f"    {member.kind:6}  {logix.tag}.{part}.{member.name}")
            lines += [f"    BOOL    {logix.tag}.{part}.{member.name}.{n}: {bit}" for n, bit in enumerate(member.bits)]
    return lines


def _modbus_lines(modbus: ModbusConfig) -> list[str]:
    from anosegd.bridge.encoding import CONTROL_BITS, STATUS_BITS
    from anosegd.bridge.modbus.registers import MIRROR, RegisterMap

    registers = RegisterMap(modbus)
    lines = [f"  Modbus TCP at {modbus.listen}; addresses count from 0; texts are UTF-8"]
    if not modbus.is_loopback:
        who = ", ".join(modbus.clients) or "whoever reaches this address"
        lines.append(f"  warning: Modbus has no keys: {who} can read and write")
    lines.append(f"  discrete inputs 0–15, and the bits of input register 0: {', '.join(STATUS_BITS)}")
    lines.append(f"  input registers (the same as holding registers from {MIRROR} on, read-only):")
    lines += [f"    {field.address:4}  {field.registers:2}  {field.kind:6}  {field.name}" for field in registers.outputs]
    lines.append(f"  coils 0–{len(CONTROL_BITS) - 1}, and the bits of holding register 0: {', '.join(CONTROL_BITS)}")
    lines.append("  holding registers:")
    lines += [f"    {field.address:4}  {field.registers:2}  {field.kind:6}  {field.name}" for field in registers.controls]
    return lines
