"""The archive's unit, against a PostgreSQL of the host that is in the machine's network, as docs/archive.md describes it."""

from __future__ import annotations

import json
import shlex

from stress.under_systemd.checks import demand, held, timed, wait_for
from stress.under_systemd.machine import UNIT, Machine
from support.postgres import FAST, Postgres, programs
from support.verdict_archive import Database, differences, verdicts_of

ARCHIVE = "anosegd-archive@plant"
FOLDER = "/etc/anoseg/keys"
PASSWORD = "three words with'quotes\" and \\"
PLANT = """\
database: host=127.0.0.1 dbname=anoseg user=anoseg
stations:
  press-4: {control: "tcp://127.0.0.1:5571"}
"""


def archive(machine: Machine) -> None:
    """The archive as a service, from docs/archive.md's first line to its stop."""
    if programs() is None:
        print("-- skipped   archive: no PostgreSQL here (apt install postgresql)", flush=True)
        return
    said = machine.run(f"systemd-analyze verify {ARCHIVE}.service 2>&1")
    demand(said == "", said)
    postgres = Postgres("listen_addresses=127.0.0.1", *FAST, before=machine.beside(), host_auth="scram-sha-256")
    try:
        postgres.start()
        quoted = PASSWORD.replace("'", "''")
        postgres.query(f"CREATE ROLE anoseg LOGIN PASSWORD '{quoted}'")
        postgres.query("CREATE DATABASE anoseg OWNER anoseg")
        database = Database(postgres, "anoseg", create=False)
        _set_up(machine)
        _start(machine, database)
        _kill(machine, database)
        _database_away(machine, database)
        _reboot(machine, database)
        _show_no_secret(machine)
        _stop(machine)
        _refused(machine)
    finally:
        postgres.close()
    machine.run(f"systemctl disable {ARCHIVE} 2>&1; systemctl reset-failed {ARCHIVE}")
    machine.remove_override(ARCHIVE)


def _set_up(machine: Machine) -> None:
    """Key, password, configuration and unit; a dry run as the page shows it."""
    where = f"--station {FOLDER}/station.key --clients {FOLDER}/clients"
    machine.run(f"anosegd keygen client archive {where} --out ~/press-4.key")
    for name, text in (("database.password", PASSWORD), ("plant.yaml", PLANT)):
        machine.run(f"printf %s {shlex.quote(text)} >~/{name}")
    machine.run(f"cd ~ && mkdir -p {FOLDER} && install -m 600 database.password press-4.key {FOLDER}")
    machine.run("cd ~ && install -m 644 plant.yaml /etc/anoseg")
    said = machine.run(f"env CREDENTIALS_DIRECTORY={FOLDER} anosegd archive /etc/anoseg/plant.yaml --dry-run")
    demand("schema anoseg: would be created" in said and "station press-4 (" in said, said)
    held("archive: a dry run with the keys and the password of the unit says what would be fetched")
    credentials = (f"LoadCredential={name}:{FOLDER}/{name}" for name in ("database.password", "press-4.key"))
    machine.override(ARCHIVE, "IPAddressAllow=192.168.7.0/24", *credentials)


def _start(machine: Machine, database: Database) -> None:
    with timed("archive: systemctl enable --now, with key and password from systemd: verdicts are stored"):
        machine.run(f"systemctl enable --now {ARCHIVE} 2>&1")
        _wait_for_more(database)
    _wait_for_status(machine, "database up, 1 of 1 station heard")
    shown = machine.run(f"systemctl status --no-pager {ARCHIVE}").splitlines()
    held("archive: systemctl status shows " + next(line.strip() for line in shown if "Status:" in line))
    said = machine.run(f"systemd-analyze security --no-pager {ARCHIVE}.service", check=False).splitlines()[-1]
    held(f"archive: systemd-analyze security: {said.lstrip('→ ')}")


def _kill(machine: Machine, database: Database) -> None:
    for _ in range(3):
        _wait_for_more(database)
        pid = machine.unit("MainPID", ARCHIVE)
        with timed("archive: kill -9: it is back, and stores verdicts again"):
            machine.kill(ARCHIVE)
            _wait_for_more(database)
        demand(machine.unit("MainPID", ARCHIVE) != pid, "it was not killed")
    demand(machine.unit("NRestarts", ARCHIVE) == "3", "systemd restarted it another number of times")
    _compare(machine, database, "three kills")


