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


def ask(command: str, config: Path, *more: str) -> str:
    """What a command prints that must succeed."""
    done = run_anosegd(command, str(config), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_again(line: Line, config: Path) -> Daemon:
    """Start the daemon once more, and wait for its first verdict."""
    line.listener.drain()
    runs = {v["run_id"] for v in line.listener.verdicts}
    daemon = line.run(config)
    line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["run_id"] not in runs)
    return daemon


def inspects(line: Line) -> tuple[str, int]:
    """Product and version in the next verdict."""
    while line.listener.take(0) is not None:
        pass
    (verdict,) = line.listener.wait_for_verdicts(len(line.listener.verdicts) + 1)[-1:]
    return verdict["engine"]["name"], verdict["engine"]["version"]


def test_rollback_returns_to_what_inspected_wherever_links_point(line: Line, config: Path, store: Path) -> None:
    """Deployment switches a link and reloads: a rollback names the version before and takes it, even if its folder is gone."""
    link = store.parent / "current"
    link.symlink_to(store / "1")
    config.write_text(config.read_text().replace(str(store / "1"), str(link)))
    start(line, config)
    link.unlink()
    link.symlink_to(store / "2")
    assert "inspecting with tiny/2" in ask("reload", config)
    assert inspects(line) == ("tiny", 2)  # the answer came when it inspected
    shutil.rmtree(store / "1")
    said = ask("rollback", config)
    digest = line.listener.wait_for_state(lambda s: s["engine"]["version"] == 1)["engine"]["digest"]
    assert said == f"rollback: inspecting with tiny/1 (digest {digest[:12]})\n"


def test_a_repeated_rollback_goes_further_back(line: Line, config: Path, store: Path) -> None:
    """After any number of swaps, each rollback takes one more step back, until there is nothing before."""
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.3))
    start(line, config)
    for version in ("2", "3", "2", "2"):  # the last one changes nothing, so it is no step
        ask("swap", config, "--bundle", str(store / version))
    for version in (3, 2, 1):
        assert f"inspecting with tiny/{version}" in ask("rollback", config)
    done = run_anosegd("rollback", str(config))
    assert (done.returncode, "none is known to have inspected before tiny/1" in done.stderr) == (1, True)
    ask("swap", config, "--bundle", str(store / "3"))
    assert "inspecting with tiny/1" in ask("rollback", config)


def test_rollback_goes_back_beyond_a_restart_of_the_station(line: Line, config: Path, store: Path) -> None:
    """A reload that restarts the station within the process does not forget what inspected."""
    start(line, config)
    ask("swap", config, "--bundle", str(store / "2"))
    config.write_text(config.read_text().replace("test-station", "renamed").replace(str(store / "1"), str(store / "2")))
    assert "inspecting with tiny/2" in ask("reload", config)
    assert "inspecting with tiny/1" in ask("rollback", config)


def test_rollback_goes_back_beyond_a_restart_of_the_daemon(line: Line, config: Path, store: Path) -> None:
    """With a journal: after a crash, too, it returns to what inspected, if that is still in its folder."""
    config.write_text(config.read_text() + "journal: {path: verdicts.db}\n")
    daemon = start(line, config)
    ask("swap", config, "--bundle", str(store / "2"))
    daemon.process.kill()
    daemon.wait()
    config.write_text(config.read_text().replace(str(store / "1"), str(store / "2")))
    daemon = start_again(line, config)
    assert "inspecting with tiny/1" in ask("rollback", config)
    ask("swap", config, "--bundle", str(store / "2"))
    daemon.process.kill()
    daemon.wait()
    (store / "1").rename(store / "gone")
    start_again(line, config)
    done = run_anosegd("rollback", str(config))
    assert (done.returncode, f"{store / '1'}: no such bundle" in done.stderr) == (1, True)
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.2))
    (store / "3").rename(store / "1")
    done = run_anosegd("rollback", str(config))
    assert (done.returncode, "another bundle than the one that inspected before" in done.stderr) == (1, True)
    assert inspects(line) == ("tiny", 2)


