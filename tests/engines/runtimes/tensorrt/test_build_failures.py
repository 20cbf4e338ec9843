"""A build that fails says why: each cause has a message of its own. The build process is real, TensorRT is not."""

import sys
from pathlib import Path

import pytest
from support.paths import TESTS
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.errors import AnosegError
from anoseg_engines.runtimes.tensorrt import build as build_module
from anoseg_engines.runtimes.tensorrt.build import BuildOptions, build_plan

LESS = "--workspace-mb 512, --max-batch 8"
LAST_LINE = "the last line that TensorRT printed"


@pytest.mark.parametrize(
    ("failure", "says", "shows_output"),
    [
        ("exception", "the build failed with KeyError: 'a type that this version does not have'; nothing was stored", True),
        ("exit code", "the build ended early with exit code 7; nothing was stored", True),
        ("crash", "the build crashed (SIGSEGV) in TensorRT or the GPU's driver; nothing was stored", True),
        (
            "killed",
            "somebody ended the build (SIGKILL); the kernel killed no process for its memory; nothing was stored",
            False,
        ),
        ("kernel", "memory ran out: the kernel killed the build (SIGKILL); nothing was stored", False),
        ("bad_alloc", "memory ran out: the build was ended by SIGABRT; nothing was stored", True),
        ("memory error", "out of memory; nothing was stored", False),
        ("silent", "the build made no progress for 0 minutes and was ended; nothing was stored", True),
    ],
)
def test_each_cause_has_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, says: str, shows_output: bool
) -> None:
    """The message names the cause; only if memory ran out does it say so. It shows what TensorRT printed. Nothing is stored."""
    message = message_of(failure, tmp_path, monkeypatch)
    assert says in message
    assert (LAST_LINE in message) == shows_output
    assert ("memory ran out" in message or "out of memory" in message) == (failure in ("kernel", "bad_alloc", "memory error"))
    assert (LESS in message) == (failure in ("kernel", "bad_alloc", "memory error", "silent", "crash"))
    assert "Traceback" not in message.splitlines()[0]
    assert not (tmp_path / "store" / "plans").exists()


def test_the_build_dies_before_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When memory runs out, the kernel kills the build process before any other: it has the highest score there is."""
    assert "KeyError: '1000'" in message_of("priority", tmp_path, monkeypatch)


def message_of(failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a build that fails in this way."""
    stand_in, vmstat = TESTS / "support" / "failing_tensorrt", tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 1\noom_kill 3\nzswpin 0\n")
    monkeypatch.setenv("FAILURE", failure)
    monkeypatch.setenv("VMSTAT", str(vmstat))
    monkeypatch.setenv("PYTHONPATH", str(stand_in))
    monkeypatch.syspath_prepend(stand_in)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(build_module, "VMSTAT", vmstat)
    monkeypatch.setattr(build_module, "SILENT_S", 5.0 if failure == "silent" else 120.0)
    with pytest.raises(AnosegError) as caught:
        build_plan(write_tiny_bundle(tmp_path / "store" / "tiny"), BuildOptions(library="tensorrt"))
    return str(caught.value)