def _database_away(machine: Machine, database: Database) -> None:
    pid = machine.unit("MainPID", ARCHIVE)
    database.server.stop()
    _wait_for_status(machine, "database away")
    database.server.start()
    with timed("archive: the database was stopped: the archive waits, and goes on when it is back"):
        _wait_for_more(database)
    demand(machine.unit("MainPID", ARCHIVE) == pid, "the archive was restarted")
    said = machine.journal_of(ARCHIVE)
    demand("archive.database_away" in said and "archive.database_back" in said, said)


def _reboot(machine: Machine, database: Database) -> None:
    """Boot again while the database is away. Then start the database in the network of the machine that booted."""
    database.server.stop()
    machine.stop()
    with timed("archive: booted again while the database is away: station and archive start"):
        machine.boot()
        wait_for(lambda: machine.unit("ActiveState") == "active", "the station runs")
        _wait_for_status(machine, "database away")
    database.server.before = machine.beside()
    database.server.start()
    with timed("archive: the database is back: verdicts are stored"):
        _wait_for_more(database)
    demand(machine.unit("NRestarts", ARCHIVE) == "0", "the archive was restarted")
    _compare(machine, database, "an outage of the database and the boot")


def _show_no_secret(machine: Machine) -> None:
    shown = machine.shown_by(ARCHIVE)
    secret = json.loads(machine.run(f"cat {FOLDER}/press-4.key"))["secret"]
    demand(secret not in shown and PASSWORD not in shown, "a secret is shown")
    held("archive: neither key nor password in the journal, the unit, the environment and the arguments")


def _stop(machine: Machine) -> None:
    with timed("archive: systemctl stop", 5 * machine.patience):
        machine.run(f"systemctl stop {ARCHIVE}")
    state = machine.unit("ActiveState", ARCHIVE), machine.unit("Result", ARCHIVE), machine.unit("ExecMainStatus", ARCHIVE)
    demand(state == ("inactive", "success", "0"), str(state))
    lines = [line for line in machine.journal_of(ARCHIVE).splitlines() if "anosegd[" in line]
    demand("archive.stopped" in lines[-1], lines[-1])
    demand(not any('{"at"' in line for line in lines), "JSON in the journal")
    held(f"archive: journalctl: {len(lines)} lines, readable (excerpt below)")


def _refused(machine: Machine) -> None:
    """A wrong password, and a missing key: the start fails, or the archive says what may be wrong."""
    machine.run(f"echo wrong >{FOLDER}/database.password")
    machine.run(f"systemctl start {ARCHIVE}", check=False)
    wait_for(lambda: machine.unit("ActiveState", ARCHIVE) == "failed", "a wrong password is refused")
    state = machine.unit("ExecMainStatus", ARCHIVE), machine.unit("NRestarts", ARCHIVE)
    said = machine.journal_of(ARCHIVE, "--lines=5 --priority=err")
    demand(state == ("2", "0") and "password authentication failed" in said, f"{state}: {said}")
    held("archive: a wrong password: exit code 2, not restarted, reason in the journal")


def _wait_for_status(machine: Machine, text: str) -> None:
    wait_for(lambda: text in machine.unit("StatusText", ARCHIVE), f"the status says: {text}")


def _wait_for_more(database: Database) -> None:
    """Wait until ten more verdicts are stored, from the first on."""
    database.wait_until("to_regclass('anoseg.verdict') IS NOT NULL")
    stored = int(database.query("SELECT count(*) FROM anoseg.verdict")[0][0])
    database.wait_for_verdicts(stored + 10)


def _compare(machine: Machine, database: Database, after: str) -> None:
    """Compare the rows with the journal of the station, which is stopped meanwhile."""
    machine.run(f"systemctl stop {UNIT}")
    journal = verdicts_of(machine.root / "var/lib/anoseg/line/verdicts.db")
    machine.run(f"systemctl start {UNIT}")
    last = max(seq for _, seq in journal)
    database.wait_until(f"cursor >= {last} FROM anoseg.journal", f"archived to {last}")
    stored = {key: header for key, header in database.verdicts().items() if key[1] <= last}
    demand(not (found := differences(stored, journal)), str(found))
    held(f"archive: after {after}, all {len(journal)} verdicts of the station's journal are in the database, each once")
