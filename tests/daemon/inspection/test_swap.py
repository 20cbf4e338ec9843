"""Swapping the engine of a running line: `anosegd swap` and `rollback` against the real daemon."""

import dataclasses
import shutil
from pathlib import Path

import cv2
import pytest
from stress.swap_often import swap_often
from support.anosegd_line import Daemon, Line, run_anosegd
from support.tiny_bundle import good_part, tiny_draft

from anoseg_engines.bundle import RuleCalibration
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.judgement import Rule, rules_digest

LOOP = "line: {policy: wait, source: {kind: folder, path: images, loop: true, fps: 40}}"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two versions, thresholds 0.5 and 0.4."""
    store = tmp_path / "store" / "tiny"
    write_bundle(store, tiny_draft())
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.4))
    return store


@pytest.fixture
def config(line: Line, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (line.folder / "images").mkdir()
    for i in range(4):
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), good_part())
    control = f"control: {{endpoint: 'ipc://{tmp_path_factory.mktemp('c')}/ctl'}}"
    return line.config(LOOP, more=control, store=store / "1")


def start(line: Line, config: Path) -> Daemon:
    daemon = line.run(config)
    line.listener.wait_for_verdicts(5)
    return daemon


def test_swap_and_rollback(line: Line, config: Path, store: Path) -> None:
    """They take effect between two parts, and no part is UNKNOWN. The state says what a restart would load."""
    daemon = start(line, config)
    done = run_anosegd("swap", str(config), "--bundle", str(store / "2"))
    assert done.returncode == 0, done.stderr
    line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["engine"]["version"] == 2)
    state = line.listener.wait_for_state(lambda s: s["engine"]["version"] == 2 and s["detail"] is not None)
    assert "the next start uses tiny/1 from the configuration" in state["detail"]
    assert run_anosegd("rollback", str(config)).returncode == 0
    line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["engine"]["version"] == 1)
    line.listener.wait_for_state(lambda s: s["engine"]["version"] == 1 and s["detail"] is None)
    assert daemon.terminate() == 0
    line.listener.drain()
    assert {(v["engine"]["version"], v["threshold"]) for v in line.listener.verdicts} == {(1, 0.5), (2, 0.4)}
    assert {v["outcome"] for v in line.listener.verdicts} == {"PASS"}
    seqs = [v["seq"] for v in line.listener.verdicts]
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_swap_that_fails_changes_nothing(line: Line, config: Path, store: Path) -> None:
    """A missing or damaged bundle, or a rollback without a swap, is refused with the reason, and the old engine goes on."""
    start(line, config)
    shutil.copytree(store / "2", store / "3")
    model = store / "3" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    for arguments, said in (
        (("swap", "--bundle", str(store / "9")), "no such bundle"),
        (("swap", "--bundle", str(store / "3")), "SHA-256"),
        (("rollback",), "no engine to go back to"),
    ):
        done = run_anosegd(arguments[0], str(config), *arguments[1:])
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert said in done.stderr
    seen = len(line.listener.verdicts)
    assert {v["engine"]["version"] for v in line.listener.wait_for_verdicts(seen + 5)} == {1}


def test_a_reload_takes_the_configurations_bundle(line: Line, config: Path, store: Path) -> None:
    """After a swap a reload loads the configuration's bundle again, although the file is the same."""
    start(line, config)
    assert run_anosegd("swap", str(config), "--bundle", str(store / "2")).returncode == 0
    assert run_anosegd("reload", str(config)).returncode == 0
    state = line.listener.wait_for_state(lambda s: s["engine"]["version"] == 1 and s["detail"] is None)
    assert state["state"] == "ContinuousExecution"


def test_the_guarantee_of_rules_is_that_of_the_bundle_in_use(line: Line, config: Path, store: Path) -> None:
    """The state says that a bundle has no calibration for the rules; after a swap to one that has, it gives the share."""
    entry = RuleCalibration(
        width=80,
        height=48,
        digest=rules_digest((Rule(name="w"),), None, 0),
        n_images=99,
        rejected=0,
        guaranteed=0.0298,
        false_reject_target=0.05,
        held_out=True,
        guarantee="words",
    )
    write_bundle(store, dataclasses.replace(tiny_draft(), rules=(entry,)))
    config.write_text(config.read_text().replace("policy: wait", "rules: [{name: other}], policy: wait"))
    start(line, config)

    def note(words: str) -> None:
        line.listener.wait_for_state(lambda s: words in (s["cameras"]["line"]["note"] or ""))

    note("not calibrated for these rules")
    assert run_anosegd("swap", str(config), "--bundle", str(store / "3")).returncode == 0
    note("at most 3.0 % of good parts rejected, from 99 images of 80×48")
    assert run_anosegd("rollback", str(config)).returncode == 0
    note("not calibrated for these rules")


def test_many_swaps_under_load() -> None:
    """A short run of tests/stress/swap_often.py: no UNKNOWN, no gap, no verdict of two engines, no growing memory."""
    assert swap_often(12) == []
