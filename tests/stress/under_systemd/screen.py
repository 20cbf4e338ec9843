"""The screen's unit."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from stress.under_systemd.checks import demand, held, timed, wait_for
from stress.under_systemd.machine import CHECKOUT, EXTRAS, UNIT, Machine


def screen(machine: Machine) -> None:
    """The screen as a service: on loopback, then for other machines, as docs/deployment.md says."""
    unit, folder = "anosegd-view@line", "/var/lib/anoseg-view/line"
    machine.run(f"systemctl start {UNIT}")
    with timed(f"make install EXTRAS={EXTRAS}"):
        machine.run(f"cd {CHECKOUT} && make install EXTRAS={EXTRAS}")
    said = machine.run(f"systemd-analyze verify {unit}.service 2>&1")
    demand(said == "", said)
    with timed("the screen starts, and shows the station on loopback without a login"):
        machine.run(f"systemctl enable --now {unit} 2>&1")
        wait_for(lambda: _browse(machine, "http://127.0.0.1:8080", check=False).get("event") == "hello", "the stream begins")
    token = machine.run(f"anosegd user add --users {folder}/users.json alice --role change 2>/dev/null").split()[-1]
    settings = ("LISTEN=0.0.0.0:8443", f'"MORE=--users {folder}/users.json"')
    machine.override(unit, *(f"Environment={one}" for one in settings), "IPAddressAllow=192.168.7.0/24")
    origin, prints = "https://127.0.0.1:8443", list[str]()
    for what in ("the network form", "after a restart"):
        machine.run(f"systemctl restart {unit}")
        with timed(f"{what}: TLS with the printed certificate, nothing without a login, the user logs in"):
            wait_for(lambda: bool(_browse(machine, origin, token, check=False)), "the screen answers")
            found = _browse(machine, origin, token)
        said = machine.journal_of(unit)
        prints.append(re.findall(r"SHA-256 ([0-9A-F:]+)", said)[-1])
        demand(found["fingerprint"] == prints[-1], f"another certificate than the printed one: {found}")
        demand((found["without"], found["wrong"], found["who"]) == (401, 403, "alice"), str(found))
        demand("the screen is at https://press-4:8443/" in said, said)
    demand(len(set(prints)) == 1, f"the restart made another certificate: {prints}")
    held("the certificate and the users survive a restart")
    for name in ("users.json", "tls.pem"):
        machine.run(f"test $(stat -c '%U-%a' {folder}/{name}) = anoseg-600")
    held("users and certificate belong to anoseg alone")
    listed = _browse(machine, origin, token, path="/bundles.json")["body"]
    demand(listed["may_release"] is False, str(listed))
    held("the unit may not write to the store, and the page says so")
    machine.run(f"anosegd user revoke --users {folder}/users.json alice")
    time.sleep(5)  # asked once only: after ten attempts there is a pause
    demand(_browse(machine, origin, token)["who"] is None, "the revoked user is still in")
    held("a revoked user is out")
    machine.run(f"systemctl disable --now {unit} 2>&1; systemctl stop {UNIT}")
    machine.remove_override(unit)


def _browse(machine: Machine, origin: str, token: str = "", *, path: str = "/settings", check: bool = True) -> dict[str, Any]:
    """Ask the screen from inside the machine, as a browser does. Returns what it answered; empty if it does not answer."""
    visitor = f"{CHECKOUT}/tests/support/screen_visitor.py"
    code, said = machine.attempt(f"/opt/anoseg/bin/python {visitor} {origin} {path} {token}")
    demand(code == 0 or not check, said)
    return dict(json.loads(said)) if code == 0 else {}
