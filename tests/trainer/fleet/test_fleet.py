"""`anoseg-train fleet` with real trainings: a killed training starts again, and a finished one is not trained twice."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.anoseg_train_command import COMMAND, ENVIRONMENT, run
from support.anosegd_line import alive
from support.processors import processes_of

from anoseg_engines.bundle import load_bundle, versions
from anoseg_trainer.fit_status import read_status
from anoseg_trainer.fleet.plan import plan_of
from anoseg_trainer.fleet.products_file import load_fleet

TINY = """
input: {height: 96, width: 128}
network: {encoder: scratch, widths: [16, 16, 32, 32, 32]}
training: {batch: 8, ema: 0.8, validate_every: 1000, checkpoint_every: 8, learning_rate: 0.004, threads: 1}
"""
GIVE_UP_S = 120


@pytest.fixture
def products(product, tmp_path):
    """A file with two products that train in seconds."""
    (tmp_path / "train.yaml").write_text(TINY)
    path = tmp_path / "products.yaml"
    path.write_text(
        "store: store\nwork: work\nconfig: train.yaml\ncores: 1\nsteps: 40\n"
        f"products:\n  a: {{data: {product}}}\n  b: {{data: {product}, seed: 1}}\n"
    )
    return path


def start(products, *more):
    command = [*COMMAND, "fleet", str(products), *more]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process=None):
    give_up_at = time.monotonic() + 250
    while not condition():
        if process is not None and process.poll() is not None:
            said = process.stdout.read()
            if "Ray cannot be used (The current node timed out during startup" in said:
                pytest.skip("Ray could not start in its time: the machine is too busy")
            pytest.fail(said)
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def training_of(process, work):
    """Return the process id of the training that this driver runs for a product, or None."""
    for pid in processes_of(process.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"anoseg_trainer.training_child" in words and os.fsencode(work) in words:
                return pid
    return None


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.long
@pytest.mark.timeout(600)  # a minute on an idle machine
def test_what_is_killed_starts_again_and_all_finish_once(products):
    """A worker of Ray is killed, and its product starts again. Then the driver is killed, and all that it has started ends.

    The command is given again, without Ray. Both products go on from their checkpoints, although one is killed once more. Then
    each has one version, and giving the command a third time changes nothing.
    """
    folder = products.parent
    a, b = (folder / "work" / name for name in "ab")
    on_ray = find_spec("ray") is not None
    first = start(products, *(["--ray"] if on_ray else []))
    try:
        wait_for(lambda: (a / "checkpoint.json").exists(), first)
        killed = training_of(first, a)
        os.kill(parent_of(killed) if on_ray else killed, signal.SIGKILL)
        wait_for(lambda: training_of(first, a) not in (None, killed), first)
        below = processes_of(first.pid)
    finally:
        first.kill()
        said = first.communicate()[0]
    assert "a: is started again (1 of 3): " in said
    wait_for(lambda: not any(alive(pid) for pid in below))
    assert not list((folder / "store").rglob("manifest.json"))
    assert [plan_of(training).action for training in load_fleet(products).trainings] == ["go on", "go on"]

    second = start(products)
    try:
        wait_for(lambda: training_of(second, b) is not None, second)
        os.kill(training_of(second, b), signal.SIGKILL)
        said = second.communicate(timeout=300)[0]
    finally:
        if second.poll() is None:
            second.kill()
            second.communicate()
    assert second.returncode == 0, said
    assert "b: is started again (1 of 3): its process on " in said
    assert "was killed by SIGKILL" in said
    assert "2 of 2 finished" in said
    assert [versions(folder / "store" / name) for name in "ab"] == [[1], [1]]
    assert load_bundle(folder / "store" / "a" / "1").manifest.training["steps"] == 40
    assert read_status(a).figures.digest == load_bundle(folder / "store" / "a" / "1").digest

    third = run("fleet", products)
    assert (third.returncode, "2 of 2 finished" in third.stdout) == (0, True), third.stderr
    assert [versions(folder / "store" / name) for name in "ab"] == [[1], [1]]
    page = (folder / "work" / "fleet.html").read_text()
    assert all((folder / "work" / name / "report-1.html").is_file() and f'href="{name}/report-1.html"' in page for name in "ab")


def test_ctrl_c_twice_ends_all_trainings(products):
    """The second signal acts before the fleet has asked its trainings to stop. They end all the same, and so does the fleet."""
    products.write_text(products.read_text().replace("steps: 40", "steps: 1000000"))
    a = products.parent / "work" / "a"
    process = start(products, "--only", "a")
    try:
        wait_for(lambda: training_of(process, a) is not None, process)
        child = training_of(process, a)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # two signals at once would be one
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=150)[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert not alive(child)


def cut(product, folder):
    """Copy the images of a product; one of them cannot be read."""
    shutil.copytree(product, folder)
    (folder / "train" / "good" / "007.png").write_bytes(b"no image")


def test_failures_are_named_and_counted(product, products):
    """A damaged image (2) and a full disk (1): named on the screen, in both reports, and by the exit code, which is 1."""
    folder = products.parent
    cut(product, folder / "cut")
    text = products.read_text().replace(f"a: {{data: {product}", "a: {data: cut") + "restarts: 0\n"
    products.write_text(text)
    (folder / "work" / "b").mkdir(parents=True)
    (folder / "work" / "b" / "checkpoint.pt.tmp").symlink_to("/dev/full")
    done = run("fleet", products)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "2 products have failed:\n  a: " in done.stderr
    rows = {row["name"]: row for row in json.loads((folder / "work" / "fleet.json").read_text())["products"]}
    assert (rows["a"]["exit_code"], "007.png" in rows["a"]["error"]) == (2, True)
    assert (rows["b"]["exit_code"], "checkpoint cannot be written" in rows["b"]["error"]) == (1, True)
    page = (folder / "work" / "fleet.html").read_text()
    assert "checkpoint cannot be written" in page
    assert page.index('id="a"') < page.index('id="b"')
    assert "---- " in (folder / "work" / "b" / "fit.log").read_text()
    plans = {training.name: plan_of(training) for training in load_fleet(products).trainings}
    assert plans["b"].why.startswith("failed ")


def test_a_report_that_cannot_be_written_hides_no_failure(product, products):
    """The failed product is named, with its exit code, and a note names the report."""
    folder = products.parent
    cut(product, folder / "cut")
    products.write_text(f"store: store\nwork: work\ncores: 1\nproducts:\n  a: {{data: {folder}/cut}}\n")
    (folder / "work" / "fleet.html").mkdir(parents=True)
    done = run("fleet", products)
    assert (done.returncode, "1 product has failed:\n  a: 1 of 60 good images cannot be used: " in done.stderr) == (2, True)
    assert f"note: {folder / 'work' / 'fleet.html'}: the report cannot be written (Is a directory)" in done.stderr
    assert "0 of 1 finished, 1 failed\n" in done.stdout
