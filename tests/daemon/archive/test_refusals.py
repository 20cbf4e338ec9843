"""A database that cannot be used is named, with what to do; no password is ever shown."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.anosegd_line import run_anosegd
from support.bridge_process import free_port
from support.postgres import FAST, Postgres, running
from support.small_disk import fill, mounted
from support.verdict_archive import Archive, Database, JournalStation

from anosegd.archive import schema
from anosegd.archive.database import Database as Place
from anosegd.archive.database import connect

SECRET = "hunter2secret"


def archive_of(tmp_path: Path, database: str, more: str = "", *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on a station that is down."""
    config = tmp_path / "a.yaml"
    config.write_text(f"database: '{database}'\nstations: {{press-4: {{control: 'ipc://{tmp_path}/none'}}}}\n{more}\n")
    done = run_anosegd("archive", str(config), *arguments)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def guarded(server: Postgres) -> Postgres:
    """The cluster, with a user who needs a password, and one who may make nothing."""
    hba = server.data / "pg_hba.conf"
    hba.write_text(f"local all locked scram-sha-256\n{hba.read_text()}")
    server.query(f"CREATE ROLE locked LOGIN PASSWORD '{SECRET}'")
    server.query("CREATE ROLE guest LOGIN")
    server.query("SELECT pg_reload_conf()")
    return server


