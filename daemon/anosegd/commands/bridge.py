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
from anosegd.bridge.config import BridgeConfig, ModbusConfig, Target, load_bridge_config
from anosegd.bridge.kind import Kind
from anosegd.commands.connection import client_key


def main(options: argparse.Namespace) -> int:
    """Serve the PLC until stopped; with --check, print the map and open nothing.

    Raises:
        ConfigError: The configuration, the key or the address is refused, or a package is not installed.
        PublishError: The address is in use.
    """
    config = load_bridge_config(options.config)
    if options.kind == "mqtt" and config.trigger != "camera":
        raise ConfigError(f"{options.config}: trigger: a mirror triggers nothing", hint="set trigger: camera")
    key = client_key(options.key or (Path(config.station.key) if config.station.key else None))
    if options.check:
        _print_map(options.config, options.kind, config)
        return 0
    try:
        from anosegd.bridge.service import run_bridge

        kind = _kind(options.kind, config)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pymodbus", "paho"):
            raise
        raise ConfigError(
            f"anosegd bridge {options.kind} needs the package {error.name}, which is not installed",
            hint="pip install -c constraints.txt '.[plc]', or make install EXTRAS=plc",
        ) from error
    logs.set_up(journal=os.environ.get("JOURNAL_STREAM"))
    target = Target(
        camera=config.camera,
        publish=config.station.publish,
        control=config.station.control,
        key=key,
        window_s=config.handshake.window_s,
    )
    settings = replace(config.handshake, mirror=options.kind == "mqtt")
    return run_bridge(kind, target, settings, os.environ, os.getpid())


def _kind(name: str, config: BridgeConfig) -> Kind:
    """Return the kind of this name, which is imported only then.

    Raises:
        ConfigError: Its configuration cannot be used.
    """
    if name == "modbus":
        from anosegd.bridge.modbus.server import ModbusServer

        return ModbusServer(config.modbus)
    from anosegd.bridge.mqtt.mirror import MqttMirror

    return MqttMirror(config.mqtt, config.camera)


def _print_map(path: Path, kind: str, config: BridgeConfig) -> None:
    lines = [f"{shown_name(path)}: valid", f"  camera {config.camera} of the station at {config.station.publish}"]
    lines += _modbus_lines(config.modbus) if kind == "modbus" else _mqtt_lines(config)
    sys.stdout.write("\n".join(lines) + "\n")


def _mqtt_lines(config: BridgeConfig) -> list[str]:
    topic, tls = f"{config.mqtt.topic}/{config.camera}", "no TLS" if config.mqtt.tls is None else "TLS"
    return [
        f"  MQTT 5 at {config.mqtt.broker}, {tls}",
        f"  {topic}/state   retained, and the last will",
        f"  {topic}/result  each result",
    ]


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
