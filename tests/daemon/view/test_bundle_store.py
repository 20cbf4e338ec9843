"""Bundles from the screen: versions, candidates, release, swap and rollback, with the real daemon."""

import asyncio
import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from support.anosegd_line import Line
from support.tiny_bundle import tiny_draft
from support.view_server import Answer, ViewServer

from anoseg_engines.bundle import releases
from anoseg_engines.bundle_writer import write_bundle
from anosegd.client import Client
from anosegd.view.bundle_store import BundleStore, VersionNumber
from anosegd.view.change import ChangeRefusedError
from anosegd.view.station_requests import StationRequests

CAMERAS = "top: {source: {kind: demo, fps: 4}, policy: every}"


def change(view: ViewServer, name: str, values: dict[str, Any]) -> Answer:
    return view.post(f"/changes/{name}", {"who": "Anna", "values": values})


def test_release_swap_and_rollback(line: Line, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The page's changes release a version, swap to it and go back; who asked is on record; an unknown version is refused."""
    store = tmp_path_factory.mktemp("store") / "tiny"
    write_bundle(store, tiny_draft())
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.4))
    control = line.endpoint.replace("pub", "control")
    more = f"control: {{endpoint: '{control}'}}\njournal: {{path: '{tmp_path}/v.db'}}"
    config = line.config(CAMERAS, more=more, store=store / "1")
    line.run(config)
    line.listener.wait_for_verdicts(1)
    view = ViewServer(tmp_path, str(config))
    try:
        assert view.get("/bundles.json?recipe=added").json()["error"] == "no_recipe"  # the station's configuration has changed
        in_force = line.listener.wait_for_state(lambda state: True)["recipe"]
        listed = view.get(f"/bundles.json?recipe={in_force}").json()
        assert listed == view.get("/bundles.json").json()
        assert [one["version"] for one in listed["versions"]] == [1, 2]
        released = change(view, "release", {"version": 2})
        assert (released.status, released.json()["answer"]["version"]) == (200, 2)
        assert json.loads((store / "releases.json").read_text())["releases"][-1]["by"] == "Anna"
        assert view.get("/bundles.json").json()["current"] == 2
        swapped = change(view, "swap", {"version": 2, "why": "trial"})
        assert (swapped.status, swapped.json()["answer"]["engine"]["version"]) == (200, 2)
        state = line.listener.wait_for_state(lambda state: state["rollback_to"] is not None)
        assert state["rollback_to"] == "tiny/1"
        assert change(view, "rollback", {}).json()["answer"]["engine"]["version"] == 1
        assert change(view, "swap", {"version": 7}).status == 409
        assert change(view, "release", {"version": "../2"}).status == 400
        with Client(line.endpoint, control) as client:
            assert [(c["kind"], c["who"], c["why"]) for c in client.changes()] == [
                ("swap", "Anna", "trial"),
                ("rollback", "Anna", ""),
            ]
    finally:
        view.close()


def test_the_versions_are_those_of_the_recipe_in_force(
    line: Line, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The page lists the store of the recipe's bundle, and a swap and a release take a version from there."""
    folder = tmp_path_factory.mktemp("store")
    base, other = folder / "base", folder / "other"
    write_bundle(base, tiny_draft())
    for threshold in (0.5, 0.4, 0.3):
        write_bundle(other, dataclasses.replace(tiny_draft(), score_threshold=threshold))
    control = line.endpoint.replace("pub", "control")
    more = (
        f"control: {{endpoint: '{control}'}}\njournal: {{path: '{tmp_path}/v.db'}}\n"
        f"recipes: {{lid: {{bundle: '{other}/1', cameras: {{top: {{}}}}}}}}"
    )
    config = line.config(CAMERAS.replace("{source", "{recipe: base, source", 1), more=more, store=base)
    line.run(config)
    line.listener.wait_for_verdicts(1)
    view = ViewServer(tmp_path, str(config))
    try:
        assert [one["version"] for one in view.get("/bundles.json?recipe=base").json()["versions"]] == [1]
        with Client(line.endpoint, control) as client:
            stream = view.stream()
            client.recipe("lid")
        while stream.wait_for("state").data["state"]["recipe"] != "lid":  # the screen must have heard of it
            pass
        stream.close()
        listed = view.get("/bundles.json?recipe=lid").json()
        assert (listed["folder"], [one["version"] for one in listed["versions"]]) == (str(other), [1, 2, 3])
        assert change(view, "swap", {"version": 3, "recipe": "lid"}).json()["answer"]["engine"]["version"] == 3
        line.listener.wait_for_state(lambda state: state["recipe"] == "lid")
        meanwhile = change(view, "swap", {"version": 1, "recipe": "base"})  # confirmed after the recipe had changed
        assert (meanwhile.status, meanwhile.json()["error"]) == (409, "recipe_changed")
        assert change(view, "release", {"version": 2, "recipe": "lid"}).json()["answer"]["version"] == 2
        assert json.loads((other / "releases.json").read_text())["releases"][-1]["version"] == 2
        assert view.get("/bundles.json?recipe=gone").json()["error"] == "no_recipe"
    finally:
        view.close()


def test_a_store_that_the_screen_may_not_write_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that the file system refuses, as under systemd, tells the person which command to run instead."""
    store = tmp_path / "tiny"
    write_bundle(store, tiny_draft())
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.4))

    def refuse(path: Path, *_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(releases, "_locked", refuse)  # root may write everywhere, so a mode proves nothing
    release = next(one for one in BundleStore({"": store / "1"}, lambda: None).changes if one.name == "release")
    requests = StationRequests("ipc:///unused", None)
    try:
        with pytest.raises(ChangeRefusedError, match=f"Read-only file system.*anoseg-engine release {store}/2$"):
            asyncio.run(release.make(requests, "Anna", VersionNumber(2)))
    finally:
        requests.stop()
