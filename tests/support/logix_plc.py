"""A Rockwell controller for tests: its memory is cpppo's EtherNet/IP server in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.made_once import made_once

from anosegd.bridge.logix import TagMap

PLC = pytest.importorskip("pylogix", reason="pylogix of the extra plc is not installed here").PLC
TAG = "AnoSeg"
MAP = TagMap(TAG)
DINT, SINT = 0xC4, 0xC2


def fetch_server(folder: Path) -> None:
    """Install cpppo and what its server needs into a folder, not beside this program: it is under the GPL."""
    packages = ("cpppo==5.2.5", "greenery==2.1")
    command = ("install", "--quiet", "--no-deps", "--target", str(folder), *packages)
    subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, timeout=200)


def server_of(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with cpppo. Skips the test where it cannot be fetched."""
    folder = made_once(tmp_path_factory, "cpppo", fetch_server)
    if not (folder / "cpppo" / "server" / "enip").is_dir():
        pytest.skip("cpppo 5.2.5 cannot be installed here")
    return folder


class LogixPlc:
    """The memory of a controller, as its program sees it."""

    kind = "logix"

    def __init__(self, server: Path, port: int, *, kinds: dict[str, str] | None = None) -> None:
        kinds = MAP.kinds if kinds is None else kinds
        tags = [f"{tag.removesuffix('[0]')}={kind}{'[82]' if kind == 'SINT' else ''}" for tag, kind in kinds.items()]
        where = ("--no-config", "--no-udp", "--address-output", "--address", f"127.0.0.1:{port}")
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", "cpppo.server.enip", *where, *tags],
            env=os.environ | {"PYTHONPATH": str(server)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        assert b"server address" in self.process.stdout.readline().lower()
        self._client = PLC("127.0.0.1", port=port, timeout=20.0)  # the server is slow on a busy machine
        self._client.conn.msg_socket.close()  # pylogix does not use it here, and does not close it

    @staticmethod
    def config(port: int) -> str:
        """The section of the bridge's configuration."""
        return f"logix: {{plc: '127.0.0.1:{port}', tag: {TAG}}}"

    def status(self) -> int:
        return self._read(MAP.status)

    def result(self) -> tuple[str, int, int]:
        """Part id, reason and age of the result that is shown."""
        length = self.number("part_id.LEN")
        characters = self._read(f"{TAG}.status.part_id.DATA[0]", length, SINT) if length else []
        text = bytes(characters if isinstance(characters, list) else [characters]).decode()
        return text, self.number("reason"), self.number("age_ms")

    def number(self, name: str) -> int:
        """A whole number of the outputs."""
        return self._read(f"{TAG}.status.{name}")

    def write(self, control: int, part_id: str | None = None) -> None:
        """Write the part id first, then the control bits, as a program does."""
        if part_id is not None:
            self.write_text("part_id", part_id)
        self._write(MAP.control, control, DINT)

    def write_text(self, name: str, text: str) -> None:
        """Write a text of the controls."""
        if text:
            self._write(MAP.data_of(name), list(text.encode()), SINT)
        self._write(MAP.length_of(name), len(text.encode()), DINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._client.Close()

    def _read(self, tag: str, count: int = 1, kind: int = DINT) -> int:
        answer = self._client.Read(tag, count, kind)
        assert answer.Status == "Success", answer
        return answer.Value

    def _write(self, tag: str, value: object, kind: int) -> None:
        answer = self._client.Write(tag, value, kind)
        assert answer.Status == "Success", answer
