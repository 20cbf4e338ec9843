"""Writing a bundle: whole, after its self-test, or not at all."""

import dataclasses
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
from support.tiny_bundle import TINY_RULES, bad_part, golden, good_part, tiny_draft, write_tiny_bundle

from anoseg_engines.bundle import versions
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.errors import AnosegError, EngineError


def test_a_bundle_whose_results_are_not_the_recorded_ones_is_not_written(tmp_path: Path) -> None:
    """A network that does not reproduce its golden maps is refused with both scores, and leaves nothing behind."""
    draft = tiny_draft()
    wrong = dataclasses.replace(golden(bad_part(), draft.input), score=0.7)
    with pytest.raises(EngineError, match=r"0\.99\d+, recorded 0\.7000"):
        write_bundle(tmp_path / "store" / "tiny", dataclasses.replace(draft, golden=[wrong]))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_with_another_golden_verdict_is_not_written(tmp_path: Path) -> None:
    """A score within tolerance but on the other side of the threshold is refused."""
    draft = tiny_draft()
    wrong = dataclasses.replace(golden(good_part(), draft.input), verdict="FAIL")
    with pytest.raises(EngineError, match="verdict differs"):
        write_bundle(tmp_path / "tiny", dataclasses.replace(draft, golden=[wrong]))


def test_a_killed_writer_leaves_nothing_that_loads(tmp_path: Path) -> None:
    """The half-written folder of a killed process does not count as a version."""
    write_tiny_bundle(tmp_path / "tiny")
    shutil.copytree(tmp_path / "tiny" / "1", tmp_path / "tiny" / ".writing-dead")
    assert versions(tmp_path / "tiny") == [1]
    assert write_tiny_bundle(tmp_path / "tiny").label == "tiny/2"


def test_a_write_error_is_reported_and_nothing_remains(tmp_path: Path) -> None:
    """After a write error (here from a file size limit) there are one clear message and no folder."""
    target = tmp_path / "store" / "tiny"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    draft = dataclasses.replace(tiny_draft(), model_onnx=b"x" * 100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(AnosegError, match="cannot be written"):
            write_bundle(target, draft)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_nothing_remains(tmp_path: Path) -> None:
    """On a full file system of 64 KiB the message is 'no space left', and the disk is as empty as before."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mounted], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(AnosegError, match="no space left"):
            write_bundle(mounted / "tiny", dataclasses.replace(tiny_draft(), model_onnx=b"x" * 100_000))
        assert list(mounted.iterdir()) == []
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_bundle_written_again_from_its_draft_is_the_same(tmp_path: Path) -> None:
    """Images, maps, network and everything else stay the same; only version and time are new."""
    first = write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), rules=(TINY_RULES,), metrics={"m": 1}))
    second = write_bundle(tmp_path / "tiny", BundleDraft.of(first))
    assert second.files == first.files
    assert second.manifest.version == 2
    unlike = {"version": 1, "created": first.manifest.created, "seal": first.manifest.seal}
    assert msgspec.structs.replace(second.manifest, **unlike) == first.manifest
