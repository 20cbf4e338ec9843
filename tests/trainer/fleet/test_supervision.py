"""Which trainings of a fleet start again, how often, and what the report says. The trainings here only pretend to run."""

import fcntl
import html
import json
import re
import shlex
import threading
from collections import deque
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from support.fleet import figures
from support.tiny_bundle import write_tiny_bundle

from anoseg_trainer.fit_status import STATUS, FitStatus, TrainingKey
from anoseg_trainer.fleet.fleet_report import failures, worst_first, write_report
from anoseg_trainer.fleet.plan import Plan
from anoseg_trainer.fleet.products_file import ProductTraining
from anoseg_trainer.fleet.screen import Screen
from anoseg_trainer.fleet.supervision import Account, account_of, supervise
from anoseg_trainer.fleet.training_run import LOCK, Ending, run_training


def training(folder: Path, name: str) -> ProductTraining:
    key = TrainingKey(data=name, images="", out=name, config="", seed=0, quick=False)
    return ProductTraining(
        name=name, data=folder / name, out=folder / "store" / name, work=folder / "runs" / name, config=None, false_reject=None,
        minutes=None, steps=None, seed=0, quick=False, cores=1, gpus=0, key=key,
    )  # fmt: skip


def finished(product: ProductTraining, **changes: object) -> Ending:
    """End a training as `fit` does: with a bundle and a status."""
    bundle = write_tiny_bundle(product.out)
    found = figures(version=bundle.manifest.version, digest=bundle.digest, **changes)
    status = FitStatus(key=product.key, state="finished", done=1.0, figures=found)
    product.work.mkdir(parents=True, exist_ok=True)
    (product.work / STATUS).write_bytes(msgspec.json.encode(status))
    return Ending("finished", "", 0, status)


class FakePlace:
    """Pretends to train two products at a time, and ends each training in the way that the test has chosen."""

    def __init__(self, endings):
        self.endings_of = {name: deque(endings) for name, endings in endings.items()}
        self.started, self.running, self.stopped = [], [], False

    def start(self, product):
        if len(self.running) == 2:
            return False
        self.started.append(product.name)
        self.running.append(product)
        return True

    def endings(self, timeout_s):
        product = self.running.pop(0)
        if self.stopped:
            return [(product.name, Ending("stopped", "", 130, None))]
        ending = self.endings_of[product.name].popleft()
        return [(product.name, ending(product) if callable(ending) else ending)]

    def stop(self):
        self.stopped = True


LOST = Ending("lost", "its process was killed by SIGKILL", 1, None)
FAILED = Ending("failed", "images/c: no such folder\n  hint", 2, None)


def run(folder, endings, *, restarts=3, stop_requested=lambda: False):
    accounts = [account_of(training(folder, name), Plan("train", "new")) for name in endings]
    place, events = FakePlace(endings), []

    def on_event(account, what):
        events.append(f"{account.training.name} {what}")

    stopped = supervise(
        accounts, place, restarts=restarts, stop_requested=stop_requested, on_event=on_event, on_look=lambda: None
    )
    return {account.training.name: account for account in accounts}, place, events, stopped


def test_lost_trainings_start_again_up_to_the_limit(tmp_path):
    """Lost twice, it finishes; always lost, it fails after the limit; with a wrong input at once; the others go on."""
    endings = {"a": [LOST, LOST, finished], "b": [LOST] * 4, "c": [FAILED], "d": [finished]}
    accounts, place, events, stopped = run(tmp_path, endings)
    assert {name: account.phase for name, account in accounts.items()} == {
        "a": "finished", "b": "failed", "c": "failed", "d": "finished",
    }  # fmt: skip
    assert [place.started.count(name) for name in "abcd"] == [3, 4, 1, 1]
    assert accounts["a"].restarts == [LOST.why] * 2
    assert accounts["b"].why == f"{LOST.why} (started again 3 times)"
    assert (accounts["b"].exit_code, accounts["c"].exit_code) == (1, 2)
    assert "a is started again (2 of 3): its process was killed by SIGKILL" in events
    assert failures(list(accounts.values())).splitlines()[-1] == "  c: images/c: no such folder; hint"
    assert not stopped


def test_a_stop_ends_all_and_starts_nothing_again(tmp_path):
    """What runs is stopped, what waits is not started, and nothing counts as failed."""
    asked = iter([False, True, True, True, True])
    accounts, place, _, stopped = run(tmp_path, {name: [LOST] for name in "abcd"}, stop_requested=lambda: next(asked))
    assert stopped
    assert {account.phase for account in accounts.values()} == {"stopped"}
    assert set(place.started) <= {"a", "b", "c"}
    assert place.stopped


def test_a_bundle_that_is_not_here_is_a_failure(tmp_path, monkeypatch):
    """A machine whose store is another folder says that it is finished: the product is not."""
    monkeypatch.setattr("anoseg_trainer.fleet.supervision.SHARED_WAIT_S", 0.0)

    def elsewhere(product):
        ending = finished(product)
        (product.out / "1" / "manifest.json").unlink()
        return ending

    accounts, *_ = run(tmp_path, {"a": [elsewhere]})
    assert accounts["a"].phase == "failed"
    assert "every machine needs stores and the work folder at the same paths" in accounts["a"].why


