"""Stands in for a system's Python: its environments get a pip that writes down what it is asked to do, and installs nothing.

`make` writes the program. Everything else about it, and about the environments that it makes, is the Python that runs the test.
"""

import sys
import textwrap
from pathlib import Path

PIP = """
import os, sys, sysconfig
from pathlib import Path
with open({log!r}, "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
    if "pycuda" in " ".join(sys.argv) or "tensorrt" in " ".join(sys.argv):
        import shutil
        log.write("nvcc: " + str(shutil.which("nvcc")) + "\\n")
Path(sysconfig.get_path("purelib"), "cv2.py").touch()
"""


def make_system_python(path: Path, packages: Path, log: Path) -> None:
    """Write the program `path`. It sees the folder `packages`; the environments that it makes do not."""
    pip = PIP.format(log=str(log))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import os, subprocess, sys
        arguments = sys.argv[1:]
        if arguments[:2] == ["-m", "venv"]:
            subprocess.run([{sys.executable!r}, *arguments[:2], "--without-pip", *arguments[2:]], check=True)
            folder = subprocess.run(
                [arguments[-1] + "/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                capture_output=True, text=True, check=True,
            ).stdout.strip()
            os.makedirs(folder + "/pip", exist_ok=True)
            open(folder + "/pip/__init__.py", "w").close()
            open(folder + "/pip/__main__.py", "w").write({pip!r})
            sys.exit()
        os.environ["PYTHONPATH"] = {str(packages)!r}
        os.execv({sys.executable!r}, [{sys.executable!r}, *arguments])
        """)
    )
    path.chmod(0o755)
