"""The configuration of a bridge, and what the command refuses."""

import socket
from pathlib import Path

import pytest
import yaml
from support.anosegd_line import run_anosegd
from support.paths import CONFIGS

from anoseg_engines.errors import ConfigError
from anoseg_engines.strict_yaml import FORMAT
from anosegd.bridge.config import (
    BridgeConfig,
    LogixConfig,
    ModbusConfig,
    MqttConfig,
    S7Config,
    StationConfig,
    load_bridge_config,
)


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "b.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_bridge_config(path)
    return str(caught.value)


def test_the_shipped_file_states_the_defaults() -> None:
    """configs/bridge.yaml lists every key, with the code's default."""
    raw = yaml.safe_load((CONFIGS / "bridge.yaml").read_text())
    assert raw.pop("format") == FORMAT
    assert set(raw) == set(BridgeConfig.__struct_fields__)
    assert set(raw["station"]) == set(StationConfig.__struct_fields__)
    assert set(raw["modbus"]) == set(ModbusConfig.__struct_fields__)
    assert set(raw["mqtt"]) == set(MqttConfig.__struct_fields__)
    assert set(raw["s7"]) == set(S7Config.__struct_fields__)
    assert set(raw["logix"]) == set(LogixConfig.__struct_fields__)
    assert load_bridge_config(CONFIGS / "bridge.yaml") == BridgeConfig(camera="top")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "expected a mapping"),
        ("station: {}", "'camera' is missing"),
        ("camera: top\ncamer: x", "did you mean 'camera'"),
        ("camera: top\ntrigger: sensor", "one of plc, camera"),
        ("camera: top\nresult_window_ms: 0", "result_window_ms"),
        ("camera: top\nstation: {control: null}", "station.control"),
        ("camera: top\nstation: {publish: 127.0.0.1}", "station.publish"),
        ("camera: top\nmodbus: {listen: localhost:502}", "give an IP address"),
        ("camera: top\nmodbus: {listen: '127.0.0.1'}", "modbus.listen"),
        ("camera: top\nmodbus: {clients: [plc]}", "modbus.clients"),
        ("camera: top\nmodbus: {listen: 5022}", "modbus.listen: expected text, found 5022\n  write it as in '127.0.0.1:5020'"),
        ("camera: top\nmodbus: {part_id_length: 33}", "part_id_length: must be an even number, found 33"),
        ("camera: top\nmodbus: {word_order: middle}", "one of big, little"),
        ("camera: top\ns7: {plc: 'a b'}", "s7.plc"),
        ("camera: top\ns7: {plc: '192.168.7.30:0'}", "write 192.168.7.30 or 192.168.7.30:102"),
        ("camera: top\ns7: {part_id_length: 255}", "part_id_length"),
        ("camera: top\nlogix: {tag: 'Ano Seg'}", "logix.tag"),
        ("camera: top\nlogix: {slot: 99}", "logix.slot"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, words: str) -> None:
    """What is wrong, and where."""
    assert words in refused(tmp_path, text)


def test_clients_may_be_networks() -> None:
    """An address that a dual-stack socket writes as IPv6 is the same one."""
    config = ModbusConfig(clients=("192.168.7.0/24", "::1"))
    assert config.may_connect("192.168.7.9")
    assert config.may_connect("::ffff:192.168.7.9")
    assert config.may_connect("::1")
    assert not config.may_connect("192.168.8.9")
    assert ModbusConfig().may_connect("8.8.8.8")


def test_check_prints_the_map(tmp_path: Path) -> None:
    """And says what an address in the network means."""
    path = tmp_path / "b.yaml"
    path.write_text("camera: top\nmodbus: {listen: '0.0.0.0:502'}\n")
    done = run_anosegd("bridge", "modbus", str(path), "--check")
    assert done.returncode == 0
    assert "Modbus has no keys: whoever reaches this address can read and write" in done.stdout
    assert "result_number" in done.stdout


def test_the_address_of_a_plc_has_the_protocols_port() -> None:
    """Unless another one is given."""
    assert S7Config(plc="192.168.7.30").address == ("192.168.7.30", 102)
    assert LogixConfig(plc="192.168.7.40").address == ("192.168.7.40", 44_818)
    assert S7Config(plc="press.plant.example:1102").address == ("press.plant.example", 1102)


def test_a_bridge_to_a_plc_prints_what_the_plc_needs(tmp_path: Path) -> None:
    """The map, and the source of its block; a kind whose PLC needs none says so."""
    path = tmp_path / "b.yaml"
    path.write_text("camera: top\ns7: {plc: 192.168.7.30, recipe_length: 12}\n")
    assert "result_valid" in run_anosegd("bridge", "s7", str(path), "--check").stdout
    assert "recipe : String[12];" in run_anosegd("bridge", "s7", str(path), "--plc-source").stdout
    path.write_text("camera: top\nlogix: {plc: 192.168.7.40}\n")
    assert "AnoSeg.status.bits.7: result_valid" in run_anosegd("bridge", "logix", str(path), "--check").stdout
    assert '<DataType Use="Target" Name="AnoSeg"' in run_anosegd("bridge", "logix", str(path), "--plc-source").stdout
    done = run_anosegd("bridge", "modbus", str(path), "--plc-source")
    assert (done.returncode, "needs no declaration for modbus" in done.stderr) == (2, True)
    path.write_text("camera: top\n")
    done = run_anosegd("bridge", "s7", str(path))
    assert (done.returncode, "s7.plc is missing" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "more", "code", "words"),
    [
        ("camera: [", (), 2, "b.yaml"),
        ("camera: top", ("--key", "no.key"), 2, "no.key: cannot be read"),
        ("camera: top\nstation: {key: other.key}", (), 2, "other.key: cannot be read"),
        ("camera: top\nmodbus: {listen: '203.0.113.9:5020'}", (), 2, "203.0.113.9:5020 cannot be used"),
    ],
)
def test_exit_codes(tmp_path: Path, text: str, more: tuple[str, ...], code: int, words: str) -> None:
    """2: a restart does not help."""
    (tmp_path / "b.yaml").write_text(text)
    done = run_anosegd("bridge", "modbus", "b.yaml", *more, cwd=tmp_path, process=True)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_a_port_in_use_is_an_exit_with_1(tmp_path: Path) -> None:
    """A restart may help: the other program may have ended by then."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "b.yaml").write_text(f"camera: top\nmodbus: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}")
        done = run_anosegd("bridge", "modbus", "b.yaml", cwd=tmp_path, process=True)
    assert done.returncode == 1
    assert "is in use" in done.stderr