def conninfo(server: Postgres, user: str, database: str, more: str = "") -> str:
    return f"host={server.folder} user={user} dbname={database} {more}".strip()


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_a_server_that_refuses(guarded: Postgres, database: Database, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A wrong or missing password, an unknown database and a missing right end with exit code 2, run and dry run alike."""
    for user, name, more, said in (
        ("locked", database.name, f"password={SECRET}x", "password authentication failed"),
        ("locked", database.name, "", "no password supplied"),
        ("postgres", "no_such_database", "", "no_such_database"),
        ("nobody_here", database.name, "", "nobody_here"),
        ("guest", database.name, "", "permission denied"),
    ):
        done = archive_of(tmp_path, conninfo(guarded, user, name, more), "", *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr


def test_the_password_comes_from_a_file(guarded: Postgres, database: Database, tmp_path: Path) -> None:
    """The file's first line opens the database; a file that others may read is refused."""
    database.query(f"GRANT CREATE ON DATABASE {database.name} TO locked")
    password = tmp_path / "password"
    password.write_text(f"{SECRET}\n")
    password.chmod(0o644)
    where = conninfo(guarded, "locked", database.name)
    done = archive_of(tmp_path, where, "password_file: password", "--dry-run")
    assert (done.returncode, "chmod 600" in done.stderr) == (2, True)
    password.chmod(0o600)
    done = archive_of(tmp_path, where, "password_file: password", "--dry-run")
    assert "would be created" in done.stdout, done.stderr


def test_a_string_that_is_no_connection_string(tmp_path: Path) -> None:
    """It may contain a password: the message does not quote it."""
    done = archive_of(tmp_path, f"host=a passwort={SECRET}")
    assert done.returncode == 2
    assert "database: not a connection string" in done.stderr


@pytest.mark.parametrize("password", [f"x@{SECRET}", f"x/{SECRET}"])
def test_an_address_with_a_password_that_is_not_escaped(tmp_path: Path, password: str) -> None:
    """The rest of the password would pass for the name of a machine or a database, and would be shown."""
    done = archive_of(tmp_path, f"postgresql://me:{password}@db.invalid/plant", "", "--dry-run")
    assert (done.returncode, "%40" in done.stderr) == (2, True), done.stderr


def test_a_server_that_cannot_prove_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `sslmode=verify-full`, a server with the right certificate is used; one with another, or with none, is refused."""
    tls = pytest.importorskip("anosegd.view.tls")
    port = str(free_port())
    monkeypatch.setenv("PGPORT", port)
    server = Postgres(*FAST, "listen_addresses=127.0.0.1", f"port={port}")
    try:
        for name in ("server", "other"):
            tls.own_certificate(server.folder / name, ["localhost"])
            os.chown(server.folder / name, server.folder.stat().st_uid, -1)
        where = "host=localhost hostaddr=127.0.0.1 user=postgres dbname=postgres sslmode=verify-full sslrootcert="
        server.start()
        done = archive_of(tmp_path, f"{where}{server.folder}/server", "", "--dry-run")
        assert (done.returncode, "does not support SSL" in done.stderr) == (2, True), done.stderr
        server.stop()
        server.settings += ["ssl=on", *(f"ssl_{part}_file={server.folder}/server" for part in ("cert", "key"))]
        server.start()
        done = archive_of(tmp_path, f"{where}{server.folder}/server", "", "--dry-run")
        assert "would be created" in done.stdout, done.stderr
        for root, said in (("other", "certificate verify failed"), ("none", "root certificate file")):
            done = archive_of(tmp_path, f"{where}{server.folder}/{root}", "", "--dry-run")
            assert (done.returncode, said in done.stderr, "sslrootcert" in done.stderr) == (2, True, True), done.stderr
    finally:
        server.close()


def test_a_dry_run_finds_missing_rights(guarded: Postgres, database: Database, tmp_path: Path) -> None:
    """The tables are there, but this user may only read them, or not even enter the schema."""
    with connect(Place({"conninfo": database.conninfo}, "anoseg", "here")) as connection:
        schema.migrate(connection, Place({}, "anoseg", "here"))
    where = conninfo(guarded, "guest", database.name)
    done = archive_of(tmp_path, where, "", "--dry-run")
    assert (done.returncode, "permission denied" in done.stderr) == (2, True), done.stderr
    database.query("GRANT USAGE ON SCHEMA anoseg TO guest")
    database.query("GRANT SELECT ON ALL TABLES IN SCHEMA anoseg TO guest")
    done = archive_of(tmp_path, where, "", "--dry-run")
    assert (done.returncode, "may not write into anoseg" in done.stderr) == (2, True), done.stderr
    database.query("GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA anoseg TO guest")
    assert archive_of(tmp_path, where, "", "--dry-run").returncode == 1  # the station does not answer
    assert archive_of(tmp_path, where, "keep_days: 5", "--dry-run").returncode == 2


def test_nobody_answers(tmp_path: Path) -> None:
    """A dry run of an unreachable database ends with exit code 1 and names the place."""
    done = archive_of(tmp_path, "host=127.0.0.1 port=9 dbname=plant user=me", "", "--dry-run")
    assert done.returncode == 1
    assert "database plant at 127.0.0.1 port 9 as me" in done.stderr


def test_a_silent_station(database: Database, tmp_path: Path) -> None:
    """A dry run names the station that does not answer, and ends with exit code 1."""
    done = archive_of(tmp_path, database.conninfo, "", "--dry-run")
    assert done.returncode == 1
    assert "station press-4" in done.stdout
    assert "no answer" in done.stdout


def test_a_wrong_key_file(database: Database, tmp_path: Path) -> None:
    """A file that is no client's key is refused with the station's name."""
    (tmp_path / "press-4.key").write_text(SECRET)
    (tmp_path / "press-4.key").chmod(0o600)
    config = tmp_path / "b.yaml"
    config.write_text(f"database: '{database.conninfo}'\nstations: {{press-4: {{key: press-4.key}}}}\n")
    done = run_anosegd("archive", str(config), "--dry-run")
    assert done.returncode == 2
    assert "stations.press-4" in done.stderr
    assert SECRET not in done.stderr


def test_tables_that_are_not_ours(database: Database, tmp_path: Path) -> None:
    """A newer schema, and a schema with other tables, are left alone."""
    database.query("CREATE SCHEMA other")
    database.query("CREATE TABLE other.thing (a int)")
    done = archive_of(tmp_path, database.conninfo, "schema: other")
    assert (done.returncode, "not the archive's" in done.stderr) == (2, True)
    database.query("CREATE SCHEMA anoseg")
    database.query("CREATE TABLE anoseg.schema_version (only_row boolean PRIMARY KEY, version int)")
    database.query("INSERT INTO anoseg.schema_version VALUES (true, 999)")
    done = archive_of(tmp_path, database.conninfo)
    assert done.returncode == 2
    assert "version 999" in done.stderr
    assert "update anoseg-edge" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_an_unknown_time_zone(database: Database, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Only the database knows its time zones."""
    done = archive_of(tmp_path, database.conninfo, "time_zone: Europe/Nowhere", *arguments)
    assert (done.returncode, "Europe/Nowhere" in done.stderr) == (2, True)


def test_a_dry_run_changes_nothing(make_station: Callable[..., JournalStation], database: Database, tmp_path: Path) -> None:
    """It says what would be made and fetched; there is no schema afterwards, and the station knows no consumer."""
    station = make_station("press-4", 40)
    station.wait_until_stored(40)
    config = tmp_path / "a.yaml"
    config.write_text(f"database: '{database.conninfo}'\nstations: {{press-4: {{control: '{station.control}'}}}}\n")
    done = run_anosegd("archive", str(config), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "001_tables.sql" in done.stdout
    assert "would begin, 40 numbers to fetch" in done.stdout
    assert database.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'anoseg'") == [(0,)]


def test_the_archive_waits_for_its_database(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive]
) -> None:
    """It starts without one and says so once for each reason. When the database comes, it goes on."""
    server = Postgres(*FAST)
    try:
        station = make_station("press-4", 50)
        archive = make_archive(station, conninfo=f"host={server.folder} user=postgres dbname=postgres")
        archive.wait_for("archive.database_away")
        server.start()
        database = Database(server, "postgres", create=False)
        database.wait_for_verdicts(50)
        assert archive.terminate() == 0
        said = [line["error"] for line in archive.events if line["event"] == "archive.database_away"]
        assert len(said) == len({*said})
    finally:
        server.close()


def test_a_full_disk_is_waited_for(
    make_station: Callable[..., JournalStation], make_archive: Callable[..., Archive], tmp_path: Path
) -> None:
    """The database's disk is full: the archive says so and waits. With room again, every verdict is there."""
    with running(*FAST) as server, mounted(server.folder / "small", "24m") as disk:
        owner = server.data.stat()
        place = disk / "space"
        place.mkdir()
        os.chown(place, owner.st_uid, owner.st_gid)
        server.query(f"CREATE TABLESPACE small LOCATION '{place}'")
        database = Database(server, "plant")
        database.query("ALTER DATABASE plant SET default_tablespace TO small")
        station = make_station("press-4", 3000, rate=300)
        archive = make_archive(station, conninfo=database.conninfo)
        database.wait_for_verdicts(200)
        filler = fill(disk)
        archive.wait_for("archive.database_away")
        assert any("the disk of the database is full" in line.get("hint", "") for line in archive.events)
        filler.unlink()
        database.wait_for_verdicts(3000)
        assert archive.terminate() == 0
        assert len(database.verdicts()) == 3000
        server.stop()  # it holds the disk
