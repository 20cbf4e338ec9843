"""What `anosegd status` prints, and the hints of commands whose station is down."""

import re
from pathlib import Path

import pytest
from rich.console import Console
from support.anosegd_line import run_anosegd

from anosegd import wire
from anosegd.commands.status import _table

CONFIG = """
engine: {{bundle: no-bundle}}
publish: {{endpoint: 'ipc://{folder}/pub'}}
control: {{endpoint: 'ipc://{folder}/ctl'}}
cameras: {{top: {{source: {{kind: device, device: 0}}}}}}
"""


@pytest.mark.parametrize("camera", ["top", "press-4-station-side-left"])
def test_tables_keep_whole_names_at_80_columns(camera: str) -> None:
    """Every heading and the camera's name can be read, with numbers of a long life; a long name goes on in the next line."""
    stored = wire.Stored(passed=123456, failed=1234, unknown=12)
    health = wire.CameraHealth(state="running", source="device", frames=1234567, dropped=12345, restarts=7, stored=stored)
    engine = wire.EngineName(name="part", version=3, digest="a" * 64, runtime="cpu")
    state = wire.State(
        station="press-4", journal_id="j", run_id="r", version="1", at="2026-11-28T06:00:00.000000Z",
        state="ContinuousExecution", uptime_s=60.0, last_seq=7, counts=wire.Counts(passed=5), masks_dropped=0, engine=engine,
        journal=wire.JournalHealth(
            working=True, first_kept=1, last_committed=7, since="2026-11-22T06:00:00.000000Z", stored=stored, size_mb=1.0,
            waiting=0, failures=0,
        ),
        cameras={camera: health},
    )  # fmt: skip
    with Path("/dev/null").open("w") as nowhere:
        console = Console(width=80, record=True, file=nowhere)
        console.print(_table(state, {}))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    for name in ("camera", "state", "PASS", "FAIL", "UNKNOWN", "frames", "dropped", "repeated", "overruns", "restarts"):
        assert re.search(rf"\b{name}\b", text), name
    assert "…" not in text
    if len(camera) < 10:
        assert camera in text
    assert "in the journal 124702: 123456 PASS, 1234 FAIL, 12 UNKNOWN, since 2026-11-22" in text


def test_a_hint_fits_what_was_typed(tmp_path: Path) -> None:
    """With a configuration, it says how to start the station; without one, that one may be missing."""
    config = tmp_path / "line.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    for command in (["status", "--timeout", "0.2"], ["trigger", "--camera", "top"], ["swap", "--bundle", "x"]):
        done = run_anosegd(command[0], str(config), *command[1:])
        assert (done.returncode, f"start it: anosegd run {config}" in done.stderr) == (1, True), done.stderr
        assert "control" not in done.stderr
        addresses = ("--connect", f"ipc://{tmp_path}/pub", "--control", f"ipc://{tmp_path}/ctl")
        done = run_anosegd(command[0], *command[1:], *addresses)
        assert (done.returncode, "start it, or give the configuration that it runs with" in done.stderr) == (1, True)
    done = run_anosegd("replay", str(config))
    assert (done.returncode, "the station is down" in done.stderr) == (1, True)


def test_a_recipe_without_a_name_lists_the_names(tmp_path: Path) -> None:
    """`anosegd recipe line.yaml` must not ask a station for a recipe of the name line.yaml."""
    config = tmp_path / "line.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    done = run_anosegd("recipe", str(config))
    assert (done.returncode, f"anosegd recipe {config} NAME; there are: default" in done.stderr) == (2, True), done.stderr
