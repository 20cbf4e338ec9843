"""`anosegd keygen` writes and refuses the right files, and no message shows a secret."""

import json
import os
import stat
from pathlib import Path

import pytest
from support.anosegd_line import run_anosegd

from anoseg_engines.errors import ConfigError
from anosegd.client import Key, KeyFileError
from anosegd.keys.files import ClientKey, StationKey, new_client_key, new_station_key, read_key


def make(folder: Path, *more: str, name: str = "screen") -> str:
    (folder / "clients").mkdir(mode=0o755, exist_ok=True)
    if not (folder / "station.key").exists():
        assert run_anosegd("keygen", "station", str(folder / "station.key")).returncode == 0
    where = ("--station", folder / "station.key", "--clients", folder / "clients", "--out", folder / f"{name}.key")
    done = run_anosegd("keygen", "client", name, *map(str, where), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_secret_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    said = make(tmp_path, "--control", "--expires", "2099-12-31")
    secrets = [json.loads((tmp_path / name).read_text())["secret"] for name in ("station.key", "screen.key")]
    for name in ("station.key", "screen.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    authorised = (tmp_path / "clients" / "screen.pub").read_text()
    assert json.loads(authorised).items() >= {"name": "screen", "control": True, "expires": "2099-12-31"}.items()
    assert not any(secret in said + authorised for secret in secrets)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clients", "screen.key", "station.key"]


def test_the_daemons_user_can_read_an_authorisation_whatever_the_umask(tmp_path: Path) -> None:
    """Root of a hardened machine, whose umask is 077, makes the key and the folder."""
    station, clients, out = tmp_path / "station.key", tmp_path / "keys" / "clients", tmp_path / "screen.key"
    assert run_anosegd("keygen", "station", str(station)).returncode == 0
    before = os.umask(0o077)
    try:
        where = ("--station", station, "--clients", clients, "--out", out)
        done = run_anosegd("keygen", "client", "screen", *map(str, where))
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (clients.parent, clients, clients / "screen.pub", out)]
    assert modes == [0o755, 0o755, 0o644, 0o600]


def test_keys_are_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path)
    before = (tmp_path / "station.key").read_bytes(), (tmp_path / "screen.key").read_bytes()
    done = run_anosegd("keygen", "station", str(tmp_path / "station.key"))
    assert (done.returncode, "exists, and keys are not overwritten" in done.stderr) == (2, True)
    where = ("--station", tmp_path / "station.key", "--clients", tmp_path / "clients", "--out", tmp_path / "screen.key")
    assert run_anosegd("keygen", "client", "screen", *map(str, where)).returncode == 2
    assert before == ((tmp_path / "station.key").read_bytes(), (tmp_path / "screen.key").read_bytes())
    assert [path.name for path in (tmp_path / "clients").iterdir()] == ["screen.pub"]  # none for the key that was not written


def test_a_second_key_of_a_client_leaves_the_first_one_valid(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "screen.key").rename(tmp_path / "old.key")
    make(tmp_path)
    keys = [read_key(path, ClientKey) for path in sorted((tmp_path / "clients").iterdir())]
    assert {key.name for key in keys} == {"screen"}
    assert {key.public for key in keys} == {Key.read(tmp_path / name).public for name in ("old.key", "screen.key")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("client", "../evil", "--station", "s", "--clients", "c", "--out", "o"), "1 to 64 letters"),
        (("client", "a", "--station", "s", "--clients", "c", "--out", "o", "--expires", "2020-01-01"), "has passed"),
        (("client", "a", "--station", "s", "--clients", "c", "--out", "o", "--expires", "soon"), "write it as 2027-11-30"),
        (("client", "a", "--station", "s", "--clients", "c", "--out", "o"), "s: cannot be read"),
    ],
)
def test_bad_input_is_refused_in_plain_words(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run_anosegd("keygen", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    make(tmp_path)
    for name in ("station.key", "screen.key"):
        (tmp_path / name).chmod(mode)
    with pytest.raises(ConfigError, match="other users may read or change this secret key"):
        read_key(tmp_path / "station.key", StationKey)
    with pytest.raises(KeyFileError, match="other users may read or change this secret key"):
        Key.read(tmp_path / "screen.key")


def test_no_message_shows_a_secret(tmp_path: Path) -> None:
    make(tmp_path)
    station, client = new_station_key(), new_client_key("x", "a" * 40, control=False, expires=None)[0]
    key = Key.read(tmp_path / "screen.key")
    assert not any(pair.secret in repr(pair) + str(pair) for pair in (station, client, key))
    for name, kind in (("station.key", ClientKey), ("screen.key", StationKey)):  # the wrong way round
        (tmp_path / "clients" / name).write_bytes((tmp_path / name).read_bytes())
        (tmp_path / "clients" / name).chmod(0o600)
        with pytest.raises(ConfigError) as refused:
            read_key(tmp_path / "clients" / name, kind)
        assert json.loads((tmp_path / name).read_text())["secret"] not in str(refused.value)
        assert refused.value.__cause__ is None
    with pytest.raises(KeyFileError) as unusable:
        Key.read(tmp_path / "station.key")
    assert json.loads((tmp_path / "station.key").read_text())["secret"] not in str(unusable.value)
