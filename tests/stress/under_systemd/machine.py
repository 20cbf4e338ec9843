"""The booted machine, and a subscriber of its station."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = "/srv/anoseg-edge"
EXTRAS = "view,plc,opcua,archive"
UNIT = "anosegd@line"
CONFIG = "/etc/anoseg/line.yaml"


class CannotRunError(Exception):
    """The test cannot run here. The message says why."""


class FailedError(Exception):
    """A check failed. The message says which."""


class Machine:
    """A booted container.

    Args:
        root: Its root folder.
        console: The file that gets what it writes at its console.
        patience: Factor for the time limits, for a host that is busy.

    Attributes:
        root, patience: As given.
    """

    def __init__(self, root: Path, console: Path, patience: float) -> None:
        self.patience = patience
        self.root = root
        self._console = console
        self.boot()

    def boot(self) -> None:
        """Boot, for the first time or after `stop`. The machine then has a network of its own, with loopback alone."""
        # Without the host's systemd: there may be none.
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe"]
        with self._console.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [*command, "--private-network", "--machine=press-4", f"--directory={self.root}", "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._leader = self._wait_for_leader()

    def _wait_for_leader(self) -> int:
        """Wait until the container's systemd has booted. Returns the container's first process."""
        give_up_at = time.monotonic() + 60 * self.patience
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
            timeout=limit_s * self.patience, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.strip()

    def unit(self, name: str, unit: str = UNIT) -> str:
        """A property of a unit, of the station's by default."""
        return self.run(f"systemctl show --property={name} --value {unit}")

    def journal(self, more: str = "") -> str:
        """The station's lines in systemd's journal."""
        return self.journal_of(UNIT, more)

    def journal_of(self, unit: str, more: str = "") -> str:
        """The lines of a unit in systemd's journal."""
        self.run("journalctl --sync", check=False)
        return self.run(f"journalctl --no-pager --output=short-precise --unit={unit} {more}")

    def kill(self, unit: str) -> None:
        """Kill a unit's main process, which must not run as root.

        Raises:
            FailedError: It runs as another user than anoseg.
        """
        pid = self.unit("MainPID", unit)
        user = self.run(f"stat -c %U /proc/{pid}")
        if user != "anoseg":
            raise FailedError(f"{unit} runs as {user}")
        self.run(f"kill -9 {pid}")

    def override(self, unit: str, *settings: str) -> None:
        """Write what `systemctl edit` would, which needs a terminal; it replaces what was written before."""
        folder, text = _override_folder(unit), "\n".join(["[Service]", *settings, ""])
        written = f"mkdir -p {folder} && printf %s {shlex.quote(text)} >{folder}/override.conf"
        self.run(f"{written} && systemctl daemon-reload")

    def remove_override(self, unit: str) -> None:
        self.run(f"rm -r {_override_folder(unit)} && systemctl daemon-reload")

    def shown_by(self, unit: str) -> str:
        """What others see of a unit that runs: its lines in the journal, its settings, environment and arguments."""
        texts = f"/proc/{self.unit('MainPID', unit)}/environ /proc/[0-9]*/cmdline"
        return self.journal_of(unit) + self.run(f"systemctl show {unit}; cat {texts} 2>/dev/null | tr '\\0' '\\n'")

    def stop(self) -> None:
        """Shut the machine down, by force if necessary."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("systemctl poweroff", check=False, limit_s=10)
            self._nspawn.wait(30)
        if self._nspawn.poll() is None:
            os.kill(self._leader, signal.SIGKILL)
            self._nspawn.wait(30)


def _override_folder(unit: str) -> str:
    return f"/etc/systemd/system/{unit}.service.d"


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
