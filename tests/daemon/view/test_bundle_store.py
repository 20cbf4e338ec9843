"""Bundles from the screen: versions, candidates, release, swap and rollback, with the real daemon."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.anosegd_line import Line
from support.tiny_bundle import tiny_draft
from support.view_server import Answer, ViewServer

from anoseg_engines.bundle_writer import write_bundle
from anosegd.client import Client

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
        listed = view.get("/bundles.json").json()
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
