"""The service under a real systemd, from scratch: `make systemd-test`. As root; needs debootstrap and systemd-nspawn.

A Debian tree and the wheels are made once and kept in the temporary folder. A copy of the tree gets this checkout and is booted
without network. The service is then installed and used as the README describes; every check prints one line. PLCs are programs
of this machine that enter only the network of the other. Everything runs in namespaces that end with this process, so nothing
remains, however it ends.

Exit code: 0 if all checks passed, 1 if one failed, 77 if it cannot run here (the last line says why).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.logix_plc import fetch_server
from support.s7_plc import fetch_library

REPOSITORY = Path(__file__).parents[2]
SUITE, SUITE_PYTHON = "bookworm", (3, 11)
BASE = "systemd,systemd-sysv,dbus"
PREREQUISITES = "python3,python3-venv,make,libgl1,libglib2.0-0"  # what the README tells the user to install
CHECKOUT = "/srv/anoseg-edge"
EXTRAS = "view,plc,opcua"
UNIT = "anosegd@line"
CONFIG = "/etc/anoseg/line.yaml"
OWN_CERTIFICATE = "/var/lib/anoseg-bridge/opcua/own/certificate.der"
PARTS = 3
"""Of a PLC, before its bridge is killed and after that."""
CANNOT_RUN = 77


class CannotRunError(Exception):
    """The test cannot run here. The message says why."""


class FailedError(Exception):
    """A check failed. The message says which."""


# ---- made once, then cached


def contained(*command: str | Path) -> list[str]:
    """Wrap a command in its own mount and process namespaces, which end with this process, even by SIGKILL."""
    contain = "setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc"
    # The shell reaps: a container cannot end while a process that entered it is a zombie outside.
    return [*contain.split(), "sh", "-c", '"$@"; exit $?', "sh", *map(str, command)]


def attempt(what: str, command: list[str], limit_s: float, **more: Any) -> None:
    """Run a command.

    Raises:
        CannotRunError: It failed or took too long; with the last lines of its output.
    """
    print(f"        making {what} ...", flush=True)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s, **more)
    except subprocess.TimeoutExpired as error:
        raise CannotRunError(f"{what}: not done after {limit_s:.0f} s") from error
    if done.returncode != 0:
        said = [line for line in done.stdout.splitlines() if line.strip()][-3:]
        raise CannotRunError(f"{what}: {shlex.join(command[-4:])} ended with {done.returncode}: {' | '.join(said)}")


def check_host() -> None:
    """Check that the host has what the test needs.

    Raises:
        CannotRunError: It has not.
    """
    if os.geteuid() != 0:
        raise CannotRunError("only root can boot a container")
    for tool in ("debootstrap", "systemd-nspawn", "unshare", "setpriv", "nsenter", "git", "apt-get"):
        if shutil.which(tool) is None:
            raise CannotRunError(f"{tool} is not installed")
    if not (REPOSITORY / ".git").exists():
        raise CannotRunError("this is not a git checkout")
    if sys.version_info[:2] != SUITE_PYTHON:
        raise CannotRunError(f"wheels for {SUITE} are gathered with Python {SUITE_PYTHON[0]}.{SUITE_PYTHON[1]}")


def mirror() -> tuple[list[str], dict[str, str]]:
    """The mirror that this machine's apt uses for the suite, if any, and the environment with apt's proxy.

    Raises:
        CannotRunError: The mirror does not answer.
    """
    indexes = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}", "Created-By: Packages"]
    said = subprocess.run(indexes, capture_output=True, text=True, check=False).stdout.split()
    proxy = subprocess.run(
        ["apt-config", "shell", "proxy", "Acquire::http::Proxy"], capture_output=True, text=True, check=False
    ).stdout
    environment = dict(os.environ)
    if match := re.fullmatch(r"proxy='(.+)'\s*", proxy):
        environment["http_proxy"] = match[1]
    mirrors = [uri for uri in said if uri.startswith(("http://", "https://"))][:1]
    for uri in mirrors:
        try:
            proxies = {k[: -len("_proxy")]: v for k, v in environment.items() if k in ("http_proxy", "https_proxy")}
            opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
            opener.open(f"{uri.rstrip('/')}/dists/{SUITE}/Release", timeout=15).close()
        except OSError as error:
            raise CannotRunError(f"the package mirror of this machine does not answer: {error}") from error
    return mirrors, environment


def tree(cache: Path, limit_s: float) -> Path:
    """A Debian tree with the packages that the README names. Made under a temporary name, so that half a tree is never used."""
    packages = f"{BASE},{PREREQUISITES}"
    made = cache / f"{SUITE}-{hashlib.sha256(packages.encode()).hexdigest()[:12]}"
    if not made.exists():
        mirrors, environment = mirror()
        new = cache / "tree.new"
        shutil.rmtree(new, ignore_errors=True)
        ends_at = time.monotonic() + limit_s
        first = ["debootstrap", "--variant=minbase", "--foreign", f"--include={packages}", SUITE, str(new), *mirrors]
        attempt("a Debian tree", contained(*first), limit_s, env=environment)
        # The tree is disposable, so dpkg need not sync after every package.
        (new / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
        second = contained("chroot", new, "/debootstrap/debootstrap", "--second-stage")
        attempt("the second stage", second, ends_at - time.monotonic())
        new.rename(made)
    return made


def wheels(cache: Path, limit_s: float) -> Path:
    """The wheels that pip needs to install this checkout without network."""
    key = EXTRAS.encode() + b"".join((REPOSITORY / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    made = cache / f"wheels-{hashlib.sha256(key).hexdigest()[:12]}"
    if not made.exists():
        for old in cache.glob("wheels*"):
            shutil.rmtree(old)
        new = cache / "wheels.new"
        requires = re.search(r'^requires = \["(.+)"\]', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
        assert requires is not None
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(new), "-c", "constraints.txt"]
        attempt("the wheels", [*pip, f".[{EXTRAS}]", *requires[1].split('", "')], limit_s, cwd=REPOSITORY)
        new.rename(made)
    return made


def plcs(cache: Path) -> Path:
    """The memories of the PLCs that a bridge polls: the servers of strangers, a folder for each kind.

    Raises:
        CannotRunError: They cannot be fetched.
    """
    made = cache / "plcs"
    if not made.exists():
        new = cache / "plcs.new"
        shutil.rmtree(new, ignore_errors=True)
        print("        making the servers of PLCs ...", flush=True)
        for kind in ("s7", "logix"):
            (new / kind).mkdir(parents=True)
        fetch_server(new / "logix")
        if fetch_library(new / "s7") is None or not (new / "logix/cpppo").is_dir():
            raise CannotRunError("the C++ Snap7 server (python-snap7 2.0.2) or cpppo 5.2.5 cannot be fetched")
        new.rename(made)
    return made


def fresh_copy(base: Path, wheelhouse: Path, into: Path) -> None:
    """Make the root folder of the machine: a copy of the tree, with the files of this checkout and the wheels."""
    subprocess.run(["cp", "-a", "--reflink=auto", base, into], check=True)
    checkout = into / CHECKOUT.lstrip("/")
    listed = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout.split(b"\0"):
        source = REPOSITORY / os.fsdecode(name)
        if name and source.exists():
            (checkout / os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, checkout / os.fsdecode(name))
    shutil.copytree(wheelhouse, into / "srv/wheels")
    for name in ("machine-id", "hostname"):
        (into / "etc" / name).unlink(missing_ok=True)
    (into / "etc/hostname").write_text("press-4\n")


# ---- the machine


class Machine:
    """A booted container.

    Args:
        root: Its root folder.
        console: The file that gets what it writes at its console.
        patience: Factor for the time limits of commands.
    """

    def __init__(self, root: Path, console: Path, patience: float) -> None:
        self._patience = patience
        # Without the host's systemd: there may be none.
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe"]
        with console.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [*command, "--private-network", "--machine=press-4", f"--directory={root}", "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._console = console
        self._leader = self._wait_for_leader()

    def _wait_for_leader(self) -> int:
        """Wait until the container's systemd has booted. Returns the container's first process."""
        give_up_at = time.monotonic() + 60
        while time.monotonic() < give_up_at and self._nspawn.poll() is None:
            for children in Path(f"/proc/{self._nspawn.pid}/task").glob("*/children"):
                for leader in map(int, children.read_text().split()):
                    self._leader = leader
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        if self.run("systemctl is-system-running", check=False, limit_s=5) in ("running", "degraded"):
                            return leader
            time.sleep(0.2)
        raise CannotRunError(f"systemd does not boot in a container here: {' | '.join(self._said())}")

    def _said(self) -> list[str]:
        lines = self._console.read_text(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()][-3:]

    def command(self, line: str) -> list[str]:
        """The command that runs a command line in this machine."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        pip = ("PIP_NO_INDEX=1", "PIP_FIND_LINKS=/srv/wheels", "PIP_DISABLE_PIP_VERSION_CHECK=1")
        environment = ["env", "-i", "--chdir=/", f"PATH={path}", "HOME=/root", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=", *pip]
        ends_with_nsenter = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", line]
        return ["nsenter", "--target", str(self._leader), "--all", *environment, *ends_with_nsenter]

    def beside(self, *command: str | Path) -> list[str]:
        """The command that runs a program of the host in the network of this machine."""
        into = ["nsenter", "--target", str(self._leader), "--net", "setpriv", "--pdeathsig", "KILL"]
        return [*into, *map(str, command)]

    def run(self, line: str, *, check: bool = True, limit_s: float = 300) -> str:
        """Run a command line. Returns its output.

        Raises:
            FailedError: Its exit code is not 0, and `check` is set.
        """
        code, said = self.attempt(line, limit_s=limit_s)
        if check and code != 0:
            raise FailedError(f"`{line}` ended with {code}: {said}")
        return said

    def attempt(self, line: str, *, limit_s: float = 300) -> tuple[int, str]:
        """Run a command line. Returns its exit code and its output."""
        done = subprocess.run(
            self.command(line), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=limit_s * self._patience, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.strip()

    def unit(self, name: str) -> str:
        """A property of the station's unit."""
        return self.run(f"systemctl show --property={name} --value {UNIT}")

    def journal(self, more: str = "") -> str:
        """The station's lines in systemd's journal."""
        return self.journal_of(UNIT, more)

    def journal_of(self, unit: str, more: str = "") -> str:
        """The lines of a unit in systemd's journal."""
        self.run("journalctl --sync", check=False)
        return self.run(f"journalctl --no-pager --output=short-precise --unit={unit} {more}")

    def stop(self) -> None:
        """Shut the machine down, by force if necessary."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("systemctl poweroff", check=False, limit_s=10)
            self._nspawn.wait(30)
        if self._nspawn.poll() is None:
            os.kill(self._leader, signal.SIGKILL)
            self._nspawn.wait(30)


class Tail:
    """`anosegd tail --json` on the machine: the verdicts that a subscriber gets."""

    def __init__(self, machine: Machine) -> None:
        self.verdicts: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            machine.command(f"exec anosegd tail --json {CONFIG}"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.verdicts.append(json.loads(line))

    def wait_for(self, found: Callable[[dict[str, Any]], bool], limit_s: float = 60, start: int = 0) -> dict[str, Any]:
        """Wait for the first verdict, from index `start` on, for which `found` is true."""
        give_up_at = time.monotonic() + limit_s
        while time.monotonic() < give_up_at:
            for verdict in self.verdicts[start:]:
                if found(verdict):
                    return verdict
            time.sleep(0.02)
        raise FailedError(f"no such verdict within {limit_s:.0f} s; the last: {self.verdicts[-1:]}")

    def more(self, n: int = 3) -> dict[str, Any]:
        """Wait for n more verdicts. Returns the last of them."""
        start = len(self.verdicts)
        self.wait_for(lambda v: len(self.verdicts) >= start + n)
        return self.verdicts[start + n - 1]

    def first_of_next_run(self, verdict: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Wait for the first verdict of the run after the one that gave `verdict`."""
        return self.wait_for(lambda v: v["run_id"] != verdict["run_id"], limit_s, self.verdicts.index(verdict))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


# ---- the checks


def held(what: str, seconds: float | None = None) -> None:
    print(f"ok {f'{seconds:6.2f} s' if seconds is not None else ' ' * 8}  {what}", flush=True)


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise FailedError(what)


@contextlib.contextmanager
def timed(what: str, limit_s: float | None = None) -> Iterator[None]:
    """A check that passes if nothing in it fails and it takes no longer than the limit."""
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    demand(limit_s is None or took_s <= limit_s, f"{what}: took {took_s:.2f} s, limit {limit_s} s")
    held(what, took_s)


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 60) -> None:
    give_up_at = time.monotonic() + limit_s
    while not condition():
        demand(time.monotonic() < give_up_at, f"timed out: {what}")
        time.sleep(0.1)


def seconds_between(earlier: float, verdict: dict[str, Any]) -> float:
    """Seconds from a `time.time()` to the verdict's commit. Machine and host share the clock."""
    return datetime.fromisoformat(verdict["committed_at"].replace("Z", "+00:00")).timestamp() - earlier


class Checks:
    """The checks, in the order of a machine's life.

    Args:
        machine: The booted machine.
        patience: Factor for the time limits, for a host that is busy.
        plcs: The servers of PLCs.
    """

    def __init__(self, machine: Machine, patience: float, plcs: Path) -> None:
        self.machine = machine
        self.patience = patience
        self.plcs = plcs

    def run(self) -> None:
        self.install()
        self.security()
        self.start()
        tail = Tail(self.machine)
        try:
            self.reload(tail)
            self.refused_reload(tail)
            self.stop(tail)
            self.kill(tail)
            self.hang(tail)
        finally:
            tail.close()
        self.screen()
        self.exit_codes()
        self.keys()
        self.bridge()
        for kind, port in (("opcua", 4840), ("s7", 1102), ("logix", 44_818)):
            self.bridge_of(kind, port)
        self.mirror()
        self.without_keys()
        self.journal()
        self.uninstall()

    def install(self) -> None:
        machine = self.machine
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

    def security(self) -> None:
        said = self.machine.run(f"systemd-analyze verify {UNIT}.service 2>&1")
        demand(said == "", said)
        held("systemd-analyze verify: no complaints")
        said = self.machine.run(f"systemd-analyze security --no-pager {UNIT}.service", check=False).splitlines()[-1]
        score = re.search(r"level for \S+: ([0-9.]+)", said)
        demand(score is not None and float(score[1]) <= 3.0, said)
        held(f"systemd-analyze security: {said.lstrip('→ ')}")

    def start(self) -> None:
        machine = self.machine
        with timed("systemctl enable --now: returns when READY"):
            machine.run(f"systemctl enable --now {UNIT} 2>&1")
            status = machine.unit("StatusText")
        demand(machine.unit("ActiveState") == "active", machine.unit("ActiveState"))
        demand("daemon.ready" in machine.journal() and "ready, demo/3" in status, f"it was not ready: {status}")
        user = machine.run(
            f"ps -o user= -p {machine.unit('MainPID')} 2>/dev/null || stat -c %U /proc/{machine.unit('MainPID')}"
        )
        demand(user.strip() == "anoseg", f"runs as {user}")
        machine.run("test $(stat -c '%U %a' /var/lib/anoseg/line | tr ' ' -) = anoseg-750")
        held("runs as the user anoseg, in its own folders")

    def reload(self, tail: Tail) -> None:
        machine, pid = self.machine, self.machine.unit("MainPID")
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

    def refused_reload(self, tail: Tail) -> None:
        machine, pid = self.machine, self.machine.unit("MainPID")
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

    def stop(self, tail: Tail) -> None:
        machine, before = self.machine, tail.more()
        with timed("systemctl stop", 5 * self.patience):
            machine.run(f"systemctl stop {UNIT}")
        state = machine.unit("ActiveState"), machine.unit("Result"), machine.unit("ExecMainStatus")
        demand(state == ("inactive", "success", "0"), str(state))
        with timed("systemctl start, after a stop"):
            machine.run(f"systemctl start {UNIT}")
        tail.first_of_next_run(before, 60)

    def kill(self, tail: Tail) -> None:
        for _ in range(3):
            verdict = tail.more()
            pid = self.machine.unit("MainPID")
            killed_at = time.time()
            self.machine.run(f"kill -9 {pid}")
            first = tail.first_of_next_run(verdict, 60)
            took_s = seconds_between(killed_at, first)
            demand(took_s <= 3 * self.patience, f"inspecting again after {took_s:.2f} s")
            demand(first["journal_id"] == verdict["journal_id"] and first["seq"] > verdict["seq"], f"{verdict}\n{first}")
            held(f"kill -9: inspecting again; seq continued from {verdict['seq']} to {first['seq']}", took_s)
        seen = {v["seq"] for v in tail.verdicts}  # before the replay, which takes time
        replayed = [json.loads(line) for line in self.machine.run(f"anosegd replay {CONFIG} 2>/dev/null").splitlines()]
        seqs = [v["seq"] for v in replayed]
        demand(len(set(seqs)) == len(seqs) and seqs == sorted(seqs), "a number was used twice")
        demand(seen <= set(seqs), f"not in the journal: {seen - set(seqs)}")
        held(f"all {len(seen)} verdicts that the subscriber got are in the journal, no number twice")

    def hang(self, tail: Tail) -> None:
        machine = self.machine
        hanging = f"{CHECKOUT}/tests/support/hanging_inspector.py"
        drop_in = f"[Service]\nExecStart=\nExecStart=/opt/anoseg/bin/python {hanging} run {CONFIG}\n"
        machine.run(f"mkdir -p /run/systemd/system/{UNIT}.service.d")
        machine.run(f"printf '{drop_in}' >/run/systemd/system/{UNIT}.service.d/hang.conf")
        before = tail.more()
        machine.run(f"systemctl daemon-reload && systemctl restart {UNIT}")
        verdict = tail.first_of_next_run(before, 60)
        hung_at = time.time()
        machine.run("touch /run/anoseg/line/hang")
        wait_for(lambda: "has not answered" in machine.run(f"anosegd status --json {CONFIG}", check=False), "the state says so")
        held("the inspector hangs: the daemon still answers, and its state says so", time.time() - hung_at)
        first = tail.first_of_next_run(verdict, 60 * self.patience)
        took_s = seconds_between(hung_at, first)
        said = machine.journal("--lines=300")  # the stacks of all threads are long
        demand("Watchdog timeout" in said, said)
        demand("prepare_or_hang" in said, f"the journal does not say where it hung: {said}")
        held("watchdog: aborted, restarted, inspecting again; the journal shows where the thread hung", took_s)
        machine.run(f"rm -r /run/systemd/system/{UNIT}.service.d && systemctl daemon-reload && systemctl stop {UNIT}")

    def screen(self) -> None:
        """The screen as a service: on loopback, then for other machines, as docs/deployment.md says."""
        machine, unit, folder = self.machine, "anosegd-view@line", "/var/lib/anoseg-view/line"
        machine.run(f"systemctl start {UNIT}")
        with timed(f"make install EXTRAS={EXTRAS}"):
            machine.run(f"cd {CHECKOUT} && make install EXTRAS={EXTRAS}")
        said = machine.run(f"systemd-analyze verify {unit}.service 2>&1")
        demand(said == "", said)
        with timed("the screen starts, and shows the station on loopback without a login"):
            machine.run(f"systemctl enable --now {unit} 2>&1")
            wait_for(lambda: self.browse("http://127.0.0.1:8080", check=False).get("event") == "hello", "the stream begins")
        token = machine.run(f"anosegd user add --users {folder}/users.json alice --role change 2>/dev/null").split()[-1]
        settings = ("LISTEN=0.0.0.0:8443", f'"MORE=--users {folder}/users.json"')
        drop_in = "\\n".join(["[Service]", *(f"Environment={one}" for one in settings), "IPAddressAllow=192.168.7.0/24", ""])
        place = f"/etc/systemd/system/{unit}.service.d"
        machine.run(f"mkdir -p {place} && printf '{drop_in}' >{place}/override.conf && systemctl daemon-reload")
        origin, prints = "https://127.0.0.1:8443", list[str]()
        for what in ("the network form", "after a restart"):
            machine.run(f"systemctl restart {unit}")
            with timed(f"{what}: TLS with the printed certificate, nothing without a login, the user logs in"):
                wait_for(lambda: bool(self.browse(origin, token, check=False)), "the screen answers")
                found = self.browse(origin, token)
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
        listed = self.browse(origin, token, path="/bundles.json")["body"]
        demand(listed["may_release"] is False, str(listed))
        held("the unit may not write to the store, and the page says so")
        machine.run(f"anosegd user revoke --users {folder}/users.json alice")
        time.sleep(5)  # asked once only: after ten attempts there is a pause
        demand(self.browse(origin, token)["who"] is None, "the revoked user is still in")
        held("a revoked user is out")
        machine.run(f"systemctl disable --now {unit} 2>&1; rm -r {place}; systemctl daemon-reload; systemctl stop {UNIT}")

    def browse(self, origin: str, token: str = "", *, path: str = "/settings", check: bool = True) -> dict[str, Any]:
        """Ask the screen from inside the machine, as a browser does. Returns what it answered; empty if it does not answer."""
        visitor = f"{CHECKOUT}/tests/support/screen_visitor.py"
        code, said = self.machine.attempt(f"/opt/anoseg/bin/python {visitor} {origin} {path} {token}")
        demand(code == 0 or not check, said)
        return dict(json.loads(said)) if code == 0 else {}

    def exit_codes(self) -> None:
        machine, store = self.machine, "/var/lib/anoseg/engines"
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

    def keys(self) -> None:
        """As docs/keys.md says: the station's key comes from systemd, and appears nowhere else."""
        machine, folder = self.machine, "/etc/anoseg/keys"
        machine.run(f"cp {CONFIG} /var/tmp/good.yaml; anosegd keygen station {folder}/station.key")
        where = f"--station {folder}/station.key --clients {folder}/clients"
        machine.run(f"anosegd keygen client plc {where} --out /var/tmp/plc.key --control")
        machine.run(f"anosegd keygen client screen {where} --out /var/tmp/screen.key")
        machine.run(f"echo 'keys: {{clients: {folder}/clients}}' >>{CONFIG}")
        machine.run(f"systemctl stop {UNIT}")
        demand(machine.attempt(f"systemctl start {UNIT}")[0] != 0, "it starts without its key")
        demand("LoadCredential=" in machine.journal("--lines=5"), "the journal does not say what is missing")
        held("keys: without the station's key the start fails, and the journal says which setting is missing")
        drop_in = f"/run/systemd/system/{UNIT}.service.d"
        credential = f"[Service]\\nLoadCredential=station.key:{folder}/station.key\\n"
        machine.run(f"mkdir -p {drop_in} && printf '{credential}' >{drop_in}/keys.conf && systemctl daemon-reload")
        with timed("keys: LoadCredential gives the station its key"):
            machine.run(f"systemctl start {UNIT}")
        demand(
            machine.attempt(f"setpriv --reuid=anoseg --clear-groups cat {folder}/station.key")[0] != 0, "the key can be read"
        )
        demand(machine.attempt(f"anosegd status {CONFIG}")[0] == 2, "a client without a key is served")
        said = machine.run(f"anosegd status --json --key /var/tmp/screen.key {CONFIG}")
        demand('"state"' in said, said)
        code, said = machine.attempt(f"anosegd pause {CONFIG} --minutes 5 --who me --key /var/tmp/screen.key")
        demand(code != 0 and "may listen and read" in said, said)
        held("keys: served with a key, not without; a key that may listen commands nothing")
        pid, limits = machine.unit("MainPID"), machine.unit("LimitNOFILE")
        demand(limits == "16384", f"LimitNOFILE={limits}")
        texts = f"/proc/{pid}/environ /proc/[0-9]*/cmdline"
        shown = machine.journal() + machine.run(f"systemctl show {UNIT}; cat {texts} 2>/dev/null | tr '\\0' '\\n'")
        for name in (f"{folder}/station.key", "/var/tmp/plc.key", "/var/tmp/screen.key"):
            demand(json.loads(machine.run(f"cat {name}"))["secret"] not in shown, f"the secret of {name} is shown")
        held("keys: no secret in the journal, the unit, the environment and the arguments")

    def bridge(self) -> None:
        """As docs/plc.md and docs/keys.md say: systemd passes the bridge its key, and restarts it."""
        machine, folder, unit = self.machine, "/etc/anoseg/keys", "anosegd-bridge@press"
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
        drop_in = f"/run/systemd/system/{unit}.service.d"
        credential = f"LoadCredential=client.key:{folder}/bridge.key\\n"
        machine.run(f"mkdir -p {drop_in} && printf '[Service]\\n{credential}' >{drop_in}/key.conf && systemctl daemon-reload")
        machine.run(f"systemctl restart {unit}")
        plc = f"python3 {CHECKOUT}/tests/support/plc.py 502"
        with timed(
            "bridge: with its key from systemd, a Modbus client on port 502 triggers five parts and reads their results"
        ):
            read = machine.run(f"{plc} 5").splitlines()
        demand(len(read) == 5 and all(line.split()[1] in ("PASS", "FAIL") for line in read), str(read))
        pid = machine.run(f"systemctl show --property=MainPID --value {unit}")
        killed_at = time.monotonic()
        machine.run(f"kill -9 {pid}")
        read = machine.run(f"{plc} 5").splitlines()
        demand(len(read) == 5 and all(line.split()[1] in ("PASS", "FAIL") for line in read), str(read))
        restarts = machine.run(f"systemctl show --property=NRestarts --value {unit}")
        demand(restarts == "1", f"{restarts} restarts")
        held("bridge: killed, it is back, and five more parts have results", time.monotonic() - killed_at)
        secret = json.loads(machine.run(f"cat {folder}/bridge.key"))["secret"]
        pid = machine.run(f"systemctl show --property=MainPID --value {unit}")
        shown = machine.journal_of(unit) + machine.run(
            f"systemctl show {unit}; cat /proc/{pid}/environ /proc/{pid}/cmdline | tr '\\0' '\\n'"
        )
        demand(secret not in shown, "the bridge's secret is shown")
        user = machine.run(f"stat -c %U /proc/{pid}")
        demand(user == "anoseg", f"the bridge runs as {user}")
        held("bridge: runs as the user anoseg; its secret is neither in the journal nor in the unit, environment and arguments")
        machine.run(f"systemctl stop {UNIT}")
        wait_for(lambda: "bridge.station_lost" in machine.journal_of(unit), "the bridge notices that the station was stopped")
        demand(machine.run(f"systemctl is-active {unit}") == "active", "the bridge ended with its station")
        with timed("bridge: outlives its station, and serves again when that is back"):
            machine.run(f"systemctl start {UNIT}")
            machine.run(f"{plc} 2")
        machine.run(f"systemctl disable --now {unit} 2>&1; rm -r {drop_in}")

    def bridge_of(self, kind: str, port: int) -> None:
        """A unit for another kind: it gets its key, and is killed while a PLC triggers parts."""
        machine, where = self.machine, f"127.0.0.1:{port}"
        section = f"listen: {where}, anonymous: true" if kind == "opcua" else f"plc: {where}"
        unit = self.start_bridge(kind, f"camera: top\nresult_window_ms: 10000\n{kind}: {{{section}}}\n")
        server = next(self.plcs.glob("s7/**/libsnap7.so")) if kind == "s7" else self.plcs / kind
        program = [sys.executable, REPOSITORY / "tests/support/plc_program.py", kind, server, str(port), str(2 * PARTS)]
        with subprocess.Popen(machine.beside(*program), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as plc:
            try:
                assert plc.stdout is not None
                with timed(f"bridge {kind}: a PLC triggers {PARTS} parts and reads their results"):
                    self.judged(plc.stdout, unit)
                certificate = machine.run(f"sha256sum {OWN_CERTIFICATE}", check=kind == "opcua")
                with timed(f"bridge {kind}: killed, it is back, and {PARTS} more parts have results"):
                    self.kill_bridge(unit)
                    self.judged(plc.stdout, unit)
            finally:
                plc.kill()
        if kind == "opcua":
            demand(machine.run(f"sha256sum {OWN_CERTIFICATE}") == certificate, "the killed bridge made another certificate")
            held("bridge opcua: its certificate is as before")
        self.stop_bridge(unit)

    def mirror(self) -> None:
        """A unit of the kind mqtt: whoever asks the broker gets the state, also after a kill."""
        broker = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if broker is None or shutil.which("mosquitto_sub") is None:
            print("-- skipped   bridge mqtt: no mosquitto here (apt install mosquitto mosquitto-clients)", flush=True)
            return
        machine = self.machine
        ask = machine.beside("mosquitto_sub", "-C", "1", "-W", "5", "-t", "anoseg/top/state")

        def is_online() -> bool:
            said = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
            return bool(said) and json.loads(said)["online"] is True

        with subprocess.Popen(
            machine.beside(broker, "-p", "1883"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                unit = self.start_bridge("mqtt", "camera: top\ntrigger: camera\n")
                with timed("bridge mqtt: the broker has the state"):
                    wait_for(is_online, "the state says online")
                with timed("bridge mqtt: killed, it is back"):
                    self.kill_bridge(unit)
                    wait_for(lambda: self.restarts(unit) == "1" and is_online(), "the state says online again")
                self.stop_bridge(unit)
            finally:
                process.kill()

    def start_bridge(self, kind: str, config: str) -> str:
        """Start a unit for a kind, with the bridge's key. Returns its name."""
        machine, unit = self.machine, f"anosegd-bridge@{kind}"
        drop_in = f"[Service]\nEnvironment=KIND={kind}\nLoadCredential=client.key:/etc/anoseg/keys/bridge.key\n"
        place = f"/run/systemd/system/{unit}.service.d"
        machine.run(f"printf {shlex.quote(config)} >/etc/anoseg/{kind}.yaml")
        machine.run(f"mkdir -p {place} && printf {shlex.quote(drop_in)} >{place}/kind.conf && systemctl daemon-reload")
        with timed(f"bridge {kind}: systemctl enable --now returns when it serves"):
            machine.run(f"systemctl enable --now {unit} 2>&1")
        return unit

    def kill_bridge(self, unit: str) -> None:
        pid = self.machine.run(f"systemctl show --property=MainPID --value {unit}")
        user = self.machine.run(f"stat -c %U /proc/{pid}")
        demand(user == "anoseg", f"the bridge runs as {user}")
        self.machine.run(f"kill -9 {pid}")

    def restarts(self, unit: str) -> str:
        return self.machine.run(f"systemctl show --property=NRestarts --value {unit}")

    def stop_bridge(self, unit: str) -> None:
        demand(self.restarts(unit) == "1", f"{self.restarts(unit)} restarts of {unit}")
        self.machine.run(f"systemctl disable --now {unit} 2>&1; rm -r /run/systemd/system/{unit}.service.d")

    def judged(self, printed: IO[str], unit: str) -> None:
        """Read what the PLC prints until so many parts have results."""
        found = 0
        while found < PARTS:
            line = printed.readline().split()
            demand(line != [], f"the PLC has ended: {self.machine.journal_of(unit, '--lines=20')}")
            demand(line[1] in ("PASS", "FAIL", "none"), f"{line}: {self.machine.journal_of(unit, '--lines=20')}")
            found += line[1] != "none"

    def without_keys(self) -> None:
        """Back to the configuration without keys, which the checks after this one expect."""
        drop_in = f"/run/systemd/system/{UNIT}.service.d"
        machine = self.machine
        machine.run(f"rm -r {drop_in}; cp /var/tmp/good.yaml {CONFIG}; systemctl daemon-reload; systemctl restart {UNIT}")

    def journal(self) -> None:
        ours = [line for line in self.machine.journal().splitlines() if "anosegd[" in line]
        demand(not any('{"at"' in line for line in ours), "JSON in the journal")
        demand(not any("openvino_telemetry" in line for line in ours), "a library logs a warning at every start")
        held(f"journalctl: {len(ours)} lines, readable (excerpt below)")

    def uninstall(self) -> None:
        machine = self.machine
        code, said = machine.attempt(f"cd {CHECKOUT} && make uninstall")
        demand(code != 0 and f"systemctl disable --now {UNIT}.service" in said, said)
        held("make uninstall: refused while a station runs, says what to do")
        machine.run(f"systemctl disable --now {UNIT} 2>&1")
        said = machine.run(f"cd {CHECKOUT} && make uninstall")
        machine.run("! test -e /opt/anoseg && ! test -e /usr/local/bin/anosegd && ! systemctl cat anosegd@line 2>/dev/null")
        machine.run(f"test -s {CONFIG} && test -s /var/lib/anoseg/line/verdicts.db && test -d /var/lib/anoseg/engines/demo/3")
        demand("Kept: configurations" in said, said)
        held("make uninstall: removed; configuration, journal and bundles remain, and it says so")


def inside(root: Path, patience: float) -> int:
    """In the namespaces: boot, check, shut down."""
    # systemd-nspawn writes to /run; these files disappear together with the namespace.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    try:
        for group in cgroups():
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise CannotRunError(f"cannot create a control group: {error}") from error
    began = time.monotonic()
    machine = Machine(root, root.parent / "console.log", patience)
    try:
        held(f"{machine.run('systemctl --version').splitlines()[0]} booted", time.monotonic() - began)
        Checks(machine, patience, root.parents[1] / "plcs").run()
        held("all checks passed", time.monotonic() - began)
        code = 0
    except (FailedError, subprocess.TimeoutExpired) as error:
        print(f"FAILED  {error}", flush=True)
        code = 1
    try:
        lines = machine.journal().splitlines()
        shown = [*lines[:16], "...", *lines[-120:]] if code == 0 else lines[-80:]
        print("\njournalctl --unit=anosegd@line\n" + "\n".join(f"  {line}" for line in shown), flush=True)
    finally:
        machine.stop()
    return code


# ---- outside


def cgroups() -> list[Path]:
    """The test's control groups, one in each hierarchy that systemd needs in a container."""
    top = Path("/sys/fs/cgroup")
    hierarchies = [top] if (top / "cgroup.controllers").exists() else [top / "systemd", top / "unified"]
    return [hierarchy / "anoseg-systemd-test" for hierarchy in hierarchies if hierarchy.exists()]


def remove(work: Path) -> None:
    """Remove what this run, or an earlier one that was killed, has left."""
    shutil.rmtree(work, ignore_errors=True)
    for group in cgroups():
        for folder in sorted(group.glob("**/"), reverse=True):
            folder.rmdir()


def cache_folder(asked: Path | None) -> Path:
    """The folder for tree and wheels. Only root may write to it, because its content is booted.

    Raises:
        CannotRunError: Somebody else can write to it.
    """
    cache = asked or Path(tempfile.gettempdir()) / "anoseg-systemd-test"
    cache.mkdir(mode=0o700, exist_ok=True)
    status = cache.lstat()
    if cache.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CannotRunError(f"{cache} can be written by others than root")
    return cache


def outside(options: argparse.Namespace) -> int:
    """Prepare, run the checks in namespaces, clean up."""
    check_host()
    cache = cache_folder(options.cache)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRunError("another run is in progress") from error
        base = tree(cache, options.prepare)
        wheelhouse = wheels(cache, options.prepare)
        plcs(cache)
        work = cache / "work"
        remove(work)
        try:
            work.mkdir()
            fresh_copy(base, wheelhouse, work / "root")
            again = [sys.executable, __file__, "--inside", str(work / "root"), "--patience", str(options.patience)]
            return subprocess.run(contained(*again), check=False).returncode
        finally:
            remove(work)


def main() -> int:
    parser = argparse.ArgumentParser(description="install, boot, start, reload, kill, hang: the service under a real systemd")
    parser.add_argument("--cache", type=Path, help="folder for tree and wheels (in the temporary folder)")
    parser.add_argument("--prepare", type=float, default=900, metavar="S", help="time limit for making each (900)")
    parser.add_argument("--patience", type=float, default=1, metavar="N", help="factor for the time limits (1)")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return inside(options.inside, options.patience) if options.inside else outside(options)
    except CannotRunError as error:
        print(f"cannot run here: {error}", flush=True)
        return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
