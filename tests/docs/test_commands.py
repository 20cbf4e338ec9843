"""The commands, programs and configurations in the README and in docs/ do what the text says.

Every shell line is parsed by the program's own parser or explained in `NOT_OURS`. Every line that can run here does: against a
station whose two cameras show the demo line, in a folder laid out as the pages assume.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import duckdb
import msgspec
import numpy as np
import pytest
import yaml
import zmq
from support.anosegd_line import Daemon
from support.documentation import DOCS, README, Block, Command, blocks, commands
from support.paths import CONFIGS, DEMO, REPOSITORY

from anoseg_engines import cli as engine_cli
from anoseg_engines.bundle import load_bundle
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_trainer import cli as train_cli
from anoseg_trainer.config import load_config as load_training
from anoseg_trainer.fleet.products_file import read_products
from anosegd import cli as daemon_cli
from anosegd import wire
from anosegd.archive.config import load_archive_config
from anosegd.bridge.config import load_bridge_config
from anosegd.config import CameraConfig, Config, load_config
from anosegd.demo.line import DemoLine

PROGRAMS = {"anosegd": daemon_cli, "anoseg-train": train_cli, "anoseg-engine": engine_cli}

NOT_OURS = {
    "apt": "the system's package manager",
    "systemctl": "needs systemd: make systemd-test does it",
    "journalctl": "needs systemd",
    "sysctl": "changes the kernel's settings",
    "usermod": "changes the system's users",
    "cp": "files of an installed service: make systemd-test does it",
    "install": "files of an installed service: make systemd-test does it",
    "mkdir": "a folder of an installed service: make systemd-test makes it",
    "env": "names a folder of an installed service: make systemd-test does it",
    "git": "updates a checkout",
    "mbpoll": "a Modbus master; tests/daemon/bridge runs it",
    "python3": "makes an environment for another program",
    "plc-env/bin/pip": "installs a program for an example: tests/daemon/bridge does",
    "plc-env/bin/python": "the PLC of an example; tests/daemon/bridge runs it",
    "plc-env/bin/enip_server": "the memory of a controller; tests/daemon/bridge runs it",
    "plc-env/bin/enip_client": "reads and writes it; tests/daemon/bridge runs it",
    "torchrun": "comes with PyTorch; tests/trainer/training runs it",
    "uaread": "an OPC UA client; tests/daemon/bridge runs it",
    "uawrite": "an OPC UA client; tests/daemon/bridge runs it",
    "mosquitto_sub": "an MQTT subscriber; tests/daemon/bridge runs it",
}
"""Why commands of other programs are not run."""

PARSED_ONLY = {
    "anosegd run": "the station of this test is run so, once",
    "anosegd demo": "tests/daemon/demo runs it",
    "anosegd view": "serves until it is stopped; tests/daemon/view runs it",
    "anosegd bridge": "serves until it is stopped; tests/daemon/bridge runs it",
    "anosegd archive": "serves until it is stopped; tests/daemon/archive runs it",
    "anosegd user": "changes a file of users; tests/daemon/view runs it",
    "anosegd keygen": "writes keys into folders; tests/daemon/keys runs it",
    "--key": "needs a station with keys; tests/daemon/keys has one",
    "anosegd collect": "takes as long as the parts need; tests/daemon/commands runs it",
    "anosegd demo-images": "renders hundreds of images; tests/daemon/demo writes some",
    "--print-completion": "prints for a shell; the programs' own tests look at it",
    "anoseg-train fit": "trains for minutes",
    "anoseg-train fleet": "trains for minutes; tests/trainer/fleet runs it",
    "anoseg-train ablate": "trains several times",
    "anoseg-train bench": "measures for minutes",
    "anoseg-train calibrate": "tests/trainer runs it, on images with which it succeeds",
    "anoseg-train learn-good": "tests/trainer runs it, on images that its bundle rejects",
    "anoseg-engine reinspect --ray": "needs a cluster; tests/engines/reinspection has one",
    "anoseg-engine build": "needs TensorRT, and minutes",
    "anoseg-engine bench": "the short form in docs/runtimes.md is run",
    "anoseg-engine verify --runtime tensorrt": "needs a GPU",
}
"""Commands of ours that are parsed but not run, and why."""

LAST = ("drain",)
"""Requests that end the station: asked for after everything else."""


class ParsedError(Exception):
    """The command line was accepted."""


def main(command: Command) -> None:
    """Run one of the three programs in this process, as its command line does."""
    PROGRAMS[command.words[0]].main()


def in_words(command: Command) -> str:
    return f"{command.place}: {command.line}"


def why_not_run(command: Command) -> str | None:
    """The reason in `PARSED_ONLY`; None for a command that is to be run."""
    words = set(command.words)
    if command.words[:2] == ("anoseg-engine", "bench") and "--seconds" in words:
        return None
    if any(word.startswith("/") for word in command.words):
        return "names a place of an installed service"
    return next((reason for key, reason in PARSED_ONLY.items() if set(key.split()) <= words), None)


@pytest.mark.parametrize("command", [c for c in commands() if c.program], ids=in_words)
def test_options_are_accepted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's own parser takes every command line of ours."""
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        raise ParsedError(parse(self, *given, **named))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
    monkeypatch.setattr(sys, "argv", list(command.words))
    with pytest.raises((ParsedError, SystemExit)) as ended:
        main(command)
    assert not isinstance(ended.value, SystemExit) or not ended.value.code  # --help, --version


