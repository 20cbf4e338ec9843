"""Runs a real PostgreSQL for tests: a cluster of its own in a folder, at a Unix socket. PostgreSQL refuses to run as root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

PATIENCE_S = 60.0
FAST = ("fsync=off", "full_page_writes=off")
"""For tests that do not switch off the machine: a killed server loses nothing by these."""


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian has none of them on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _as_another_user() -> tuple[list[str], int | None]:
    """What runs a program as a user that is not root, and that user's number."""
    if os.geteuid() != 0:
        return [], None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            if shutil.which("setpriv"):
                return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user.pw_uid
    pytest.skip("no user but root to run PostgreSQL as, or no setpriv")


class Postgres:
    """A cluster. `folder` holds its data and its socket; there, each user gets in without a password.

    Args:
        settings: Of the server, as `name=value`.
        data: Its data folder, made in `folder` if none is given.
        before: Precedes the server's command, for example to start it in another network.
        host_auth: How users are let in over TCP, as pg_hba.conf names it.

    Attributes:
        process: The server, while it runs.
    """

    def __init__(self, *settings: str, data: Path | None = None, before: Sequence[str] = (), host_auth: str = "trust") -> None:
        found = programs()
        if found is None:
            pytest.skip("no PostgreSQL here")
        self._bin = found
        self._prefix, user = _as_another_user()
        # Not below pytest's folder, which other users may not enter; and a socket's path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="anoseg-pg-"))
        self.data = data or self.folder / "data"
        if user is not None:
            os.chown(self.folder, user, -1)
        self.settings = list(settings)
        self.before = list(before)
        self.process: subprocess.Popen[bytes] | None = None
        auth = ("--auth-local=trust", f"--auth-host={host_auth}")
        self._run("initdb", "-D", str(self.data), "-U", "postgres", *auth, "-N", "-E", "UTF8", "--no-locale")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._bin / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=postgres dbname=postgres"

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        options = [part for setting in ("listen_addresses=", *self.settings) for part in ("-c", setting)]
        command = [
            *self.before,
            *self._prefix,
            str(self._bin / "postgres"),
            "-D",
            str(self.data),
            "-k",
            str(self.folder),
            *options,
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self.conninfo, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, self.log
                assert time.monotonic() < end, self.log
                time.sleep(0.05)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        """End the server at once, as a crash of the whole server does. Its other processes notice that and end, too."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        pid_file = self.data / "postmaster.pid"
        pid_file.unlink(missing_ok=True)
        end = time.monotonic() + PATIENCE_S
        while self._has_processes():  # a new server does not start while they hold the shared memory
            assert time.monotonic() < end
            time.sleep(0.05)

    def _has_processes(self) -> bool:
        for stat in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if stat.readlink() == self.data:
                    return True
        return False

    def stop(self) -> None:
        """End the server in order."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # "fast" shutdown
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def query(self, text: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement in a connection of its own."""
        with psycopg.connect(f"host={self.folder} user=postgres dbname={database}", autocommit=True) as connection:
            cursor = connection.execute(text.encode(), values or None)
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def running(*settings: str) -> Iterator[Postgres]:
    """A cluster that runs, for the length of a `with` block."""
    server = Postgres(*settings)
    try:
        server.start()
        yield server
    finally:
        server.close()
