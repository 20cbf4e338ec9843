"""The examples of docs/plc-s7.md and docs/plc-logix.md, typed as printed, with the programs that they name as the PLC."""

import ast
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support.anosegd_line import LIMIT_S, wait_until
from support.bridge_process import Bridged, BridgeProcess, free_port
from support.documentation import DOCS, blocks
from support.logix_plc import server_of
from support.made_once import made_once
from support.plc import ENABLED, ONLINE, READY, VALID

SOON_S = 15.0
TYPING_S = 0.5


class Prompt:
    """Python's prompt, after the PLC's program of a page."""

    def __init__(self, program: Path, packages: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-i", "-u", str(program)],
            env=os.environ | {"PYTHONPATH": str(packages)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def type_block(self, text: str) -> list[str]:
        """Type the lines of a block, not faster than a person; return what the prompt has printed."""
        printed = []
        for line in text.splitlines(keepends=True):
            printed += self.type(line)
            time.sleep(TYPING_S)
        return printed

    def type(self, text: str) -> list[str]:
        """Type a line; return what the prompt has printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{text}'end'\n")
        self.process.stdin.flush()
        printed = []
        while (line := self.process.stdout.readline().rstrip()) != "'end'":
            assert line, "the PLC's program has ended"
            printed.append(line)
        return printed

    @property
    def status(self) -> list[int]:
        """The status bits that are 1, as the page's function says."""
        (line,) = self.type("status()\n")
        return list(ast.literal_eval(line))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def ended() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def judge(prompt: Prompt, bridge: BridgeProcess, open_: str, trigger: Callable[[], object]) -> None:
    """Open the handshake and trigger a part; again if the handshake closes meanwhile, as on a busy machine."""
    wait_until(lambda: ONLINE in prompt.status, "the station is there")
    for _ in range(5):
        prompt.type_block(open_)
        if is_soon(lambda: {ENABLED, READY} <= set(prompt.status)):
            trigger()
            if is_soon(lambda: VALID in prompt.status):
                return
    raise AssertionError(f"there was no result in five attempts; the status is {prompt.status}\n{bridge.log}")


def is_soon(condition: Callable[[], bool]) -> bool:
    """Whether this becomes true within some seconds."""
    end = time.monotonic() + SOON_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_the_siemens_example_works(bridged: Bridged, tmp_path_factory: pytest.TempPathFactory, ended: ExitStack) -> None:
    """Its PLC, the C++ Snap7 server, triggers a part and reads the result by the offsets that the page gives."""
    page, port = DOCS / "plc-s7.md", free_port()
    packages = made_once(tmp_path_factory, "snap7-example", lambda folder: install(folder, "python-snap7==2.0.2"))
    if not (packages / "snap7").is_dir():
        pytest.skip("python-snap7 2.0.2 cannot be installed here")
    program, online, open_, trigger, read, acknowledge = (block.text for block in blocks("python", page=page))
    prompt = start(bridged, ended, program, packages, page, "1102", port)
    prompt.type_block(online)
    judge(prompt, bridged.bridges[0], open_, lambda: prompt.type_block(trigger))
    outcome, reason, score, part_id = ast.literal_eval(prompt.type_block(read)[-1])
    assert (outcome in (1, 2), reason, score > 0, part_id) == (True, 0, True, "4711")
    prompt.type_block(acknowledge)
    wait_until(lambda: VALID not in prompt.status, "the result is acknowledged")


def test_the_rockwell_example_works(bridged: Bridged, tmp_path_factory: pytest.TempPathFactory, ended: ExitStack) -> None:
    """Its controller, cpppo's server, triggers a part; cpppo's client writes the part id and reads the result."""
    page, port, folder = DOCS / "plc-logix.md", free_port(), bridged.line.folder
    packages = server_of(tmp_path_factory)
    program, online, open_, trigger, acknowledge = (block.text for block in blocks("python", page=page))
    lines = [line for block in blocks("shell", page=page) for line in block.text.splitlines()]
    make_tags, serve, write, read = (
        next(line for line in lines if part in line) for part in ("tags.txt", "_server", "]=", ".reason")
    )
    (config,) = (block.text for block in blocks("yaml", page=page) if "44818" in block.text)
    (folder / "logix.yaml").write_text(config)
    subprocess.run(
        ["bash", "-c", make_tags.replace("anosegd", f"{shlex.quote(sys.executable)} -m anosegd", 1)], cwd=folder, check=True
    )
    words = shlex.split(serve.replace("44818", str(port)).replace("$(cat tags.txt)", (folder / "tags.txt").read_text()))
    server = subprocess.Popen(
        cpppo("enip", words), env=environment(packages), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ended.callback(server.wait)
    ended.callback(server.kill)
    wait_until(lambda: answers(port), "the server listens")

    def client(line: str) -> str:
        words = shlex.split(line.replace("127.0.0.1", f"127.0.0.1:{port}"))
        done = subprocess.run(
            cpppo("enip.client", words), env=environment(packages), capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.stdout.count("OK") == 2 + 2 * (line == read), done
        return done.stdout

    host = 'host="127.0.0.1"'
    prompt = start(bridged, ended, program.replace(host, f"{host}, port={port}"), packages, page, "44818", port)
    prompt.type_block(online)
    raise_, lower = trigger.splitlines(keepends=True)[:2]

    def trigger_part() -> None:
        client(write)
        prompt.type(raise_)
        wait_until(lambda: READY not in prompt.status, "the trigger is seen")
        prompt.type(lower)

    judge(prompt, bridged.bridges[0], open_, trigger_part)
    shown = client(read)
    assert "[52, 55, 49, 49]" in shown
    assert "AnoSeg.status.reason              == [0]" in shown
    prompt.type(acknowledge.splitlines(keepends=True)[0])
    wait_until(lambda: VALID not in prompt.status, "the result is acknowledged")


def start(bridged: Bridged, ended: ExitStack, program: str, packages: Path, page: Path, port: str, free: int) -> Prompt:
    """Start a station, the bridge of a page, and its PLC; `port` is the page's port, `free` the one to take here."""
    path = bridged.line.folder / "plc.py"
    path.write_text(program.replace(port, str(free)))
    prompt = Prompt(path, packages)
    ended.callback(prompt.close)
    (config,) = (block.text for block in blocks("yaml", page=page) if port in block.text)
    own = config.splitlines()[-1].replace(port, str(free))
    bridged.start_station()
    bridged.bridges.append(BridgeProcess(bridged.write_config(own), kind=own.partition(":")[0]))
    return prompt


def install(folder: Path, package: str) -> None:
    command = ("install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(folder), package)
    subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, timeout=200)


def cpppo(module: str, words: list[str]) -> list[str]:
    """A command of a page, for cpppo in a folder of its own."""
    return [sys.executable, "-S", "-m", f"cpppo.server.{module}", *words[1:]]


def environment(packages: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(packages)}


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False