@pytest.mark.parametrize("command", [c for c in commands() if not c.program], ids=in_words)
def test_other_commands_are_known(command: Command) -> None:
    """A make target exists, an extra exists, and any other program is in `NOT_OURS`."""
    if command.words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        assert command.words[1] in targets
    elif command.words[0] == "pip":
        extras = re.findall(r"^([a-z-]+) = \[", (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE)
        assert set(re.findall(r"\.\[([a-z-]+)\]", command.line)) <= set(extras)
    else:
        assert command.words[0] in NOT_OURS


def test_every_block_has_a_known_language() -> None:
    """No block escapes these tests for want of a language.

    text shows folders and drawings, ini a unit's setting; tests/daemon/keys runs js, and a test below runs sql.
    """
    known = {"shell", "python", "js", "sql", "yaml", "json", "ini", "{toctree}", "{include}", "{literalinclude}", "text"}
    assert not [block.place for block in blocks() if block.language not in known]
    assert not [block.place for block in blocks("text") if re.search(r"^(make|anoseg\S*) ", block.text, flags=re.MULTILINE)]


# ---------------------------------------------------------------------- configurations and messages


def whole(text: str, base: dict[str, Any]) -> dict[str, Any]:
    """A station's configuration out of a block that shows all or part of one."""
    shown = yaml.safe_load(text)
    if "cameras" in shown:
        return {**base, **shown}
    camera = {field.name for field in msgspec.structs.fields(CameraConfig)}
    if set(shown) <= camera:
        return {**base, "cameras": {"top": {**base["cameras"]["top"], **shown}}}
    return {**base, **shown}


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_configurations_are_accepted(block: Block, tmp_path: Path) -> None:
    """Every YAML block is a valid station's, bridge's, archive's, fleet's or training's configuration, or the part of one."""
    base = {"engine": {"bundle": "b"}, "cameras": {"top": {"source": {"kind": "demo"}}}}
    station = {field.name for field in msgspec.structs.fields(Config)}
    path = tmp_path / "block.yaml"
    if block.page == DOCS / "training.md":
        path.write_text(block.text)
        load_training(path)
        return
    if "products" in yaml.safe_load(block.text):
        path.write_text(block.text)
        read_products(path)
        return
    if "stations" in yaml.safe_load(block.text):
        path.write_text(block.text)
        load_archive_config(path)
        return
    if "camera" in yaml.safe_load(block.text):
        path.write_text(block.text)
        load_bridge_config(path)
        return
    path.write_text(yaml.safe_dump(whole(block.text, base)))
    config = load_config(path)
    assert set(yaml.safe_load(block.text)) <= station or config.cameras.keys() == {"top"}


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.place)
def test_messages_are_as_the_code_makes_them(block: Block) -> None:
    """Every JSON block is a header that decodes, or a request or an answer with its keys."""
    shown = json.loads(block.text)
    if "schema" in shown:
        assert set(shown) <= {field.name for field in msgspec.structs.fields(wire.Verdict)}
        msgspec.convert(shown, wire.Verdict)
    else:
        assert "op" in shown or shown["ok"] or {"error", "message"} < set(shown)


# ---------------------------------------------------------------------- running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages assume: bundles, images with their masks, and line.yaml."""
    folder = tmp_path_factory.mktemp("docs")
    store = folder / "engines" / "store"
    shutil.copytree(DEMO, store / "demo")
    demo = load_bundle(DEMO)
    for _ in range(2):
        write_bundle(store / "my-part", BundleDraft.of(demo))
    shutil.copytree(CONFIGS, folder / "configs")
    parts = DemoLine(3)
    for number, golden in enumerate(demo.golden_samples()):
        kind = "good" if golden.verdict == "PASS" else "chip"
        save(folder / "my-part" / "test" / kind / f"{number}.png", golden.image)
        if kind == "chip":
            mask = cv2.resize(golden.anomaly_map, golden.image.shape[1::-1]) > 0.5
            save(folder / "my-part" / "ground_truth" / kind / f"{number}_mask.png", mask.astype(np.uint8) * 255)
        save(folder / "my-part" / "train" / "good" / f"{number}.png", parts.part(number).image)
    verdict = {"part_id": "1", "camera": "side", "captured_at": "2026-11-27T06:00:01.289Z", "outcome": "FAIL"}
    (folder / "parts.jsonl").write_text(json.dumps({"file": "my-part/train/good/0.png", "verdict": verdict}) + "\n")
    return folder


