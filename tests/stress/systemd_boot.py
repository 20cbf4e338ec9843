"""The service under a real systemd, from scratch: `make systemd-test`. As root; needs debootstrap and systemd-nspawn.

A Debian tree and the wheels are made once and kept in the temporary folder. A copy of the tree gets this checkout and is booted
without network. The service is then installed and used as the README describes; every check prints one line. PLCs and the
archive's PostgreSQL are programs of this machine that enter only the network of the other. Everything runs in namespaces that
end with this process, so nothing remains, however it ends.

Exit code: 0 if all checks passed, 1 if one failed, 77 if it cannot run here (the last line says why).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.under_systemd import archive, bridges, keys, screen, station
from stress.under_systemd.checks import held
from stress.under_systemd.debian_tree import check_host, contained, fresh_copy, plcs, tree, wheels
from stress.under_systemd.machine import UNIT, CannotRunError, FailedError, Machine, Tail

CANNOT_RUN = 77


def check(machine: Machine, plc_servers: Path) -> None:
    """Run the checks, in the order of a machine's life."""
    station.install(machine)
    station.security(machine)
    station.start(machine)
    tail = Tail(machine)
    try:
        station.reload(machine, tail)
        station.refused_reload(machine, tail)
        station.stop(machine, tail)
        station.kill(machine, tail)
        station.hang(machine, tail)
    finally:
        tail.close()
    screen.screen(machine)
    station.exit_codes(machine)
    keys.keys(machine)
    archive.archive(machine)
    bridges.modbus_bridge(machine)
    for kind, port in (("opcua", 4840), ("s7", 1102), ("logix", 44_818)):
        bridges.polling_bridge(machine, kind, port, plc_servers)
    bridges.mqtt_mirror(machine)
    keys.without_keys(machine)
    station.journal(machine)
    station.uninstall(machine)


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
        check(machine, root.parents[1] / "plcs")
        held("all checks passed", time.monotonic() - began)
        code = 0
    except (FailedError, AssertionError, subprocess.TimeoutExpired) as error:
        print(f"FAILED  {error}", flush=True)
        code = 1
    try:
        for unit in (UNIT, archive.ARCHIVE):
            lines = machine.journal_of(unit).splitlines()
            shown = lines if len(lines) < 140 else [*lines[:16], "...", *lines[-120:]] if code == 0 else lines[-80:]
            print(f"\njournalctl --unit={unit}\n" + "\n".join(f"  {line}" for line in shown), flush=True)
    finally:
        machine.stop()
    return code


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
            # Temporary files inside: in the namespace's own /run.
            return subprocess.run(contained(*again), check=False, env={**os.environ, "TMPDIR": "/run"}).returncode
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
