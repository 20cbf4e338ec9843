"""A station with keys."""

from __future__ import annotations

import json

from stress.under_systemd.checks import demand, held, timed
from stress.under_systemd.machine import CONFIG, UNIT, Machine


def keys(machine: Machine) -> None:
    """As docs/keys.md says: the station's key comes from systemd, and appears nowhere else."""
    folder = "/etc/anoseg/keys"
    machine.run(f"cp {CONFIG} /var/tmp/good.yaml; anosegd keygen station {folder}/station.key")
    where = f"--station {folder}/station.key --clients {folder}/clients"
    machine.run(f"anosegd keygen client plc {where} --out /var/tmp/plc.key --control")
    machine.run(f"anosegd keygen client screen {where} --out /var/tmp/screen.key")
    machine.run(f"echo 'keys: {{clients: {folder}/clients}}' >>{CONFIG}")
    machine.run(f"systemctl stop {UNIT}")
    demand(machine.attempt(f"systemctl start {UNIT}")[0] != 0, "it starts without its key")
    demand("LoadCredential=" in machine.journal("--lines=5"), "the journal does not say what is missing")
    held("keys: without the station's key the start fails, and the journal says which setting is missing")
    machine.override(UNIT, f"LoadCredential=station.key:{folder}/station.key")
    with timed("keys: LoadCredential gives the station its key"):
        machine.run(f"systemctl start {UNIT}")
    demand(machine.attempt(f"setpriv --reuid=anoseg --clear-groups cat {folder}/station.key")[0] != 0, "the key can be read")
    demand(machine.attempt(f"anosegd status {CONFIG}")[0] == 2, "a client without a key is served")
    said = machine.run(f"anosegd status --json --key /var/tmp/screen.key {CONFIG}")
    demand('"state"' in said, said)
    code, said = machine.attempt(f"anosegd pause {CONFIG} --minutes 5 --who me --key /var/tmp/screen.key")
    demand(code != 0 and "may listen and read" in said, said)
    held("keys: served with a key, not without; a key that may listen commands nothing")
    limit = machine.unit("LimitNOFILE")
    demand(limit == "16384", f"LimitNOFILE={limit}")
    shown = machine.shown_by(UNIT)
    for name in (f"{folder}/station.key", "/var/tmp/plc.key", "/var/tmp/screen.key"):
        demand(json.loads(machine.run(f"cat {name}"))["secret"] not in shown, f"the secret of {name} is shown")
    held("keys: no secret in the journal, the unit, the environment and the arguments")


def without_keys(machine: Machine) -> None:
    """Back to the configuration without keys, which the checks after this one expect."""
    machine.remove_override(UNIT)
    machine.run(f"cp /var/tmp/good.yaml {CONFIG}; systemctl restart {UNIT}")
