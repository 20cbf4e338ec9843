"""Text from outside, with the real daemon: part ids with markup, escapes, line ends and thousands of letters, as they are."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import cv2
import pytest
from rich.cells import cell_len
from support.anosegd_line import LIMIT_S, Line, run_anosegd
from support.tiny_bundle import good_part

from anoseg_engines.words import counted
from anosegd.client import Client
from anosegd.commands.shown import shown

IDS = [
    *("[/A]", "lot[a1]-3", "lot[a2]-3", "Teil [/A] 7", "[bold red]x[/]", "[link=http://x]y", "\\[b]", "{}", "%s", ":smile:"),
    *(
        "a\nb",
        "a\rb",
        "a\tb",
        "\x1b[31mred",
        "\x1b]0;title\x07",
        "\x1b[2J",
        "a\x08b",
        "\x7f",
        "\u202eabc",
        "a\u200bb",
        "\ufeffx",
    ),
    *(
        "Gehäuse größer",
        "日本語",
        "🙂",
        "'; DROP TABLE entry; --",
        '{"a": 1}',
        "=1+1",
        "-x",
        "--",
        " ",
        "x" * 3000,
        "\x01" * 3000,
    ),
]


@pytest.fixture
def station(line: Line, tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, Path, str]:
    """A running line with a camera that waits for triggers: its configuration, and its control endpoint."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    control = f"ipc://{tmp_path_factory.mktemp('c')}/ctl"
    more = f"control: {{endpoint: '{control}'}}\njournal: {{path: verdicts.db}}"
    camera = "top: {policy: every, queue: 64, trigger: {kind: software}, source: {kind: folder, path: images, loop: true}}"
    config = line.config(camera, more=more)
    line.run(config)
    line.listener.wait_for_state(lambda s: s["state"] == "ContinuousExecution")
    return line, config, control


def trigger(line: Line, control: str, ids: list[str]) -> None:
    """Trigger parts one after the other, and wait for their verdicts."""
    with Client(line.endpoint, control) as client:
        for part_id in ids:
            assert client.request("trigger", camera="top", part_id=part_id)["part_id"] == part_id
            line.listener.wait_for(lambda m, wanted=part_id: m.topic == "verdict.top" and m.header["part_id"] == wanted)