def test_a_product_in_other_hands_is_not_started_again(tmp_path, monkeypatch):
    """Another process trains it for longer than this one waits: that is a failure, which starting again would not cure."""
    monkeypatch.setattr("anoseg_trainer.fleet.training_run.LOCK_WAIT_S", 0.0)
    product = training(tmp_path, "a")
    product.work.mkdir(parents=True)
    with (product.work / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ending = run_training(product, threading.Event())
    assert (ending.kind, ending.exit_code) == ("failed", 1)
    assert "runs/a: another process trains this product\n  wait for it, or end it" in ending.why


@pytest.fixture
def accounts(tmp_path):
    """Products of every kind, in the order of their names."""
    endings = {
        "b-good": [finished],
        "c-good-but-less": [lambda product: finished(product, escapes=1, promised=1 / 41, needed=99)],
        "d-bad": [lambda product: finished(product, escapes=8, level="bad", look_at="Look at <7>.png")],
        "e-care": [lambda product: finished(product, escapes=2, level="care", promised=None, defects="synthetic defects")],
        "f-failed": [FAILED],
        "g-again": [LOST, finished],
    }
    found, *_ = run(tmp_path, endings)
    waits = account_of(training(tmp_path, "a-waits"), Plan("train", "new"))
    return [waits, *found.values()]


def test_the_report_has_the_worst_first_with_links(accounts, tmp_path):
    """Failed, not finished, not good enough, with care, good; each with a link to its report, a picture, its share."""
    page = write_report(tmp_path / "products.yaml", tmp_path / "runs", accounts).read_text()
    rows = re.findall(r'<tr class="(\w+)" id="([^"]+)">(.*?)</tr>', page, flags=re.DOTALL)
    assert [(name, level) for level, name, _ in rows] == [
        ("f-failed", "failed"),
        ("a-waits", "not"),
        ("d-bad", "bad"),
        ("e-care", "care"),
        ("c-good-but-less", "good"),
        ("b-good", "good"),
        ("g-again", "good"),
    ]
    cells = {name: row for _, name, row in rows}
    assert "images/c: no such folder" in cells["f-failed"]
    assert 'href="d-bad/report-1.html"' in cells["d-bad"]
    assert "12 of 20 (60.0 %)" in cells["d-bad"]
    assert "Look at &lt;7&gt;.png" in cells["d-bad"]
    assert "not known" in cells["e-care"]
    assert "Photograph some 20 defective parts" in cells["e-care"]
    assert "at most 2.5 % (asked: 1.0 %)" in cells["c-good-but-less"]  # 1/41 is more than 2.4 %
    assert "needs 99 good parts that the training has not used" in cells["c-good-but-less"]
    assert "anoseg-engine release" in cells["b-good"]
    assert "Started again 1 time: its process was killed by SIGKILL" in cells["g-again"]
    assert page.count("data:image/png;base64,") == 5
    assert "<7>" not in page
    assert "://" not in page


def test_the_command_to_release_can_be_copied(tmp_path):
    """A path with spaces is quoted for the shell."""
    accounts, *_ = run(tmp_path / "two words", {"a": [finished]})
    page = write_report(tmp_path / "products.yaml", tmp_path / "two words" / "runs", [*accounts.values()]).read_text()
    (command,) = re.findall("<code>(anoseg-engine release .*?)</code>", html.unescape(page))
    assert shlex.split(command)[-1] == str(tmp_path / "two words" / "store" / "a" / "1")


def test_the_figures_are_there_for_programs(accounts, tmp_path):
    """fleet.json has the same products in the same order."""
    write_report(tmp_path / "products.yaml", tmp_path / "runs", accounts)
    found = json.loads((tmp_path / "runs" / "fleet.json").read_text())["products"]
    assert [row["name"] for row in found] == [account.training.name for account in worst_first(accounts)]
    rows = {row["name"]: row for row in found}
    assert rows["d-bad"]["figures"]["caught"] == 0.6
    assert rows["d-bad"]["bundle"] == str(tmp_path / "store" / "d-bad" / "1")
    assert (rows["f-failed"]["exit_code"], rows["f-failed"]["error"].splitlines()[0]) == (2, "images/c: no such folder")
    assert rows["a-waits"]["figures"] is None


def test_a_terminal_shows_all_products_on_one_screen(accounts, tmp_path):
    """A hundred products fit: those in training and failed ones first, the others counted."""
    for number in range(100):
        accounts.append(Account(training=training(tmp_path, f"w-{number}"), plan=Plan("train", "new")))
    running = Account(training=training(tmp_path, "z-runs"), plan=Plan("train", "new"), phase="training")
    running.status = FitStatus(key=running.training.key, state="training", step=120, done=0.4, image_auroc=0.91, left_s=75.0)
    accounts.append(running)
    console = Console(force_terminal=True, width=120, height=24, record=True, color_system=None)
    screen = Screen(console, accounts, begun="starting")
    with console.capture() as shown:
        console.print(screen._table())
    lines = shown.get().splitlines()
    assert len(lines) <= 22
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[3:-1]]
    assert rows[0] == ["z-runs", "training", "━━━━", "40%", "120", "0.910", "1:15"]
    assert rows[1] == ["f-failed", "failed", "images/c: no such folder; hint"]
    assert rows[-1][:2] == ["… 91 more", "86 waiting, 5 finished"]


def test_lines_where_there_is_no_terminal(accounts, tmp_path, monkeypatch):
    """Now and then a line sums up; it names what is in training."""
    monkeypatch.setattr("anoseg_trainer.fleet.screen.SUMMARY_EVERY_S", 0.0)
    console = Console(force_terminal=False, width=60)
    with console.capture() as shown, Screen(console, accounts, begun="starting") as screen:
        screen.look()
    assert shown.get() == "5 of 7 finished, 1 failed, 1 waiting\n"
