"""The station's unit, from `make install` to `make uninstall`, as the README describes it."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Any

from stress.under_systemd.checks import demand, held, timed, wait_for
from stress.under_systemd.machine import CHECKOUT, CONFIG, UNIT, Machine, Tail


def _seconds_between(earlier: float, verdict: dict[str, Any]) -> float:
    """Seconds from a `time.time()` to the verdict's commit. Machine and host share the clock."""
    return datetime.fromisoformat(verdict["committed_at"].replace("Z", "+00:00")).timestamp() - earlier


def install(machine: Machine) -> None:
    code, said = machine.attempt(f"cd {CHECKOUT} && setpriv --reuid=nobody --clear-groups make install")
    demand(code != 0 and "only root" in said and machine.attempt("test -e /opt/anoseg")[0] != 0, said)
    held("make install: refused unless root, nothing changed")
    with timed("make install"):
        machine.run(f"cd {CHECKOUT} && make install")
    machine.run(f"cp /etc/anoseg/example.yaml {CONFIG}")
    with timed("anosegd check: a copy of the installed example is valid, and its bundle passes the self-test"):
        demand("proved on its golden images" in machine.run(f"anosegd check {CONFIG}"), "check does not say so")
    machine.run(f"echo '# mine' >>{CONFIG}")
    with timed("make install again: the station's configuration is unchanged"):
        machine.run(f"cd {CHECKOUT} && make install && tail -n 1 {CONFIG} | grep -x '# mine'")


def security(machine: Machine) -> None:
    said = machine.run(f"systemd-analyze verify {UNIT}.service 2>&1")
    demand(said == "", said)
    held("systemd-analyze verify: no complaints")
    said = machine.run(f"systemd-analyze security --no-pager {UNIT}.service", check=False).splitlines()[-1]
    score = re.search(r"level for \S+: ([0-9.]+)", said)
    demand(score is not None and float(score[1]) <= 3.0, said)
    held(f"systemd-analyze security: {said.lstrip('→ ')}")


def start(machine: Machine) -> None:
    with timed("systemctl enable --now: returns when READY"):
        machine.run(f"systemctl enable --now {UNIT} 2>&1")
        status = machine.unit("StatusText")
    demand(machine.unit("ActiveState") == "active", machine.unit("ActiveState"))
    demand("daemon.ready" in machine.journal() and "ready, demo/3" in status, f"it was not ready: {status}")
    user = machine.run(f"ps -o user= -p {machine.unit('MainPID')} 2>/dev/null || stat -c %U /proc/{machine.unit('MainPID')}")
    demand(user.strip() == "anoseg", f"runs as {user}")
    machine.run("test $(stat -c '%U %a' /var/lib/anoseg/line | tr ' ' -) = anoseg-750")
    held("runs as the user anoseg, in its own folders")


def reload(machine: Machine, tail: Tail) -> None:
    pid = machine.unit("MainPID")
    tail.wait_for(lambda v: v["station"] == "line")
    machine.run(f"sed -i 's/^station: .*/station: renamed/' {CONFIG}")
    with timed("systemctl reload: the changed configuration runs"):
        machine.run(f"systemctl reload {UNIT}")
        verdict = tail.wait_for(lambda v: v["station"] == "renamed")
    machine.run(f"systemctl reload {UNIT}")
    held("systemctl reload with nothing changed: succeeds")
    wait_for(lambda: machine.unit("ActiveState") == "active", "active after the reload")
    seqs = [v["seq"] for v in tail.verdicts]
    demand(machine.unit("MainPID") == pid and machine.unit("NRestarts") == "0", "the process was restarted")
    demand(sorted(set(seqs)) == seqs and verdict["seq"] > seqs[0], f"numbers are not in order: {seqs}")
    held("the unit is active again, with the same process; seq continues")


def refused_reload(machine: Machine, tail: Tail) -> None:
    pid = machine.unit("MainPID")
    machine.run(f"cp {CONFIG} /var/tmp/good.yaml")
    for edit, reason in (
        ("s/^station:/sttion:/", "sttion"),
        ("s,engines/demo,engines/none,", "engines/none"),
    ):
        machine.run(f"sed -i '{edit}' {CONFIG}")
        code, _ = machine.attempt(f"systemctl reload {UNIT}")
        demand(code != 0, f"systemctl reload succeeded with {edit}")
        said = machine.journal("--lines=5 --priority=err")
        demand(reason in said, f"the journal does not say why: {said}")
        verdict = tail.more()
        state = machine.unit("ActiveState"), machine.unit("MainPID"), machine.unit("NRestarts")
        demand(state == ("active", pid, "0") and verdict["station"] == "renamed", f"{state}, {verdict}")
        held(f"systemctl reload refused ({reason}): exit status {code}, reason in the journal, inspection continues")
        machine.run(f"cp /var/tmp/good.yaml {CONFIG}")


def stop(machine: Machine, tail: Tail) -> None:
    before = tail.more()
    with timed("systemctl stop", 5 * machine.patience):
        machine.run(f"systemctl stop {UNIT}")
    state = machine.unit("ActiveState"), machine.unit("Result"), machine.unit("ExecMainStatus")
    demand(state == ("inactive", "success", "0"), str(state))
    with timed("systemctl start, after a stop"):
        machine.run(f"systemctl start {UNIT}")
    tail.first_of_next_run(before, 60)


