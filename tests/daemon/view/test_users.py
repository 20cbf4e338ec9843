"""The file of users, and the commands that change it."""

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.anosegd_line import run_anosegd

from anoseg_engines.errors import ConfigError
from anosegd.view.users import add_user, load_users, revoke_user, user_of, users_beside

TOKEN = re.compile(r"([a-z2-9]{4}-){7}[a-z2-9]{4}")


def test_commands_make_and_remove_users(tmp_path: Path) -> None:
    """`add` prints the token once, `list` shows names and roles, `revoke` removes; the file lies beside the configuration."""
    config = tmp_path / "line.yaml"
    done = run_anosegd("user", "add", str(config), "ada", "--role", "change")
    token = done.stdout.strip()
    assert done.returncode == 0
    assert TOKEN.fullmatch(token)
    path = users_beside(config)
    assert path == tmp_path / "line.users.json"
    assert run_anosegd("user", "add", str(config), "eve", "--role", "see", "--days", "3").returncode == 0
    assert run_anosegd("user", "add", str(config), "max", "--role", "see", "--days", "4000000").returncode == 2
    listed = run_anosegd("user", "list", "--users", str(path)).stdout
    assert re.search(r"ada +change", listed)
    assert re.search(r"eve +see", listed)
    again = run_anosegd("user", "add", str(config), "ada", "--role", "see")
    assert again.returncode == 2
    assert "there is a user ada already" in again.stderr
    assert run_anosegd("user", "revoke", str(config), "ada").returncode == 0
    assert [user.name for user in load_users(path)] == ["eve"]
    gone = run_anosegd("user", "revoke", str(config), "ada")
    assert (gone.returncode, "there is no user ada" in gone.stderr) == (2, True)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]  # nothing half-written is left


def test_file_keeps_no_token(tmp_path: Path) -> None:
    """The file has mode 0600 from its first moment, whatever the umask, and holds neither a token nor a part that opens."""
    path = tmp_path / "users.json"
    before = os.umask(0)
    try:
        token = add_user(path, "ada", "mark")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert token not in text
    assert token.replace("-", "")[4:] not in text
    assert all(group not in text for group in token.split("-")[1:])
    users = load_users(path)
    user = user_of(token, users, 0.0)
    assert user is not None
    assert (user.name, user.role) == ("ada", "mark")
    assert user_of(token.upper().replace("-", " "), users, 0.0) is not None  # typed from a sheet of paper


def test_only_the_token_opens(tmp_path: Path) -> None:
    """Wrong, cut, expired and revoked tokens are nobody's."""
    path = tmp_path / "users.json"
    token = add_user(path, "ada", "see", expires_s=1000)
    other = add_user(path, "eve", "change")
    users = load_users(path)
    assert user_of(token, users, 999.9) is not None
    assert user_of(token, users, 1000.0) is None
    letters = token.replace("-", "")
    last = "a" if letters[-1] != "a" else "b"
    mixed = letters[:4] + other.replace("-", "")[4:]
    for wrong in (
        "",
        "x",
        letters[:4],
        letters[:-1],
        letters[:-1] + last,
        letters + "a",
        mixed,
        "é" * 32,
        "\ud800" * 32,
        "a" * 10**6,
    ):
        assert user_of(wrong, users, 0.0) is None, wrong[:40]
    revoke_user(path, "ada")
    assert user_of(token, load_users(path), 0.0) is None
    new = add_user(path, "ada", "see")
    assert user_of(token, load_users(path), 0.0) is None
    assert user_of(new, load_users(path), 0.0) is not None


def test_users_added_at_once_are_all_kept(tmp_path: Path) -> None:
    """Two programs that add users at the same time do not undo each other."""
    path = tmp_path / "users.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add_user(path, f"user {n}", "see"), range(24)))
    assert len({user.name for user in load_users(path)}) == 24


@pytest.mark.parametrize("name", ["", " ada", "ada ", "a\nb", "../x", "\x1b[2J", "a" * 65, "-a", "<b>"])
def test_bad_names_are_refused(name: str, tmp_path: Path) -> None:
    """A name is letters, digits and a few signs: it goes into the journal and onto pages."""
    with pytest.raises(ConfigError, match="cannot be a user's name"):
        add_user(tmp_path / "users.json", name, "see")
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused(tmp_path: Path) -> None:
    """Each error names the file and what is wrong; none quotes a hash."""
    path = tmp_path / "users.json"
    with pytest.raises(ConfigError, match="there are no users yet"):
        load_users(path)
    add_user(path, "ada", "see")
    good = json.loads(path.read_text())
    user = good["users"][0]
    for mode in (0o640, 0o604, 0o660, 0o644):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"others may use this file .mode {mode:04o}"):
            load_users(path)
    path.chmod(0o600)
    bad = (
        "",
        "[]",
        "{",
        "\0" * 100,
        "[" * 100_000,
        json.dumps({**good, "format": 2}),
        json.dumps({**good, "users": [user, user]}),
        json.dumps({**good, "users": [{**user, "role": "root"}]}),
        json.dumps({**good, "users": [{**user, "name": "a\nb"}]}),
        json.dumps({**good, "users": [{**user, "salt": "?"}]}),
        json.dumps({**good, "users": [{**user, "more": 1}]}),
        json.dumps({**good, "users": [{key: value for key, value in user.items() if key != "hash"}]}),
    )
    for content in bad:
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"users\.json: is not a file of users") as refused:
            load_users(path)
        assert user["hash"] not in str(refused.value)
        with pytest.raises(ConfigError):
            add_user(path, "eve", "see")
        assert path.read_text() == content  # never replaced by something new