def test_a_list_that_cannot_be_read_or_written_stops_nothing(line: Line, config: Path, store: Path) -> None:
    """A damaged file beside the journal, and a name that is taken: the daemon inspects, and goes back within its run."""
    config.write_text(config.read_text() + "journal: {path: verdicts.db}\n")
    (line.folder / "verdicts.db.bundles").write_bytes(b'{"bundles": [{')
    (line.folder / "verdicts.db.bundles.new").mkdir()
    daemon = start(line, config)
    ask("swap", config, "--bundle", str(store / "2"))
    assert "inspecting with tiny/1" in ask("rollback", config)
    assert [e["event"] for e in daemon.events].count("bundles.not_remembered") == 4


def test_another_product_is_refused_unless_it_is_meant(line: Line, config: Path, store: Path) -> None:
    """A swap needs --other-product; a reload refuses a path that leads to another product now, until it was swapped to."""
    other = store.parent / "other"
    write_bundle(other, dataclasses.replace(tiny_draft(), product="other"))
    link = store.parent / "current"
    link.symlink_to(store / "1")
    config.write_text(config.read_text().replace(str(store / "1"), str(link)))
    start(line, config)
    done = run_anosegd("swap", str(config), "--bundle", str(other))
    assert (done.returncode, "is for the product 'other', the station inspects 'tiny'" in done.stderr) == (1, True)
    link.unlink()
    link.symlink_to(other / "1")
    done = run_anosegd("reload", str(config))
    assert (done.returncode, "a bundle for the product 'other'" in done.stderr) == (1, True)
    assert inspects(line) == ("tiny", 1)
    assert "inspecting with other/1" in ask("swap", config, "--bundle", str(other), "--other-product")
    assert "inspecting with other/1" in ask("reload", config)
    assert line.listener.wait_for_state(lambda s: s["engine"]["name"] == "other" and s["detail"] is None)
    assert "inspecting with tiny/1" in ask("rollback", config)


COUNTING = """
import sys
from anoseg_engines import loading
from anoseg_engines.bundle import read
from anosegd.cli import main

def counted(name, function):
    def call(*arguments):
        print(f"counted {name}", file=sys.stderr, flush=True)
        return function(*arguments)
    return call

loading.self_test = counted("self-test", loading.self_test)
read._parse_manifest = counted("reading", read._parse_manifest)
main()
"""


@pytest.mark.parametrize("change", ["another version", "another version and name"])
def test_a_reload_reads_and_proves_a_bundle_once(line: Line, config: Path, store: Path, change: str) -> None:
    """Whether the engine is swapped or the station restarts: the engine that was checked is the one that inspects."""
    daemon = line.run(config, program=("-c", COUNTING))
    line.listener.wait_for_verdicts(5)

    def count(name: str) -> int:
        return daemon.log.splitlines().count(f"counted {name}")

    before = {name: count(name) for name in ("reading", "self-test")}
    text = config.read_text().replace(str(store / "1"), str(store / "2"))
    config.write_text(text.replace("test-station", "renamed") if "name" in change else text)
    assert "inspecting with tiny/2" in ask("reload", config)
    assert inspects(line)[1] == 2
    assert {name: count(name) - n for name, n in before.items()} == {"reading": 1, "self-test": 1}
    assert daemon.terminate() == 0


SLOW_TO_WARM_UP = """
import time
from anosegd.inspection import swap
from anosegd.cli import main

def slow(*arguments):
    time.sleep(2)
    return warm_up(*arguments)

warm_up, swap.warm_up = swap.warm_up, slow
main()
"""


def test_no_engine_judges_by_the_threshold_of_another_one(line: Line, config: Path, store: Path) -> None:
    """A reload brings another version and the threshold that is meant for it: both come into force together."""
    daemon = line.run(config, program=("-c", SLOW_TO_WARM_UP))
    line.listener.wait_for_verdicts(5)
    text = config.read_text().replace(str(store / "1"), str(store / "2"))
    config.write_text(text.replace("policy: wait", "score_threshold: 0.9, policy: wait"))
    assert "inspecting with tiny/2" in ask("reload", config)
    line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["threshold"] == 0.9)
    line.listener.wait_for_verdicts(len(line.listener.verdicts) + 20)
    judged = [v for v in line.listener.verdicts if v["engine"] is not None and v["threshold"] is not None]
    assert {(v["engine"]["version"], v["threshold"]) for v in judged} == {(1, 0.5), (2, 0.9)}
    assert daemon.terminate() == 0


def test_many_swaps_under_load() -> None:
    """A short run of tests/stress/swap_often.py: no UNKNOWN, no gap, no verdict of two engines, no growing memory."""
    assert swap_often(12) == []