def kill(machine: Machine, tail: Tail) -> None:
    for _ in range(3):
        verdict = tail.more()
        killed_at = time.time()
        machine.kill(UNIT)
        first = tail.first_of_next_run(verdict, 60)
        took_s = _seconds_between(killed_at, first)
        demand(took_s <= 3 * machine.patience, f"inspecting again after {took_s:.2f} s")
        demand(first["journal_id"] == verdict["journal_id"] and first["seq"] > verdict["seq"], f"{verdict}\n{first}")
        held(f"kill -9: inspecting again; seq continued from {verdict['seq']} to {first['seq']}", took_s)
    seen = {v["seq"] for v in tail.verdicts}  # before the replay, which takes time
    replayed = [json.loads(line) for line in machine.run(f"anosegd replay {CONFIG} 2>/dev/null").splitlines()]
    seqs = [v["seq"] for v in replayed]
    demand(len(set(seqs)) == len(seqs) and seqs == sorted(seqs), "a number was used twice")
    demand(seen <= set(seqs), f"not in the journal: {seen - set(seqs)}")
    held(f"all {len(seen)} verdicts that the subscriber got are in the journal, no number twice")


def hang(machine: Machine, tail: Tail) -> None:
    hanging = f"{CHECKOUT}/tests/support/hanging_inspector.py"
    machine.override(UNIT, "ExecStart=", f"ExecStart=/opt/anoseg/bin/python {hanging} run {CONFIG}")
    before = tail.more()
    machine.run(f"systemctl restart {UNIT}")
    verdict = tail.first_of_next_run(before, 60)
    hung_at = time.time()
    machine.run("touch /run/anoseg/line/hang")
    wait_for(lambda: "has not answered" in machine.run(f"anosegd status --json {CONFIG}", check=False), "the state says so")
    held("the inspector hangs: the daemon still answers, and its state says so", time.time() - hung_at)
    first = tail.first_of_next_run(verdict, 60 * machine.patience)
    took_s = _seconds_between(hung_at, first)
    said = machine.journal("--lines=300")  # the stacks of all threads are long
    demand("Watchdog timeout" in said, said)
    demand("prepare_or_hang" in said, f"the journal does not say where it hung: {said}")
    held("watchdog: aborted, restarted, inspecting again; the journal shows where the thread hung", took_s)
    machine.remove_override(UNIT)
    machine.run(f"systemctl stop {UNIT}")


def exit_codes(machine: Machine) -> None:
    store = "/var/lib/anoseg/engines"
    machine.run(f"cp {CONFIG} /var/tmp/good.yaml; cp -r {store}/demo {store}/damaged; echo >>{store}/damaged/3/model.onnx")
    for code, edit in ((2, "s/^station:/sttion:/"), (3, "s,engines/demo,engines/damaged,")):
        machine.run(f"sed -i '{edit}' {CONFIG}; systemctl reset-failed {UNIT}", check=False)
        demand(machine.attempt(f"systemctl start {UNIT}")[0] != 0, f"systemctl start succeeded with {edit}")
        time.sleep(2)
        state = machine.unit("ActiveState"), machine.unit("ExecMainStatus"), machine.unit("NRestarts")
        demand(state == ("failed", str(code), "0"), f"not failed, {code}, no restart: {state}")
        held(f"exit code {code}: start fails, not restarted")
        machine.run(f"cp /var/tmp/good.yaml {CONFIG}")
    holder = "python3 -c 'import socket, time; s = socket.create_server((\"127.0.0.1\", 5570)); time.sleep(600)'"
    machine.run(f"systemctl reset-failed {UNIT}; systemd-run --quiet --unit=holder {holder}")
    machine.run(f"systemctl start --no-block {UNIT}")
    wait_for(lambda: int(machine.unit("NRestarts")) >= 2, "restarts while the port is in use")
    machine.run("systemctl stop holder")
    with timed("exit code 1 (port in use): restarted until it is free"):
        wait_for(lambda: machine.unit("ActiveState") == "active", "active once the port is free")


def journal(machine: Machine) -> None:
    ours = [line for line in machine.journal().splitlines() if "anosegd[" in line]
    demand(not any('{"at"' in line for line in ours), "JSON in the journal")
    demand(not any("openvino_telemetry" in line for line in ours), "a library logs a warning at every start")
    held(f"journalctl: {len(ours)} lines, readable (excerpt below)")


def uninstall(machine: Machine) -> None:
    code, said = machine.attempt(f"cd {CHECKOUT} && make uninstall")
    demand(code != 0 and f"systemctl disable --now {UNIT}.service" in said, said)
    held("make uninstall: refused while a station runs, says what to do")
    machine.run(f"systemctl disable --now {UNIT} 2>&1")
    said = machine.run(f"cd {CHECKOUT} && make uninstall")
    machine.run("! test -e /opt/anoseg && ! test -e /usr/local/bin/anosegd && ! systemctl cat anosegd@line 2>/dev/null")
    machine.run(f"test -s {CONFIG} && test -s /var/lib/anoseg/line/verdicts.db && test -d /var/lib/anoseg/engines/demo/3")
    demand("Kept: configurations" in said, said)
    held("make uninstall: removed; configuration, journal and bundles remain, and it says so")
