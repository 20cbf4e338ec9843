"""Runs the table of bad inputs in this process: each is refused with its exit code, in words that name what is at fault."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zmq
from bad_inputs.rows import CAMERA, GREY, MASK, ROWS, Row, nothing
from support.commands import run_here
from support.made_once import made_once
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.cli import main as engine_main
from anosegd.cli import main as daemon_main
from anosegd.control.server import Control

Ask = Callable[[bytes], dict[str, Any]]


def trainer_main() -> None:
    from anoseg_trainer.cli import main

    main()


PROGRAMS = {"anosegd": daemon_main, "anoseg-train": trainer_main, "anoseg-engine": engine_main}


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is good, and used by all rows: a bundle, images, and images with masks."""

    def make(folder: Path) -> None:
        write_tiny_bundle(folder / "store")
        for place, n in (("images", 12), ("data/test/good", 3)):
            (folder / place).mkdir(parents=True)
            for i in range(n):
                image = GREY.copy()
                image[:, 5 * i : 5 * i + 5] += np.uint8(1 + i)
                cv2.imwrite(str(folder / place / f"{i:02}.png"), image)
        for place in ("data/test/spot", "data/ground_truth/spot"):
            (folder / place).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(folder / f"data/test/spot/{i:02}.png"), np.where(MASK[:, :, None] > 0, np.uint8(250), GREY))
            cv2.imwrite(str(folder / f"data/ground_truth/spot/{i:02}_mask.png"), MASK)

    return made_once(tmp_path_factory, "bad-inputs", make)


@pytest.fixture
def folder(tmp_path: Path, shared: Path) -> Path:
    """The folder in which a row's command runs."""
    for name in ("store", "images", "data"):
        (tmp_path / name).symlink_to(shared / name)
    (tmp_path / "c.yaml").write_text(CAMERA)
    return tmp_path


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Sends a message to a control socket, and returns the answer."""

    def unused(*_: object) -> None:
        """Give no answer. An error would end the thread, and with it all later rows."""

    address = f"ipc://{tmp_path_factory.mktemp('s')}/control"
    control = Control(
        address,
        None,
        state=lambda: b'{"state": "Ready"}',
        drain=unused,
        engine=lambda: None,
        reload=unused,
        swap=unused,
        roll_back=unused,
        set_threshold=unused,
        pause=unused,
        prove=unused,
        trigger=unused,
        recipe=unused,
    )
    control.start()

    def send(message: bytes) -> dict[str, Any]:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(address)
            socket.send_multipart([b"", message])
            assert socket.poll(5_000), "the message was carried out"
            answer: dict[str, Any] = json.loads(socket.recv_multipart()[-1])
            return answer

    try:
        yield send
    finally:
        control.stop()
        control.join(10)


def name(row: Row) -> str:
    """Return the name of a row in the output of pytest: the command or message, and the words of the refusal."""
    command = row.command if isinstance(row.command, str) else f"control {row.command[:60].decode(errors='replace')}"
    return f"{command}: {' '.join(row.words)}"[:110].encode("unicode_escape").decode()


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_bad_input_is_refused_in_words(row: Row, folder: Path, ask: Ask) -> None:
    """With its exit code or error code, the file, key, line or option at fault, in a few lines, without a traceback."""
    row.make(folder)
    if isinstance(row.command, bytes):
        answer = ask(row.command)
        assert (answer["ok"], answer["error"]) == (False, row.outcome)
        said = answer["message"]
    else:
        program, *arguments = shlex.split(row.command)
        done = run_here(PROGRAMS[program], program, *arguments, cwd=folder)
        said = done.stderr + done.stdout
        assert done.returncode == row.outcome, said
        assert row.outcome == 0 or not done.stdout
        assert not (folder / "store2").exists()
    assert [word for word in row.words if word not in said] == [], said
    for code in ("Traceback", 'File "', "Error:", "<class", "msgspec"):
        assert code not in said
    assert 0 < len(said.replace(str(folder), "").encode()) < 4000


@pytest.mark.parametrize(
    "command",
    [
        "anosegd check c.yaml",
        "anoseg-train evaluate --bundle store --data data",
        "anoseg-train calibrate --bundle store --data images --group .+",
        "anoseg-engine verify store/1",
        "anoseg-engine list store",
    ],
)
def test_what_the_rows_begin_with_is_accepted(command: str, folder: Path, shared: Path) -> None:
    """So each row is refused for its own fault."""
    if "calibrate" in command:
        (folder / "store").unlink()
        write_tiny_bundle(folder / "store")
    program, *arguments = shlex.split(command)
    done = run_here(PROGRAMS[program], program, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout


def test_a_good_message_is_answered(ask: Ask) -> None:
    assert ask(b'{"op": "status", "id": 3}')["ok"]


def test_the_table_is_large_and_every_row_says_what_is_at_fault() -> None:
    """No command is there twice, except with different files."""
    assert len(ROWS) >= 150
    assert [row for row in ROWS if not row.words and isinstance(row.command, str)] == []
    typed = [row.command for row in ROWS if row.make is nothing]
    assert len(typed) == len({*typed})