def save(path: Path, image: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@contextmanager
def station(folder: Path, sockets: Path) -> Iterator[tuple[str, str]]:
    """The station of docs/operating.md, running in `folder`; gives its two endpoints."""
    publish, control = f"ipc://{sockets}/pub", f"ipc://{sockets}/control"
    config = yaml.safe_load(blocks("yaml", page=DOCS / "operating.md")[0].text)
    config |= {"publish": {"endpoint": publish}, "control": {"endpoint": control}}
    path = folder / "line.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    daemon = Daemon(path)
    try:
        give_up_at = time.monotonic() + 60
        while "ContinuousExecution" not in state_of(control):
            assert daemon.process.poll() is None, daemon.log
            assert time.monotonic() < give_up_at, daemon.log
        yield publish, control
    finally:
        daemon.close()


def state_of(control: str) -> str:
    """The state, as a client in any language would ask for it; empty without an answer."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(control)
        socket.send(b'{"op": "status"}')
        return str(json.loads(socket.recv())["state"]["state"]) if socket.poll(500) else ""


def run(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Run a command here; what went wrong, if anything did."""
    words = [*command.words, *(("--count", "2") if "tail" in command.words and "--count" not in command.words else ())]
    for name, value in itertools.pairwise(words):
        if name in ("--csv", "--archive"):
            Path(value).unlink(missing_ok=True)  # two pages write the same new file
    if words[1:] == ["cameras"]:  # loads GObject's libraries, which stay in a process
        return (
            None if subprocess.run([sys.executable, "-m", *words], capture_output=True).returncode == 0 else in_words(command)
        )
    monkeypatch.setattr(sys, "argv", words)
    code: Any = 0
    try:
        main(command)
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    if command.target is not None and printed.out:
        Path(command.target).write_text(printed.out)
    return f"{in_words(command)}: {code}\n{printed.out[-500:]}{printed.err}" if code else None


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_commands_of_the_daemon_run(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Each `anosegd` line that can run does, in the order of the pages, against a running station; so do the requests."""
    found = {c.line: c for c in commands() if c.program == "anosegd" and why_not_run(c) is None}
    in_order = sorted(found.values(), key=lambda c: c.words[1] in LAST)
    assert {c.words[1] for c in in_order} >= {"check", "tail", "status", "export", "reload", "swap", "rollback", "trigger"}
    with station(here, tmp_path_factory.mktemp("s")) as (_, control):
        asked = [json.loads(block.text) for block in blocks("json") if "op" in json.loads(block.text)]
        assert asked
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.connect(control)
            for request in asked:
                socket.send_json(request)
                assert socket.poll(10_000)
                assert json.loads(socket.recv())["ok"]
        wrong = [what for command in in_order if (what := run(command, monkeypatch, capsys)) is not None]
    assert not wrong, "\n".join(wrong)
    assert (here / "shift.csv").is_file()


def test_commands_of_engine_and_trainer_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each `anoseg-engine` and `anoseg-train` line that can run does."""
    found = {c.line: c for c in commands() if c.program not in (None, "anosegd") and why_not_run(c) is None}
    trained, of_engines = {"evaluate", "compare"}, {"verify", "inspect", "bench", "list", "release", "reinspect", "diff"}
    assert {c.words[1] for c in found.values()} == trained | of_engines
    wrong = [what for command in found.values() if (what := run(command, monkeypatch, capsys)) is not None]
    assert not wrong, "\n".join(wrong)
    assert (here / "test.html").is_file()
    for block in blocks("sql"):
        assert duckdb.sql(block.text).fetchall() or "outcome = 'FAIL'" in block.text, block.place


def test_programs_run(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each Python block, started by itself, prints something about a running station within a few seconds."""
    elsewhere = [DOCS / name for name in ("keys.md", "plc-s7.md", "plc-logix.md")]  # tests/daemon runs those
    programs = [block for block in blocks("python") if block.page not in elsewhere]
    assert {block.page for block in programs} >= {README, DOCS / "wire.md"}
    with station(here, tmp_path_factory.mktemp("s")) as (publish, control):
        for block in programs:
            text = block.text.replace("tcp://127.0.0.1:5570", publish).replace("tcp://127.0.0.1:5571", control)
            store = "def store(verdict):\n    print(verdict['seq'])\ndef show(*what):\n    print(what[0])\n"
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", store + text],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": ""},
            )
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                first = process.stdout.readline()
                assert first, f"{block.place}: {process.stderr.read()}"
            finally:
                process.kill()
                process.communicate()


def test_an_environment_that_was_not_finished_is_not_taken_for_one(tmp_path: Path) -> None:
    """Debian's Python without python3-venv makes bin/python, then fails: the next `make demo` makes the environment again."""
    venv, debian = tmp_path / "venv", tmp_path / "python3"
    debian.write_text(f"#!/bin/sh\nmkdir -p {venv}/bin; ln -s /bin/true {venv}/bin/python\nexit 1\n")
    debian.chmod(0o755)
    command = ["make", "--silent", "--directory", REPOSITORY, f"VENV={venv}", f"PYTHON={debian}", f"{venv}/bin/python"]
    for _ in range(2):
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 2
    debian.write_text(f"#!/bin/sh\nln -s /bin/true {venv}/bin/python\n")
    assert subprocess.run(command, timeout=60).returncode == 0
    assert (venv / "bin" / "python").exists()
