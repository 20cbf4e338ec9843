"""Unit, installer and example configuration; all of it under a real systemd, if a container can be booted."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import REPOSITORY
from support.system_python import make_system_python

from anosegd.config import load_config

UNIT = REPOSITORY / "systemd" / "anosegd@.service"
VIEW_UNIT = REPOSITORY / "systemd" / "anosegd-view@.service"
BRIDGE_UNIT = REPOSITORY / "systemd" / "anosegd-bridge@.service"
ARCHIVE_UNIT = REPOSITORY / "systemd" / "anosegd-archive@.service"
CANNOT_RUN = 77


def analyze(tmp_path: Path, source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze` on a unit, with its commands replaced by an existing one."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    command = tmp_path / "anosegd"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / source.name.replace("@", "@line")
    unit.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", rf"\1={command}", source.read_text()))
    return subprocess.run(["systemd-analyze", *arguments, str(unit)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("source", [UNIT, VIEW_UNIT, BRIDGE_UNIT, ARCHIVE_UNIT], ids=lambda source: source.name)
def test_unit_is_accepted_by_systemd(tmp_path: Path, source: Path) -> None:
    """`systemd-analyze verify` reports nothing about the unit."""
    done = analyze(tmp_path, source, "verify")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("source", [UNIT, VIEW_UNIT, BRIDGE_UNIT, ARCHIVE_UNIT], ids=lambda source: source.name)
def test_weights_count_among_all_services(source: Path) -> None:
    """An instance without `Slice=` is in a slice of its template: its weight would count among instances of this one only."""
    unit = source.read_text()
    weights = re.findall(r"(?m)^(?:CPU|IO)Weight=", unit)
    assert not weights or re.search(r"(?m)^Slice=system.slice$", unit)


def test_unit_allows_the_devices_of_each_gpu() -> None:
    """The names under which drivers register their devices (in /proc/devices) match an entry of the device list."""
    names = ["nvidia", "nvidia-uvm", "nvidia-frontend", "nvhost-gpu", "nvgpu-ctrl", "17000000.gpu", "17000000.ga10b", "nvmap"]
    allowed = re.findall(r"(?m)^DeviceAllow=char-(\S+) rw", UNIT.read_text())
    assert {name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)} == set()


@pytest.mark.parametrize(
    ("source", "worst"),
    [(UNIT, 3.0), (VIEW_UNIT, 1.5), (BRIDGE_UNIT, 1.5), (ARCHIVE_UNIT, 1.5)],
    ids=["daemon", "screen", "bridge", "archive"],
)
def test_unit_is_closed(tmp_path: Path, source: Path, worst: float) -> None:
    """`systemd-analyze security` rates the daemon's unit at 3.0 or lower, the others at 1.5 or lower."""
    done = analyze(tmp_path, source, "security", "--offline=true", "--no-pager")
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates only what is loaded")
    score = re.search(r"exposure level for \S+ ([0-9.]+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= worst


def test_example_belongs_to_the_unit() -> None:
    """The installed example loads, keeps its journal in the unit's StateDirectory and uses the installed bundle."""
    config = load_config(REPOSITORY / "configs" / "line.yaml")
    state = re.search(r"(?m)^StateDirectory=(.+)", UNIT.read_text())
    assert state is not None
    assert config.journal is not None
    assert Path(config.journal.path).parent == Path("/var/lib", state[1].replace("%i", "line"))
    assert config.engine.bundle == "/var/lib/anoseg/engines/demo"
    assert config.control is not None  # ExecReload needs it


@pytest.mark.parametrize(
    ("what", "settings", "said"),
    [
        ("install", {"PREFIX": "opt"}, "give an absolute path"),
        ("uninstall", {"DESTDIR": "stage"}, "give an absolute path"),
        ("install", {"DESTDIR": "{tmp}", "PREFIX": "/mine"}, "is not a virtual environment and not empty"),
        ("uninstall", {"DESTDIR": "{tmp}", "PREFIX": "/mine"}, "is not a virtual environment and not empty"),
        ("install", {"DESTDIR": "{tmp}", "PYTHON": "no-such-python"}, "missing or older than Python 3.10"),
    ],
)
def test_installer_refuses(tmp_path: Path, what: str, settings: dict[str, str], said: str) -> None:
    """A mistaken target is refused before anything is written or removed; the message says what to do."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters").write_text("dear")
    environment = {name: value.format(tmp=tmp_path) for name, value in settings.items()}
    script = REPOSITORY / "systemd" / "install.sh"
    done = subprocess.run([script, what], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)
    assert done.returncode == 1
    assert said in done.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["mine", "mine/letters"]


def installed(
    tmp_path: Path, *, jetpack: bool, tensorrt: bool = True, nvcc: bool = True, checkout: Path = REPOSITORY
) -> tuple[int, str, str, Path]:
    """Run the installer with EXTRAS=tensorrt,plc on a system tree. Returns exit code, output, what pip was asked, the venv."""
    system, log = tmp_path / "system", tmp_path / "pip.log"
    packages = system / "usr" / "lib" / "python3.10" / "dist-packages"
    packages.mkdir(parents=True)
    if jetpack:
        (system / "etc").mkdir()
        (system / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.0")
    if tensorrt:
        (packages / "tensorrt").mkdir()
        (packages / "tensorrt" / "__init__.py").write_text("__version__ = '10.3.0'")
    if nvcc:
        compiler = system / "usr" / "local" / "cuda" / "bin" / "nvcc"
        compiler.parent.mkdir(parents=True)
        compiler.write_text("#!/bin/sh\n")
        compiler.chmod(0o755)
    make_system_python(system / "usr" / "bin" / "python3", packages, log)
    return upgraded(tmp_path, checkout)


def upgraded(tmp_path: Path, checkout: Path = REPOSITORY) -> tuple[int, str, str, Path]:
    """Run the installer again on the system tree of `installed`, which describes what is returned."""
    system, target, log = tmp_path / "system", tmp_path / "target", tmp_path / "pip.log"
    environment = {
        "PATH": f"{system}/usr/bin:/usr/bin:/bin",
        "ROOT": str(system),
        "DESTDIR": str(target),
        "EXTRAS": "tensorrt,plc",
    }
    script = checkout / "systemd" / "install.sh"
    done = subprocess.run([script, "install"], capture_output=True, text=True, env=environment, timeout=120)
    asked = log.read_text() if log.exists() else ""
    return done.returncode, done.stdout + done.stderr, asked, target / "opt" / "anoseg"


def test_the_service_may_read_the_demo_bundle(tmp_path: Path) -> None:
    """Whatever the umask of the checkout was."""
    checkout = tmp_path / "checkout"
    for name in ("systemd", "configs", "engines/store/demo"):
        shutil.copytree(REPOSITORY / name, checkout / name)
    shutil.copy(REPOSITORY / "constraints.txt", checkout)
    for path in (checkout / "engines" / "store").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    code, said, _, _ = installed(tmp_path, jetpack=False, checkout=checkout)
    assert code == 0, said
    copied = tmp_path / "target" / "var" / "lib" / "anoseg" / "engines" / "demo"
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in (copied, *copied.rglob("*"))}
    assert modes == {(True, 0o755), (False, 0o644)}


def test_on_a_jetson_the_environment_sees_the_systems_tensorrt(tmp_path: Path) -> None:
    """pip is asked for pycuda with CUDA's nvcc on the PATH, not for TensorRT or PyTorch. The environment imports TensorRT."""
    code, said, asked, venv = installed(tmp_path, jetpack=True)
    assert code == 0, said
    assert "using the system's TensorRT 10.3.0" in said
    assert " .[plc]\n" in asked
    assert " pycuda\n" in asked
    assert not re.search(r"(?m)^(?!nvcc).*\b(tensorrt|torch)\b", asked.replace("openvino-telemetry", ""))
    assert f"nvcc: {tmp_path}/system/usr/local/cuda/bin/nvcc" in asked
    found = subprocess.run([venv / "bin" / "python", "-c", "import tensorrt"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_a_jetson_without_tensorrt_is_installed_all_the_same(tmp_path: Path) -> None:
    """The installer says how to get TensorRT."""
    code, said, _, _ = installed(tmp_path, jetpack=True, tensorrt=False)
    assert code == 0, said
    assert "this JetPack has no TensorRT" in said


def test_elsewhere_pip_brings_tensorrt(tmp_path: Path) -> None:
    """A machine that is no Jetson gets pip's TensorRT, and not that of the system."""
    code, said, asked, venv = installed(tmp_path, jetpack=False)
    assert code == 0, said
    assert " .[tensorrt,plc]\n" in asked
    assert f"nvcc: {tmp_path}/system/usr/local/cuda/bin/nvcc" in asked
    assert not list(venv.rglob("jetpack-tensorrt.pth"))


def test_an_upgrade_keeps_what_was_added_to_the_demo(tmp_path: Path) -> None:
    """Versions of the demo are replaced. Others stay, and what is released with them; without any, the list is new."""
    assert installed(tmp_path, jetpack=False)[0] == 0
    demo = tmp_path / "target" / "var" / "lib" / "anoseg" / "engines" / "demo"
    shipped = sorted(path.name for path in (REPOSITORY / "engines" / "store" / "demo").iterdir())
    assert sorted(path.name for path in demo.iterdir()) == shipped
    for added, list_kept in ((False, False), (True, True)):
        (demo / "3" / "left.txt").write_text("of the version before")
        (demo / "releases.json").write_text("of the line")
        if added:
            (demo / "4").mkdir()
            (demo / "4" / "manifest.json").write_text("of the line")
        code, said, _, _ = upgraded(tmp_path)
        assert code == 0, said
        assert sorted(path.name for path in demo.iterdir()) == sorted([*shipped, *(["4"] if added else [])])
        assert not (demo / "3" / "left.txt").exists()
        assert (demo / "3" / "model.onnx").is_file()
        assert ((demo / "releases.json").read_text() == "of the line") == list_kept
        assert (f"kept {demo}/releases.json and the versions 4. To use" in said) == list_kept
    assert (demo / "4" / "manifest.json").read_text() == "of the line"
    assert not (demo.parent / ".demo").exists()


@pytest.mark.skipif(Path("/usr/bin/nvcc").exists() or Path("/bin/nvcc").exists(), reason="this machine has a CUDA toolkit")
def test_without_the_cuda_toolkit_nothing_is_installed(tmp_path: Path) -> None:
    """pycuda could not be compiled. The installer says so before it makes an environment."""
    code, said, asked, venv = installed(tmp_path, jetpack=True, nvcc=False)
    assert code == 1
    assert "nvcc is missing" in said
    assert "apt install nvidia-jetpack" in said
    assert (asked, venv.exists()) == ("", False)


@pytest.mark.long
@pytest.mark.timeout(690)
def test_under_a_real_systemd() -> None:
    """Installed as documented and booted: start, reload, stop, SIGKILL, hang, exit codes, each bridge, archive, uninstall."""
    command = [sys.executable, str(REPOSITORY / "tests" / "stress" / "systemd_boot.py"), "--patience", "5", "--prepare", "100"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = run.communicate(timeout=650)
    except subprocess.TimeoutExpired:
        run.terminate()  # it cleans up
        said, _ = run.communicate(timeout=30)
        pytest.fail(f"not done after 650 s:\n{said}")
    if run.returncode == CANNOT_RUN:
        pytest.skip(said.splitlines()[-1])
    assert run.returncode == 0, said
    assert "all checks passed" in said
