"""What all three programs do when their output cannot be written, and when one of their threads dies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {"anosegd": "anosegd.cli", "anoseg-engine": "anoseg_engines.cli", "anoseg-train": "anoseg_trainer.cli"}
FULL = Path("/dev/full")


def run(
    module: str, *arguments: str, stdout: object = subprocess.PIPE, script: str = "main()"
) -> subprocess.CompletedProcess[str]:
    program = f"from {module} import main\n{script}"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, errors="surrogateescape",
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


@pytest.mark.parametrize(("name", "module"), PROGRAMS.items())
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_disk_is_one_line(name: str, module: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program says that its output cannot be written and ends with exit code 1, without a traceback."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with FULL.open("w") as full:
        done = run(module, "--version", stdout=full)
    said = f"{name}: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("module", PROGRAMS.values())
def test_a_closed_pipe_is_no_error(module: str) -> None:
    """`| head` has seen enough: the program ends in silence."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = run(module, "--print-completion", "bash", stdout=pipe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", PROGRAMS.values())
def test_without_standard_output(module: str) -> None:
    """`>&-`: nothing is printed, and nothing fails."""
    command = f"'{sys.executable}' -c 'from {module} import main; main()' --version >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failure_that_is_not_about_output_stays_what_it_is() -> None:
    """A disk that is full elsewhere must not be reported as standard output."""
    script = "import anosegd.cli as c, errno\ndef run(a): raise OSError(errno.ENOSPC, 'elsewhere')\nc.run = run\nmain()"
    done = run("anosegd.cli", script=script)
    assert (done.returncode, "elsewhere" in done.stderr, "standard output" in done.stderr) == (1, True, False)


def test_a_thread_that_dies_ends_the_program() -> None:
    """A progress bar that can no longer be drawn does not leave a program that seems to hang."""
    script = (
        "import anosegd.cli as c, threading, time\n"
        "def run(a):\n    threading.Thread(target=lambda: 1 / 0).start()\n    time.sleep(100)\n"
        "c.run = run\nmain()"
    )
    done = run("anosegd.cli", script=script)
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("anosegd.cli", ("check", "NAME")),
        ("anoseg_engines.cli", ("list", "NAME")),
        ("anoseg_trainer.cli", ("fit", "--data", "NAME", "--out", "store/x")),
    ],
)
def test_a_name_that_is_not_utf8_is_shown_by_its_bytes(module: str, arguments: tuple[str, ...]) -> None:
    """A file name in a message, as `ls` shows it."""
    done = run(module, *(os.fsdecode(b"gr\xf6\xdfe.yaml") if text == "NAME" else text for text in arguments))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "gr\\xf6\\xdfe.yaml" in done.stderr
