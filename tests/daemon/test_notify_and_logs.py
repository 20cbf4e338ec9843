import io
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from anosegd import logs
from anosegd.systemd import Notifier


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.set_up(stream)
    yield stream
    logging.getLogger("anosegd").handlers.clear()


def test_notifies_an_abstract_socket() -> None:
    """An address that begins with @ is in Linux' abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0anosegd-test-notify")
        systemd.settimeout(10)
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": "@anosegd-test-notify"}, pid=1)
        notifier.ready("well")
        assert systemd.recv(100) == b"READY=1\nSTATUS=well"
        notifier.watchdog()  # not asked for: nothing is sent
        notifier.stopping()
        assert systemd.recv(100) == b"STOPPING=1"
        notifier.close()


def test_outside_systemd_nothing_happens() -> None:
    """Without a socket, and after `close`, every call does nothing."""
    notifier = Notifier.from_environment({}, pid=1)
    notifier.ready("")
    notifier.stopping()
    notifier.close()


def test_systemd_gone_is_said_once(log: io.StringIO) -> None:
    """A missing socket does not stop the daemon and is logged once."""
    notifier = Notifier("/nonexistent/notify", 1.0)
    for _ in range(3):
        notifier.watchdog()
    notifier.close()
    assert log.getvalue().count("systemd.unreachable") == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_is_read_as_systemd_means_it(environment: dict[str, str], expected: float | None) -> None:
    """WATCHDOG_PID names another process: the watchdog is not for us."""
    assert Notifier.from_environment(environment, pid=7).watchdog_s == expected


def test_events_carry_fields(log: io.StringIO) -> None:
    """An event is one JSON line; fields that are None are left out; a newline in a value stays inside."""
    logs.info("camera.lost", camera="top", error="a\nb", nothing=None)
    line = json.loads(log.getvalue())
    assert (line["event"], line["level"], line["camera"], line["error"]) == ("camera.lost", "info", "top", "a\nb")
    assert "nothing" not in line
    assert log.getvalue().count("\n") == 1


def test_a_json_line_stays_json_whatever_a_file_is_called(log: io.StringIO) -> None:
    """Bytes that are not UTF-8 are shown as in all other output."""
    logs.warning("image.unreadable", file="gr\udcf6\udcdf \\ größer.png")
    line = log.getvalue().encode()  # a stream would escape what UTF-8 has not, and a single backslash is no JSON
    assert json.loads(line)["file"] == "gr\\xf6\\xdf \\ größer.png"


def test_text_for_a_terminal() -> None:
    """At a terminal, fields are key=value, quoted if they contain spaces."""
    record = logging.makeLogRecord(
        {"msg": "camera.lost", "levelname": "WARNING", "fields": {"camera": "top", "error": "a b", "s": 0.5}}
    )
    assert logs.TextFormatter().format(record).endswith('WARNING camera.lost camera=top error="a b" s=0.5')


def test_lines_for_the_journal(tmp_path: Path, log: io.StringIO) -> None:
    """If stderr leads to systemd's journal, every line carries its level and no time."""
    with (tmp_path / "journal").open("w+") as stream:
        status = (tmp_path / "journal").stat()
        logs.set_up(stream, journal=f"{status.st_dev}:{status.st_ino}")
        logs.info("daemon.ready", engine="demo/1")
        logs.warning("camera.lost", error="a b")
        logs.error("thread.died", exception=ValueError("one\ntwo"))
        stream.seek(0)
        lines = stream.read().splitlines()
        assert lines[:2] == ["<6>daemon.ready engine=demo/1", '<4>camera.lost error="a b"']
        assert lines[2] == "<3>thread.died"
        assert lines[-2:] == ["<3>ValueError: one", "<3>two"]
        assert logs.as_error("wrong\n  do this") == "<3>wrong\n<3>  do this"
        logs.set_up(stream, journal=f"{status.st_dev}:{status.st_ino + 1}")
        logs.info("daemon.ready")
    assert (tmp_path / "journal").read_text().splitlines()[-1].startswith('{"at"')


def test_frequent_trouble_is_one_line_a_second(log: io.StringIO) -> None:
    """Many warnings make one line; the next line gives the number of those left out."""
    throttle = logs.Throttle("part.late", period_s=60)
    for i in range(100):
        throttle.warning(part=i)
    assert log.getvalue().count("part.late") == 1
    throttle = logs.Throttle("part.late", period_s=0)
    throttle._held_back = 41
    throttle.warning(part=1)
    assert '"more": 41' in log.getvalue()
