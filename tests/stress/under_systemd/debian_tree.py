"""Makes the Debian tree, the wheels and the servers of PLCs once, and copies a tree for a run."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from stress.under_systemd.machine import CHECKOUT, EXTRAS, CannotRunError
from support.logix_plc import fetch_server
from support.paths import REPOSITORY
from support.s7_plc import fetch_library

SUITE, SUITE_PYTHON = "bookworm", (3, 11)
BASE = "systemd,systemd-sysv,dbus"
PREREQUISITES = "python3,python3-venv,make,libgl1,libglib2.0-0"  # what the README tells the user to install


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
    names = subprocess.run(listed, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout.split(b"\0")
    for name in map(os.fsdecode, names):
        source = REPOSITORY / name
        if name and source.exists():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, checkout / name)
    shutil.copytree(wheelhouse, into / "srv/wheels")
    for name in ("machine-id", "hostname"):
        (into / "etc" / name).unlink(missing_ok=True)
    (into / "etc/hostname").write_text("press-4\n")
