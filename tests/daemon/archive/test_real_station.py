"""A real station with cameras, engine and keys, and an archive with its key."""

from collections.abc import Callable
from pathlib import Path

import cv2
from support.anosegd_line import Line, run_anosegd, wait_until
from support.bridge_process import free_port
from support.tiny_bundle import bad_part, good_part
from support.verdict_archive import Archive, Database

from anosegd.client import Client, Key

PARTS = 20


def test_a_station_with_keys(line: Line, make_archive: Callable[..., Archive], database: Database, tmp_path: Path) -> None:
    """The key of an archive need not be marked for control; the station notes how far it is. A foreign key hears nothing."""
    folder = line.folder
    for name in ("", "other-"):
        (folder / f"{name}clients").mkdir(mode=0o755)
        assert run_anosegd("keygen", "station", str(folder / f"{name}station.key")).returncode == 0
        where = ("--station", folder / f"{name}station.key", "--clients", folder / f"{name}clients")
        arguments = ("keygen", "client", "plant-archive", *where, "--out", folder / f"{name}archive.key")
        assert run_anosegd(*map(str, arguments)).returncode == 0
    (folder / "parts").mkdir()
    for n in range(PARTS):
        cv2.imwrite(str(folder / "parts" / f"{n:02}.png"), bad_part() if n % 4 == 0 else good_part())
    control = f"tcp://127.0.0.1:{free_port()}"
    config = line.config(
        "eye: {source: {kind: folder, path: parts}, policy: wait}",
        more=f"control: {{endpoint: '{control}'}}\njournal: {{path: verdicts.db}}\n"
        "keys: {station: station.key, clients: clients}",
    )
    line.run(config)
    right, wrong = (f"{control}', key: '{folder}/{name}archive.key" for name in ("", "other-"))
    archive = make_archive(**{"press-4": right})
    database.wait_for_verdicts(PARTS)
    key = Key.read(folder / "archive.key")
    with Client(control=control, key=key) as client:
        wait_until(lambda: client.request("consumer", name="plant-archive")["cursor"] == PARTS, "acknowledged")
        published = {(v["journal_id"], v["seq"]): dict(v) for v in client.replay(1)}
    assert database.verdicts() == published
    assert archive.terminate() == 0
    foreign = make_archive(**{"press-9": wrong}, more="silent_after_s: 3")
    foreign.wait_for("archive.alarm", kind="silent", station="press-9")
    assert "refuses the key plant-archive" in foreign.log
    assert foreign.terminate() == 0
