"""A unit for each kind of bridge. PLCs are programs of the host that enter only the machine's network."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from stress.under_systemd.checks import demand, held, timed, wait_for
from stress.under_systemd.machine import CHECKOUT, CONFIG, UNIT, Machine
from support.paths import REPOSITORY

OWN_CERTIFICATE = "/var/lib/anoseg-bridge/opcua/own/certificate.der"
PARTS = 3
"""Of a PLC, before its bridge is killed and after that."""


def modbus_bridge(machine: Machine) -> None:
    """As docs/plc.md and docs/keys.md say: systemd passes the bridge its key, and restarts it."""
    folder, unit = "/etc/anoseg/keys", "anosegd-bridge@press"
    said = machine.run(f"systemd-analyze verify {unit}.service 2>&1")
    demand(said == "", said)
    machine.run(f"install -m 600 /var/tmp/plc.key {folder}/bridge.key")
    machine.run(f"sed -i 's/^    policy: every/    policy: every\\n    trigger: {{kind: software}}/' {CONFIG}")
    with timed("keys: systemctl reload needs no key: the changed camera waits for triggers"):
        machine.run(f"systemctl reload {UNIT}")
        wait_for(lambda: "reload.cameras changed=top" in machine.journal("--lines=5"), "the camera is changed")
    machine.run("cp /etc/anoseg/bridge.yaml /etc/anoseg/press.yaml")
    machine.run(
        "sed -i 's/^result_window_ms: .*/result_window_ms: 10000/; s/127.0.0.1:5020/127.0.0.1:502/' /etc/anoseg/press.yaml"
    )
    machine.run(f"systemctl enable --now {unit} 2>&1")
    wait_for(lambda: "bridge.waiting" in machine.journal_of(unit), "the bridge without its key says that it hears nothing")
    machine.override(unit, f"LoadCredential=client.key:{folder}/bridge.key")
    machine.run(f"systemctl restart {unit}")
    plc = f"python3 {CHECKOUT}/tests/support/plc.py 502"
    with timed("bridge: with its key from systemd, a Modbus client on port 502 triggers five parts and reads their results"):
        read = machine.run(f"{plc} 5").splitlines()
    demand(len(read) == 5 and all(line.split()[1] in ("PASS", "FAIL") for line in read), str(read))
    killed_at = time.monotonic()
    machine.kill(unit)
    read = machine.run(f"{plc} 5").splitlines()
    demand(len(read) == 5 and all(line.split()[1] in ("PASS", "FAIL") for line in read), str(read))
    restarts = machine.unit("NRestarts", unit)
    demand(restarts == "1", f"{restarts} restarts")
    held("bridge: killed, it is back, and five more parts have results", time.monotonic() - killed_at)
    secret = json.loads(machine.run(f"cat {folder}/bridge.key"))["secret"]
    demand(secret not in machine.shown_by(unit), "the bridge's secret is shown")
    held("bridge: runs as the user anoseg; its secret is neither in the journal nor in the unit, environment and arguments")
    machine.run(f"systemctl stop {UNIT}")
    wait_for(lambda: "bridge.station_lost" in machine.journal_of(unit), "the bridge notices that the station was stopped")
    demand(machine.run(f"systemctl is-active {unit}") == "active", "the bridge ended with its station")
    with timed("bridge: outlives its station, and serves again when that is back"):
        machine.run(f"systemctl start {UNIT}")
        machine.run(f"{plc} 2")
    machine.run(f"systemctl disable --now {unit} 2>&1")
    machine.remove_override(unit)


def polling_bridge(machine: Machine, kind: str, port: int, plcs: Path) -> None:
    """A unit for another kind: it gets its key, and is killed while a PLC triggers parts."""
    where = f"127.0.0.1:{port}"
    section = f"listen: {where}, anonymous: true" if kind == "opcua" else f"plc: {where}"
    unit = _start_bridge(machine, kind, f"camera: top\nresult_window_ms: 10000\n{kind}: {{{section}}}\n")
    server = next(plcs.glob("s7/**/libsnap7.so")) if kind == "s7" else plcs / kind
    program = [sys.executable, REPOSITORY / "tests/support/plc_program.py", kind, server, f"{port}", f"{2 * PARTS}"]
    command = machine.beside(*program)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as plc:
        try:
            assert plc.stdout is not None
            with timed(f"bridge {kind}: a PLC triggers {PARTS} parts and reads their results"):
                _judged(machine, plc.stdout, unit)
            certificate = machine.run(f"sha256sum {OWN_CERTIFICATE}", check=kind == "opcua")
            with timed(f"bridge {kind}: killed, it is back, and {PARTS} more parts have results"):
                machine.kill(unit)
                _judged(machine, plc.stdout, unit)
        finally:
            plc.kill()
    if kind == "opcua":
        demand(machine.run(f"sha256sum {OWN_CERTIFICATE}") == certificate, "the killed bridge made another certificate")
        held("bridge opcua: its certificate is as before")
    _stop_bridge(machine, unit)


def mqtt_mirror(machine: Machine) -> None:
    """A unit of the kind mqtt: whoever asks the broker gets the state, also after a kill."""
    broker = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if broker is None or shutil.which("mosquitto_sub") is None:
        print("-- skipped   bridge mqtt: no mosquitto here (apt install mosquitto mosquitto-clients)", flush=True)
        return
    ask = machine.beside("mosquitto_sub", "-C", "1", "-W", "5", "-t", "anoseg/top/state")

    def is_online() -> bool:
        said = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
        return bool(said) and json.loads(said)["online"] is True

    with subprocess.Popen(
        machine.beside(broker, "-p", "1883"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            unit = _start_bridge(machine, "mqtt", "camera: top\ntrigger: camera\n")
            with timed("bridge mqtt: the broker has the state"):
                wait_for(is_online, "the state says online")
            with timed("bridge mqtt: killed, it is back"):
                machine.kill(unit)
                wait_for(lambda: machine.unit("NRestarts", unit) == "1" and is_online(), "the state says online again")
            _stop_bridge(machine, unit)
        finally:
            process.kill()


def _start_bridge(machine: Machine, kind: str, config: str) -> str:
    """Start a unit for a kind, with the bridge's key. Returns its name."""
    unit = f"anosegd-bridge@{kind}"
    machine.run(f"printf {shlex.quote(config)} >/etc/anoseg/{kind}.yaml")
    machine.override(unit, f"Environment=KIND={kind}", "LoadCredential=client.key:/etc/anoseg/keys/bridge.key")
    with timed(f"bridge {kind}: systemctl enable --now returns when it serves"):
        machine.run(f"systemctl enable --now {unit} 2>&1")
    return unit


def _stop_bridge(machine: Machine, unit: str) -> None:
    restarts = machine.unit("NRestarts", unit)
    demand(restarts == "1", f"{restarts} restarts of {unit}")
    machine.run(f"systemctl disable --now {unit} 2>&1")
    machine.remove_override(unit)


def _judged(machine: Machine, printed: IO[str], unit: str) -> None:
    """Read what the PLC prints until so many parts have results."""
    found = 0
    while found < PARTS:
        line = printed.readline().split()
        demand(line != [], f"the PLC has ended: {machine.journal_of(unit, '--lines=20')}")
        demand(line[1] in ("PASS", "FAIL", "none"), f"{line}: {machine.journal_of(unit, '--lines=20')}")
        found += line[1] != "none"