class Terminal:
    """Runs a command in a terminal of some size, and keeps what it prints."""

    def __init__(self, width: int, height: int, *command: str) -> None:
        self.output = b""
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            close_fds=True,
            # As in a terminal, also where the tests run in the background and ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(slave)

    def read_until(self, found: Callable[[str], bool]) -> str:
        """Read until what was printed since the last frame began is as wanted, and return it."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            frame = re.sub(r"\x1b\[[0-9;]*m", "", self.output.decode(errors="replace").rpartition("\x1b[1A\x1b[2K")[2])
            if found(frame):
                return frame
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self._master, 1 << 16)
                except OSError:  # the command has ended
                    break
        raise AssertionError(self.output[-3000:].decode(errors="replace"))

    def close(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(LIMIT_S)
        os.close(self._master)
        return code


def test_ids_are_stored_and_sent_as_they_are(station: tuple[Line, Path, str]) -> None:
    """Verdict, journal, replay and the CSV file have each id letter for letter."""
    line, config, control = station
    trigger(line, control, IDS)
    lines = run_anosegd("replay", str(config)).stdout.splitlines()
    assert [json.loads(text)["part_id"] for text in lines] == IDS


def test_the_answer_to_a_trigger_changes_nothing_at_the_terminal(station: tuple[Line, Path, str]) -> None:
    """An escape sequence in an id is shown, not obeyed; an error that quotes the id shows it so, too."""
    _, config, _ = station
    done = run_anosegd("trigger", str(config), "--camera", "top", "--part-id", "\x1b[2Ja\nb")
    assert done.stdout == "trigger: part ␛[2Ja␊b\n"
    for part_id in ("\x1b[2J", "\x1b[3J"):
        done = run_anosegd("trigger", str(config), "--camera", "top", "--part-id", part_id, "--request-id", "r")
    assert (done.returncode, "part '␛[2J'" in done.stderr, "\x1b" in done.stderr) == (1, True, False)


def test_tail_shows_every_id_in_a_small_window(station: tuple[Line, Path, str]) -> None:
    """At 80×12 the newest part is there by its id, with the totals below, whatever the id is; similar ids look different."""
    line, config, control = station
    terminal = Terminal(80, 12, sys.executable, "-m", "anosegd", "tail", str(config))
    try:
        terminal.read_until(lambda frame: "0 verdicts" in frame and "top: running" in frame)
        for n, part_id in enumerate(IDS, start=1):
            trigger(line, control, [part_id])
            wanted = f"{shown(part_id)} 0.png" if len(part_id) < 25 else f"{shown(part_id)[-5:]} 0.png"
            frame = terminal.read_until(lambda text, w=wanted, n=n: f"{counted(n, 'verdict')}: {n} PASS" in text and w in text)
            assert len(frame.rstrip("\r\n").split("\r\n")) <= 11
        assert {b"lot[a1]-3" in terminal.output, b"lot[a2]-3" in terminal.output} == {True}
    finally:
        assert terminal.close() == 130


def test_a_long_camera_name_leaves_room_for_the_part(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """At 80×12, with letters that take two columns: each row is one line, ids that differ look different, totals are below."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    control = f"ipc://{tmp_path_factory.mktemp('c')}/ctl"
    name = "a" * 63
    camera = f"{name}: {{policy: every, trigger: {{kind: software}}, source: {{kind: folder, path: images, loop: true}}}}"
    config = line.config(camera, more=f"control: {{endpoint: '{control}'}}")
    line.run(config)
    line.listener.wait_for_state(lambda s: s["state"] == "ContinuousExecution")
    terminal = Terminal(80, 12, sys.executable, "-m", "anosegd", "tail", str(config))
    try:
        terminal.read_until(lambda frame: "0 verdicts" in frame and f"{name[:40]}" in frame)
        with Client(line.endpoint, control) as client:
            for n in range(6):
                client.request("trigger", camera=name, part_id="漢字" * 20 + f"-{n}")
        frame = terminal.read_until(lambda text: "6 verdicts: " in text)
        lines = frame.rstrip("\r\n").split("\r\n")
        assert len(lines) <= 11
        assert [f"-{n} " in frame for n in range(1, 6)] == [True] * 5
        assert all(cell_len(text) <= 80 for text in lines)
    finally:
        terminal.close()


BREAKING = """
from anosegd.commands import tail
from anosegd.cli import main

def broken(*_):
    raise ZeroDivisionError("the table cannot be drawn")

tail.Board._table = broken
main()
"""


def test_a_table_that_cannot_be_drawn_ends_the_command(station: tuple[Line, Path, str]) -> None:
    """It does not stand still for ever: the command ends with the error."""
    _, config, _ = station
    terminal = Terminal(80, 12, sys.executable, "-c", BREAKING, "tail", str(config))
    terminal.read_until(lambda frame: "the table cannot be drawn" in frame)
    assert terminal.process.wait(LIMIT_S) == 1


def test_text_that_is_shown() -> None:
    """Nothing that is shown can change the terminal; of a long id both ends are there, and it has the length asked for."""
    assert [shown(text) for text in ("a\nb", "\x1b[31m", "\x7f", "\u202ex", "[/A]", "ä")] == [
        *("a␊b", "␛[31m", "␡", "‹U+202E›x", "[/A]", "ä")
    ]
    for longest in (5, 12, 30):
        text = shown("A" * 3000 + "-0001", longest)
        assert (len(text), text.startswith("A"), text.endswith("01"), "…" in text) == (longest, True, True, True)
    for part_id in IDS:
        assert shown(part_id).isprintable()
