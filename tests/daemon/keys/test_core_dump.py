"""No core dump of a program that has read a secret key is written, and no error of ours shows one.

Each test first shows that a core dump would contain the key: the same program without the protection.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from support.anosegd_line import LIMIT_S, Daemon, wait_until
from support.tiny_bundle import good_part

from anosegd.keys.files import new_client_key, new_station_key, write_key

PATTERN = Path("/proc/sys/kernel/core_pattern")
RUN = "runpy.run_module('anosegd', run_name='__main__')"
PROGRAM = """
import os, sys
from pathlib import Path
from anosegd.client import Key
from anosegd.keys import Keyring, files
if sys.argv[1] == "unprotected":
    files.keep_out_of_core_dumps = lambda: None
    import anosegd.keys.keyring
    anosegd.keys.keyring.keep_out_of_core_dumps = lambda: None
keyring = Keyring(Path("station.key"), Path("clients"))
keyring.load()
print("loaded", flush=True)
os.abort()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with keys, in which this machine writes core dumps. Skips the test where it does not."""
    pattern = PATTERN.read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        pytest.skip(f"core dumps go elsewhere: {pattern}")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core dumps are not allowed here")
    (tmp_path / "clients").mkdir(mode=0o755)
    station = new_station_key()
    write_key(tmp_path / "station.key", station)
    _, authorised = new_client_key("screen", station.public, control=False, expires=None)
    write_key(tmp_path / "clients" / "screen.pub", authorised)
    return tmp_path


def cores(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith("core")]


def run_and_abort(folder: Path, how: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    command = [
        sys.executable,
        "-c",
        f"import resource; resource.setrlimit(resource.RLIMIT_CORE, ({hard}, {hard}))\n{PROGRAM}",
        how,
    ]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "loaded\n")


def test_an_abort_writes_no_core_dump(folder: Path) -> None:
    """Without the protection there is one, and it contains the station's secret key."""
    secret = (folder / "station.key").read_text().split('"secret": "')[1][:40].encode()
    run_and_abort(folder, "unprotected")
    (core,) = cores(folder)
    assert secret in core.read_bytes()
    core.unlink()
    run_and_abort(folder, "protected")
    assert cores(folder) == []


def test_an_aborted_station_writes_no_core_dump(folder: Path, tiny_store: Path) -> None:
    """As systemd ends a daemon that hangs."""
    (folder / "parts").mkdir()
    cv2.imwrite(str(folder / "parts" / "0.png"), good_part())
    (folder / "station.yaml").write_text(
        f"engine: {{bundle: {tiny_store}, threads: 1}}\npublish: {{endpoint: 'ipc://{folder}/pub'}}\n"
        "keys: {station: station.key, clients: clients}\n"
        "cameras: {eye: {policy: wait, source: {kind: folder, path: parts, loop: true, fps: 10}}}\n"
    )
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (limit[1], limit[1]))
    try:
        daemon = Daemon(folder / "station.yaml", program=("-c", f"import os, runpy; os.chdir({str(folder)!r}); {RUN}"))
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limit)
    try:
        wait_until(lambda: "camera.running" in daemon.log, "the camera runs")
        daemon.process.send_signal(signal.SIGABRT)
        assert daemon.wait() == -signal.SIGABRT
        assert cores(folder) == []
    finally:
        daemon.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every process")
def test_other_programs_of_the_user_cannot_read_the_memory(folder: Path) -> None:
    """Another program of the same user, such as a debugger, cannot attach."""
    program = PROGRAM.replace("os.abort()", "sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", program, "protected"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        with pytest.raises(PermissionError), Path(f"/proc/{process.pid}/mem").open("rb"):
            pass
        assert process.stdin is not None
        process.stdin.close()
