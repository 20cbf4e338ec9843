"""A recipe with another exposure opens the camera again: with a fake GigE Vision camera that has the real protocol."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stress.real_cameras import GigE
from support.anosegd_line import Line

from anosegd.client import Client

pytestmark = pytest.mark.skipif(bool(reason := GigE.missing()), reason=reason)


@pytest.fixture
def camera() -> Iterator[GigE]:
    """The camera, when no other test run on this machine uses one: each answers at the same port."""
    with (Path(tempfile.gettempdir()) / f"anoseg-gige-camera-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = GigE()
        found.start()
        try:
            yield found
        finally:
            found.stop()


def test_no_part_passes_while_the_camera_is_opened_again(
    line: Line, camera: GigE, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Triggers meanwhile are answered as UNKNOWN, and every later part has the recipe's exposure and name."""
    control = f"ipc://{tmp_path_factory.mktemp('c')}/ctl"
    source = camera.source.replace("RGB8", "Mono8").replace("}", ", exposure_us: 20000}")
    config = line.config(
        f"eye: {{source: {source}, policy: every, queue: 16, repeats: allowed, recipe: light,\n"
        "  trigger: {kind: software, within_ms: 1000}}",
        more=f"control: {{endpoint: '{control}'}}\nrecipes:\n"
        "  dark: {cameras: {eye: {source: {exposure_us: 1000}}}}\n"
        "  light-too: {cameras: {eye: {}}}\n",
    )
    daemon = line.run(config)
    line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "running")
    triggered = []
    with Client(line.endpoint, control, request_timeout_s=60) as client:

        def trigger(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                triggered.append(client.trigger("eye")["part_id"])
                time.sleep(0.1)

        trigger(1.0)
        assert client.recipe("light-too")["cameras"] == []
        trigger(0.3)
        assert client.recipe("dark")["cameras"] == ["eye"]
        switched = len(triggered)
        trigger(0.5)
        line.listener.wait_for_state(lambda s: s["recipe"] == "dark" and s["cameras"]["eye"]["state"] == "running")
        trigger(1.5)
        while len(line.listener.verdicts) < len(triggered):
            line.listener.wait_for(lambda m: m.topic == "verdict.eye")
    verdicts = {v["part_id"]: v for v in line.listener.verdicts}
    assert list(verdicts) == triggered
    found = [verdicts[part] for part in triggered]
    assert {v["recipe"] for v in found[switched:]} == {"dark"}
    assert {v["recipe"] for v in found[:switched]} == {"light", "light-too"}
    lost = [v for v in found if v["reason"] is not None]
    assert {v["reason"] for v in lost} == {"camera_lost"}
    assert found[switched] in lost
    # With the recipe's exposure this camera's picture is black all over, which is one defect. Otherwise it has stripes.
    one_defect = {(v["recipe"], len(v["defects"]) == 1) for v in found if v["reason"] is None}
    assert one_defect == {("light", False), ("light-too", False), ("dark", True)}
    assert [e["event"] for e in daemon.events].count("camera.running") == 2
    assert daemon.terminate() == 0
