"""Several products on one line: `anosegd recipe` against the real daemon."""

import dataclasses
import functools
import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from support.anosegd_line import Daemon, Line, run_anosegd, wait_until
from support.paths import SUPPORT
from support.tiny_bundle import bad_part, good_part, tiny_draft

from anoseg_engines.bundle_writer import write_bundle
from anosegd.client import Client, RefusedError
from anosegd.wire import utc

FREE = "{kind: folder, path: images, loop: true, fps: 40}"
CALLED = "{kind: folder, path: images, loop: true}, trigger: {kind: software, delay_ms: 60, within_ms: 20000}"
LEFT = "region: {x: 0, y: 0, width: 20, height: 48}"
"""Every image is defective, but not in this region: what judged a part shows in its outcome."""
RECIPES = {"lid": ("lid", 0.5, "FAIL"), "base": ("base", 0.4, "PASS"), "small": ("lid", 0.3, "PASS")}
"""By recipe: the bundle's product, the threshold, and what becomes of every part."""


class Station:
    """A line with a free camera, a triggered one and three recipes, of which two share a bundle."""

    def __init__(self, line: Line, sockets: Path) -> None:
        self.line = line
        self.control = f"ipc://{sockets}/ctl"
        self.store = line.folder / "products"
        write_bundle(self.store / "lid", dataclasses.replace(tiny_draft(), product="lid"))
        write_bundle(self.store / "base", dataclasses.replace(tiny_draft(), product="base", score_threshold=0.4))
        (line.folder / "images").mkdir()
        for i in range(4):
            cv2.imwrite(str(line.folder / "images" / f"{i}.png"), bad_part())
        self.config = line.config(
            f"free: {{source: {FREE}, policy: every, queue: 16, recipe: lid}}\n"
            f"called: {{source: {CALLED}, policy: every, queue: 64, recipe: lid}}",
            more=f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}\nrecipes:\n"
            f"  base: {{bundle: {self.store}/base, cameras: {{free: {{{LEFT}}}, called: {{{LEFT}}}}}}}\n"
            f"  small: {{cameras: {{free: {{{LEFT}, score_threshold: 0.3}}, called: {{{LEFT}, score_threshold: 0.3}}}}}}\n",
            store=self.store / "lid",
        )

    def edit(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def start(self) -> Daemon:
        """Start the daemon, and wait for its first verdict."""
        runs = {v["run_id"] for v in self.line.listener.verdicts}
        self.daemon = self.line.run(self.config)
        self.line.listener.wait_for(lambda m: m.topic == "verdict.free" and m.header["run_id"] not in runs)
        return self.daemon

    def start_again(self) -> Daemon:
        self.line.listener.drain()
        return self.start()

    def client(self) -> Client:
        return Client(self.line.endpoint, self.control, request_timeout_s=60)

    def ask(self, command: str, *more: str) -> str:
        done = run_anosegd(command, str(self.config), *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, command: str, *more: str) -> str:
        done = run_anosegd(command, str(self.config), *more)
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
        return done.stderr

    def inspects(self) -> tuple[str, str, float, str]:
        """Recipe, product, threshold and outcome of the next part that is captured."""
        now = utc(time.time_ns())
        v = self.line.listener.wait_for(lambda m: m.topic == "verdict.free" and (m.header["captured_at"] or "") > now).header
        return v["recipe"], v["engine"]["name"], v["threshold"], v["outcome"]

    def wait_for_recipes(self, *states: str) -> dict[str, Any]:
        """Until the recipes lid, base and small are in these states."""
        found = self.line.listener.wait_for_state(lambda s: tuple(r["state"] for r in s["recipes"].values()) == states)
        return dict(found)

    def changes(self) -> list[tuple[str, str, str]]:
        found = [json.loads(text) for text in self.ask("changes", "--json").splitlines()]
        return [(c["old"], c["new"], c["who"]) for c in found if c["kind"] == "recipe"]


@pytest.fixture
def station(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    return Station(line, tmp_path_factory.mktemp("c"))


def as_named(recipe: str) -> tuple[str, str, float, str]:
    return (recipe, *RECIPES[recipe])


def test_a_switch_under_full_rate_loses_no_part(station: Station) -> None:
    """Every part has one verdict, and was judged by the bundle, region and threshold of the recipe that it names.

    Triggered parts are captured only when the next recipe is in force already.
    """
    daemon = station.start()
    station.wait_for_recipes("in_force", "warm", "warm")
    asked: dict[str, str] = {}
    settings: dict[str, set[str]] = {name: set() for name in RECIPES}
    with station.client() as client:
        for i, name in zip(range(24), itertools.cycle(["base", "small", "base", "lid"]), strict=False):
            early = client.trigger("called", part_id=f"{i}-early", recipe=name)["part_id"]
            done = client.recipe(name, who="plc")
            assert (done["recipe"], done["engine"]["name"], done["cameras"]) == (name, RECIPES[name][0], [])
            settings[name].add(done["settings"])
            for k in range(3):
                part = client.trigger("called", part_id=f"{i}-{k}", recipe=name if k else None)["part_id"]
                asked[part] = asked[early] = name
            if i <= len(RECIPES):  # once, each recipe lasts until the other camera has had a part in it
                wait_until(functools.partial(_judged_free, station, name), "a part of the other camera is judged")
        wait_until(lambda: _seen(station, asked), "every trigger has its verdict")
    assert daemon.terminate() == 0
    station.line.listener.drain()
    verdicts = station.line.listener.verdicts
    seqs = [v["seq"] for v in verdicts]
    assert seqs == list(range(1, len(seqs) + 1))
    assert {len(found) for found in settings.values()} == {1}
    assert len({one for found in settings.values() for one in found}) == len(RECIPES)
    too_early = [v for v in verdicts if v["reason"] == "recipe"]
    assert all(v["part_id"].endswith("early") for v in too_early)
    judged = [v for v in verdicts if v["reason"] not in ("shutdown", "recipe")]
    for camera in ("free", "called"):
        sequences = [v["sequence"] for v in verdicts if v["camera"] == camera]
        assert sequences == list(range(1, len(sequences) + 1))
    for v in judged:
        assert (v["recipe"], v["engine"]["name"], v["threshold"], v["outcome"]) == as_named(v["recipe"]), v
        assert {v["settings"]} == settings[v["recipe"]]
        if v["camera"] == "called":
            assert v["recipe"] == asked[v["part_id"]]
            assert v["recipe_asked"] == (None if v["part_id"].endswith("-0") else v["recipe"])
    assert {v["recipe"] for v in judged if v["camera"] == "free"} == set(RECIPES)


def _judged_free(station: Station, recipe: str) -> bool:
    station.line.listener.take()
    return any(v["camera"] == "free" and v["recipe"] == recipe and v["reason"] is None for v in station.line.listener.verdicts)


def _seen(station: Station, parts: dict[str, str]) -> bool:
    station.line.listener.take()
    return parts.keys() <= {v["part_id"] for v in station.line.listener.verdicts}


def test_a_trigger_that_asks_for_another_recipe_is_unknown(station: Station) -> None:
    """Also for a recipe that nobody knows. It switches nothing, and the verdict names both."""
    station.start()
    found = [
        json.loads(station.ask("trigger", "--camera", "called", "--recipe", name, "--wait", "--json"))
        for name in ("lid", "base", "nonsense")
    ]
    assert [(v["recipe_asked"], v["recipe"], v["outcome"], v["reason"]) for v in found] == [
        ("lid", "lid", "FAIL", None),
        ("base", "lid", "UNKNOWN", "recipe"),
        ("nonsense", "lid", "UNKNOWN", "recipe"),
    ]
    assert found[1]["detail"] == "the trigger asked for the recipe base; lid is in force"
    assert (found[1]["settings"], found[1]["score"]) == (None, None)
    assert station.inspects() == as_named("lid")


def test_a_recipe_that_is_refused_changes_nothing(station: Station) -> None:
    """An unknown name or a damaged bundle: the command says why, the line goes on, and a repaired bundle is taken."""
    model = station.store / "base" / "1" / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"\0")
    daemon = station.start()
    health = station.wait_for_recipes("in_force", "refused", "warm")["recipes"]["base"]
    assert "SHA-256" in health["error"]
    assert "SHA-256" in station.ask("status")
    assert "there is no recipe 'bases'; there are: lid, base, small" in station.refused("recipe", "bases")
    assert "recipe 'base'" in station.refused("recipe", "base")
    assert station.inspects() == as_named("lid")
    assert [e["recipe"] for e in daemon.events if e["event"] == "recipe.refused"] == ["base", "bases", "base"]
    assert "recipes.base.bundle" in run_anosegd("check", str(station.config)).stderr
    assert "recipes.base.bundle" in station.refused("reload")
    model.write_bytes(content)
    assert station.ask("recipe", "base").startswith("recipe: base is in force (before, lid), with base/1\n")
    assert station.inspects() == as_named("base")
    assert station.changes() == [("lid", "base", station.changes()[0][2])]
    assert daemon.terminate() == 0


@pytest.mark.parametrize("warm", [1, 2])
def test_no_more_engines_stay_loaded_than_configured(station: Station, warm: int) -> None:
    """The others are loaded for the switch, while the line goes on; every part is judged all the same."""
    write_bundle(station.store / "third", dataclasses.replace(tiny_draft(), product="third", score_threshold=0.35))
    station.edit("threads: 1", f"threads: 1, warm: {warm}")
    third = f"  third: {{bundle: {station.store}/third, cameras: {{free: {{{LEFT}}}, called: {{{LEFT}}}}}}}\n"
    station.edit("cameras:\n  free", f"{third}cameras:\n  free")
    daemon = station.start()
    states = ("in_force", "warm" if warm > 1 else "cold", "warm", "cold")
    station.wait_for_recipes(*states)
    with station.client() as client:
        for name in ("base", "third", "lid", "third", "base", "lid"):
            assert client.recipe(name)["recipe"] == name
            assert station.inspects()[0] == name
    state = station.line.listener.wait_for_state(lambda s: s["recipe"] == "lid")
    loaded = {r["bundle"] for r in state["recipes"].values() if r["state"] in ("in_force", "warm")}
    wait_until(lambda: _loaded(station) <= warm, f"{len(loaded)} engines are loaded")
    assert daemon.terminate() == 0
    station.line.listener.drain()
    assert {v["reason"] for v in station.line.listener.verdicts} <= {None, "shutdown"}
    assert sum(e["event"] == "engine.unloaded" for e in daemon.events) >= 4


def _loaded(station: Station) -> int:
    state = station.line.listener.wait_for_state(lambda s: True)
    return len({r["bundle"] for r in state["recipes"].values() if r["state"] in ("in_force", "warm")})


def test_the_recipe_in_force_comes_back_after_a_restart(station: Station) -> None:
    """After an orderly end and after a crash, from the first part on. A recipe that is gone gives way to the default one."""
    station.start()
    station.ask("recipe", "base", "--who", "Anna", "--why", "order 4711")
    assert station.daemon.terminate() == 0
    daemon = station.start_again()
    assert station.inspects() == as_named("base")
    with station.client() as client:
        client.recipe("small", who="plc")
    daemon.process.kill()
    daemon.wait()
    daemon = station.start_again()
    assert station.inspects() == as_named("small")
    runs = {v["run_id"]: v["recipe"] for v in reversed(station.line.listener.verdicts)}
    assert list(runs.values()) == ["small", "base", "lid"]  # the first verdict of each run
    assert station.daemon.terminate() == 0
    station.edit("  small:", "  little:")
    daemon = station.start_again()
    assert station.inspects() == as_named("lid")
    assert [(e["recipe"], e["instead"]) for e in daemon.events if e["event"] == "recipe.gone"] == [("small", "lid")]
    assert station.changes() == [("lid", "base", "Anna"), ("base", "small", "plc"), ("small", "lid", "")]
    assert daemon.terminate() == 0


def test_a_remembered_recipe_that_is_refused_keeps_the_daemon_from_starting(station: Station) -> None:
    """Otherwise parts of one product would be judged by another one's recipe."""
    station.start()
    station.ask("recipe", "base")
    assert station.daemon.terminate() == 0
    shutil.rmtree(station.store / "base")
    daemon = station.line.run(station.config)
    assert daemon.wait() in (2, 3)
    assert "base: no such bundle" in daemon.log


def test_thresholds_belong_to_the_recipe_in_which_they_were_set(station: Station) -> None:
    """Two recipes share a bundle: a threshold set in one never judges the other, also after a restart."""
    station.start()
    for name, value in (("small", "0.2"), ("lid", "0.9")):
        station.ask("recipe", name)
        station.ask("set-threshold", "free", value, "--who", "Anna", "--why", "test")
    assert station.inspects()[2] == 0.9
    station.ask("recipe", "small")
    assert station.inspects()[2] == 0.2
    assert station.daemon.terminate() == 0
    station.start_again()
    assert station.inspects()[2] == 0.2
    with station.client() as client:
        before = client.status()["settings"]
        client.set_threshold("free", None, who="Anna", why="test")
    station.line.listener.wait_for_state(lambda state: state["settings"] != before)  # `status` has the last heartbeat, so wait
    assert station.inspects() == as_named("small")
    station.ask("recipe", "lid")
    assert station.inspects()[2] == 0.9


def test_a_swap_changes_the_recipe_in_force_and_no_other_bundle(station: Station) -> None:
    """It lasts while other recipes are in force, and a rollback never brings another product's bundle."""
    write_bundle(station.store / "base", dataclasses.replace(tiny_draft(), product="base", score_threshold=0.45))
    station.edit(f"{station.store}/base", f"{station.store}/base/1")
    station.start()
    station.ask("recipe", "base")
    assert "no engine to go back to" in station.refused("rollback")
    station.ask("swap", "--bundle", str(station.store / "base" / "2"))
    assert station.inspects()[1:3] == ("base", 0.45)
    station.ask("recipe", "lid")
    assert station.inspects() == as_named("lid")
    assert "no engine to go back to" in station.refused("rollback")
    station.ask("recipe", "base")
    assert station.inspects()[1:3] == ("base", 0.45)
    state = station.line.listener.wait_for_state(lambda s: s["recipe"] == "base")
    assert "the next start uses base/1 from the configuration" in state["detail"]
    station.ask("rollback")
    assert station.inspects() == as_named("base")


def test_a_reload_leaves_the_recipe_in_force(station: Station) -> None:
    """With its new settings; a new recipe can be switched to, and one that is gone gives way to the default one."""
    daemon = station.start()
    station.ask("recipe", "small")
    run_id = station.line.listener.verdicts[-1]["run_id"]
    station.edit("score_threshold: 0.3", "score_threshold: 0.25")
    station.edit("  small:", "  big: {cameras: {free: {}, called: {}}}\n  small:")
    station.ask("reload")
    assert station.inspects() == ("small", "lid", 0.25, "PASS")
    station.ask("recipe", "big")
    assert station.inspects() == ("big", "lid", 0.5, "FAIL")
    assert station.line.listener.verdicts[-1]["run_id"] == run_id
    station.edit("  big:", "  huge:")
    station.ask("reload")
    assert station.inspects() == as_named("lid")
    assert ("big", "lid", "") in station.changes()
    assert daemon.terminate() == 0


def test_without_recipes_the_labels_of_the_cameras_stay(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An old configuration means the same: each camera has its own label, and there is nothing to switch to."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    control = f"ipc://{tmp_path_factory.mktemp('c')}/ctl"
    source = "{kind: folder, path: images, loop: true, fps: 20}"
    config = line.config(
        f"a: {{source: {source}, recipe: one}}\nb: {{source: {source}}}", more=f"control: {{endpoint: '{control}'}}"
    )
    line.run(config)
    line.listener.wait_for(lambda m: m.topic == "verdict.a")
    line.listener.wait_for(lambda m: m.topic == "verdict.b")
    assert {(v["camera"], v["recipe"]) for v in line.listener.verdicts} == {("a", "one"), ("b", "default")}
    with Client(line.endpoint, control) as client:
        state = client.status()
        assert (state["recipe"], state["recipes"]) == ("one, default", {})
        with pytest.raises(RefusedError, match="there is no recipe 'one'"):
            client.recipe("one")


def test_a_reload_may_give_the_recipe_in_force_another_bundle(station: Station) -> None:
    """The station restarts within the process, in the same recipe; a broken bundle of any recipe is refused before."""
    write_bundle(station.store / "base-2", dataclasses.replace(tiny_draft(), product="base", score_threshold=0.45))
    daemon = station.start()
    station.ask("recipe", "base")
    station.edit(f"{station.store}/base,", f"{station.store}/base-2,")
    station.edit("  small:", f"  other: {{bundle: {station.store}/bas, cameras: {{free: {{}}, called: {{}}}}}}\n  small:")
    assert "recipes.other.bundle" in station.refused("reload")
    assert station.inspects() == as_named("base")
    station.edit(f"{station.store}/bas,", f"{station.store}/base,")
    assert "inspecting with base/1" in station.ask("reload")
    station.line.listener.wait_for(lambda m: m.topic == "verdict.free" and m.header["threshold"] == 0.45)
    assert station.inspects() == ("base", "base", 0.45, "PASS")
    assert station.changes()[:1] == [("lid", "base", station.changes()[0][2])]
    assert daemon.terminate() == 0
    assert sum(e["event"] == "daemon.ready" for e in daemon.events) == 2


def test_after_a_reload_every_recipe_has_the_bundle_that_the_configuration_names(station: Station) -> None:
    """A release of a recipe that is not in force, and another bundle for the default recipe while another one is in force."""
    write_bundle(station.store / "lid-2", dataclasses.replace(tiny_draft(), product="lid", score_threshold=0.55))
    daemon = station.start()
    station.wait_for_recipes("in_force", "warm", "warm")
    write_bundle(station.store / "base", dataclasses.replace(tiny_draft(), product="base", score_threshold=0.45))
    station.ask("reload")
    station.ask("recipe", "base")
    assert station.inspects() == ("base", "base", 0.45, "PASS")
    station.edit(f"{station.store}/lid", f"{station.store}/lid-2")
    station.ask("reload")
    station.ask("recipe", "lid")
    assert station.inspects() == ("lid", "lid", 0.55, "FAIL")
    assert daemon.terminate() == 0


@pytest.mark.parametrize("requested", [False, True])
def test_the_daemon_ends_in_order_while_an_engine_is_loaded(station: Station, requested: bool) -> None:
    """A load may take minutes: the end does not wait for it, and no thread is reported as stuck."""
    if requested:
        station.edit("cameras:\n  free", "exit_when_finished: true\ncameras:\n  free")  # nothing is loaded without a request
    (station.line.folder / "recipe-loads").touch()
    daemon = station.line.run(station.config, program=(str(SUPPORT / "faulty_daemon.py"), str(station.line.folder)))
    station.line.listener.wait_for(lambda m: m.topic == "verdict.free")
    refused: list[str] = []
    with station.client() as client:

        def switch() -> None:
            with pytest.raises(RefusedError) as caught:
                client.recipe("base")
            refused.append(str(caught.value))

        if requested:
            request = threading.Thread(target=switch)
            request.start()
            time.sleep(0.5)
        assert daemon.terminate() == 0
        if requested:
            request.join()
    assert "daemon.stuck" not in [e["event"] for e in daemon.events]
    assert daemon.events[-1]["event"] == "daemon.stopped"
    assert all("the daemon is ending" in text for text in refused)


def test_a_run_that_ends_with_its_files_loads_no_engine_without_a_request(station: Station) -> None:
    """It would often end before the engine is loaded. A recipe is loaded when it is requested."""
    station.edit("cameras:\n  free", "exit_when_finished: true\ncameras:\n  free")
    daemon = station.start()
    station.line.listener.wait_for_verdicts(40)
    station.wait_for_recipes("in_force", "waiting", "warm")
    station.ask("recipe", "base")
    assert station.inspects() == as_named("base")
    assert daemon.terminate() == 0
    assert [e["event"] for e in daemon.events].count("engine.loaded") == 2
    assert "recipe.tested" not in [e["event"] for e in daemon.events]
