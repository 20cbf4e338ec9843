"""The client's folder stands alone: a program of one's own can take a copy of it."""

import shutil
import subprocess
import sys
from pathlib import Path

from support.paths import REPOSITORY

LOADED = """
import sys
before = set(sys.modules)
from station_client import Client
Client(control=None).close()
names = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(*sorted(names - {"station_client", "cython_runtime"} - {name for name in names if name.startswith("_cython")}))
"""


def test_a_copy_under_another_name_needs_only_pyzmq(tmp_path: Path) -> None:
    """docs/wire.md says so."""
    shutil.copytree(REPOSITORY / "daemon" / "anosegd" / "client", tmp_path / "station_client")
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(), done.stderr) == (["zmq"], "")
