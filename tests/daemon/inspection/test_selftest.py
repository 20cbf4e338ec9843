"""The self-test: golden images run again while parts are inspected."""

import cv2
import pytest
from support.anosegd_line import Line, run_anosegd
from support.paths import SUPPORT
from support.tiny_bundle import good_part

LOOP = "line: {policy: wait, source: {kind: folder, path: images, loop: true, fps: 40}}"


@pytest.mark.parametrize("every", ["", ", prove_every_min: 0.01"])
def test_an_engine_that_drifts_passes_no_part(line: Line, tmp_path_factory: pytest.TempPathFactory, every: str) -> None:
    """On request or on schedule: the state is Error and every part UNKNOWN, until the golden images pass again."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    control = f"control: {{endpoint: 'ipc://{tmp_path_factory.mktemp('c')}/ctl'}}"
    config = line.config(LOOP, more=control)
    config.write_text(config.read_text().replace("threads: 1", f"threads: 1{every}"))
    faulty = str(SUPPORT / "faulty_daemon.py")
    daemon = line.run(config, program=(faulty, str(line.folder)))
    line.listener.wait_for_verdicts(5)
    if not every:
        assert run_anosegd("prove", str(config)).stdout == "prove: done\n"
    drifts = line.folder / "engine-drifts"
    drifts.touch()
    if not every:
        done = run_anosegd("prove", str(config))
        assert done.returncode == 1
        assert "the self-test failed" in done.stderr
    alarm = line.listener.wait_for_state(lambda s: s["state"] == "Error")
    assert "the golden images fail the self-test" in alarm["detail"]
    after = line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["seq"] > alarm["last_seq"] + 2).header
    assert (after["outcome"], after["reason"], after["score"]) == ("UNKNOWN", "engine", None)
    assert [run_anosegd("status", str(config), *more).returncode for more in ((), ("--json",))] == [4, 4]
    drifts.unlink()
    if not every:
        assert run_anosegd("prove", str(config)).returncode == 0
    line.listener.wait_for_state(lambda s: s["state"] == "ContinuousExecution")
    line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["outcome"] == "PASS")
    assert run_anosegd("status", str(config)).returncode == 0
    assert daemon.terminate() == 0
