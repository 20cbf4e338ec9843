"""A runtime that is lost ends the daemon, so that the service manager starts it again. Parts that fail do not."""

import os
from pathlib import Path

import cv2
import pytest
from support.anosegd_line import Daemon, Line, run_anosegd
from support.paths import SUPPORT
from support.tiny_bundle import good_part

from anoseg_engines.bundle import load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, EngineLostError, RuntimeFailedError
from anoseg_engines.loading import load_engine
from anosegd.inspection import failures
from anosegd.inspection.failures import RUNTIME_FAILURES, Failures

LOOP = "line: {policy: wait, source: {kind: folder, path: images, loop: true, fps: 40}}"


def faulty_daemon(line: Line, *, more: str = "", threads: int = 1) -> tuple[Daemon, Path]:
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    config = line.config(LOOP, more=more)
    config.write_text(config.read_text().replace("threads: 1", f"threads: {threads}"))
    return line.run(config, program=(str(SUPPORT / "faulty_daemon.py"), str(line.folder))), config


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lost_runtime_ends_the_daemon_after_a_few_parts(line: Line, threads: int) -> None:
    """The parts are UNKNOWN: engine, the exit code is 1, and the last line says why."""
    if threads > len(os.sched_getaffinity(0)):
        pytest.skip("one core")
    daemon, _ = faulty_daemon(line, threads=threads)
    line.listener.wait_for_verdicts(5)
    (line.folder / "runtime-lost").touch()
    assert daemon.wait() == 1
    line.listener.drain()
    unknown = [v for v in line.listener.verdicts if v["outcome"] == "UNKNOWN"]
    assert {v["reason"] for v in unknown} == {"engine"}
    assert RUNTIME_FAILURES <= len(unknown) < 20
    assert "the engine fails on every part, and on its golden images too: the test lost the runtime" in daemon.log


def test_a_runtime_lost_while_no_part_comes_ends_the_daemon(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The self-test finds it, on request or on schedule."""
    control = f"control: {{endpoint: 'ipc://{tmp_path_factory.mktemp('c')}/ctl'}}"
    daemon, config = faulty_daemon(line, more=control)
    line.listener.wait_for_verdicts(1)
    (line.folder / "runtime-lost").touch()
    run_anosegd("prove", str(config))
    assert daemon.wait() == 1


def test_an_error_that_passes_does_not_end_the_daemon(line: Line) -> None:
    """When the runtime works again, so does the station."""
    daemon, _ = faulty_daemon(line)
    line.listener.wait_for_verdicts(5)
    (line.folder / "engine-fails").touch()
    unknown = line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["outcome"] == "UNKNOWN").header
    line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["seq"] > unknown["seq"] + 20)
    (line.folder / "engine-fails").unlink()
    line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["outcome"] == "PASS")
    assert daemon.terminate() == 0


@pytest.fixture
def engine(tiny_store: Path) -> Engine:
    return load_engine(load_bundle(tiny_store), runtime="cpu", threads=1)


def test_failures_in_a_row_are_checked_with_the_golden_images(engine: Engine) -> None:
    """If those pass, the parts were at fault, and the count begins again."""
    counted = Failures()
    for n in range(2 * RUNTIME_FAILURES - 1):
        assert not counted.in_doubt
        counted.failed(RuntimeFailedError("no memory for this image"))
        if n == RUNTIME_FAILURES - 2:
            counted.judged()
    assert counted.in_doubt
    assert counted.check(engine)
    assert not counted.in_doubt
    engine.close()


def test_scores_that_are_no_numbers_for_long_are_checked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were damaged in memory fail on the golden images too."""
    counted = Failures()
    counted.failed(EngineError("the network's score is nan"))
    assert not counted.in_doubt
    monkeypatch.setattr(failures, "FAILING_S", 0.0)
    counted.failed(EngineError("the network's score is nan"))
    assert counted.in_doubt

    def lost(*_: object) -> None:
        raise EngineError("the network's score is nan")

    monkeypatch.setattr(Engine, "finish", lost)
    with pytest.raises(EngineLostError, match="is nan") as caught:
        counted.check(engine)
    assert caught.value.exit_code == 1
    engine.close()
