"""A Siemens PLC for tests: the memory is a C++ Snap7 server in a process of its own, the program is one of Python."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.made_once import made_once
from support.paths import REPOSITORY

from anosegd.bridge.config import S7Config
from anosegd.bridge.s7 import Block

Client = pytest.importorskip("snap7.client", reason="python-snap7 of the extra plc is not installed here").Client
DB = 100
BLOCK = Block(S7Config())


def initial(block: Block = BLOCK) -> bytes:
    """The bytes of a block that was just loaded into a PLC: its texts are empty and have their lengths."""
    data = bytearray(block.size)
    for field in (*block.controls, *block.outputs):
        if field.kind.startswith("STRING"):
            data[field.offset] = field.length
    return bytes(data)


def fetch_library(folder: Path) -> Path | None:
    """Fetch the C++ library, which is in the wheels of python-snap7 before version 3; None where that cannot be done."""
    wheel = ("--no-deps", "--only-binary", ":all:", "--dest", str(folder), "python-snap7==2.0.2")
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wheel], capture_output=True, timeout=200)
    for path in folder.glob("python_snap7-*.whl"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("libsnap7.so"):
                    return Path(archive.extract(name, folder))
    return None


def library_of(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ library. Skips the test where it cannot be fetched."""
    folder = made_once(tmp_path_factory, "snap7", fetch_library)
    found = list(folder.rglob("libsnap7.so"))
    if not found:
        pytest.skip("the C++ Snap7 server cannot be fetched here (the wheel of python-snap7 2.0.2)")
    return found[0]


class S7Plc:
    """The memory of a PLC, as its program sees it."""

    kind = "s7"

    def __init__(self, library: Path, port: int, *, data: bytes | None = None) -> None:
        data = initial() if data is None else data
        script = REPOSITORY / "tests" / "support" / "s7_server.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(library), str(port), str(DB), data.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self._client = Client()
        self._client.connect("127.0.0.1", 0, 1, port)

    @staticmethod
    def config(port: int) -> str:
        """The section of the bridge's configuration."""
        return f"s7: {{plc: '127.0.0.1:{port}', db: {DB}}}"

    def read(self) -> bytes:
        """The whole block."""
        return bytes(self._client.db_read(DB, 0, BLOCK.size))

    def status(self) -> int:
        return BLOCK.seen(bytes(self._client.db_read(DB, 0, BLOCK.polled))).status

    def result(self) -> tuple[str, int, int]:
        """Part id, reason and age of the result that is shown."""
        data = self.read()
        part_id, reason, age = (
            next(field for field in BLOCK.outputs if field.name == name) for name in ("part_id", "reason", "age_ms")
        )
        length = data[part_id.offset + 1]
        text = data[part_id.offset + 2 : part_id.offset + 2 + length].decode()
        return text, self.number(reason.name), int.from_bytes(data[age.offset : age.offset + 4], "big")

    def number(self, name: str) -> int:
        """A whole number of the outputs."""
        field = next(field for field in BLOCK.outputs if field.name == name)
        return int.from_bytes(self._client.db_read(DB, field.offset, field.size), "big")

    def write(self, control: int, part_id: str | None = None) -> None:
        """Write the part id first, then the control bits, as a program does."""
        if part_id is not None:
            self.write_text("part_id", part_id)
        self._client.db_write(DB, 0, bytearray((control,)))

    def write_text(self, name: str, text: str) -> None:
        """Write a text of the controls."""
        field = next(field for field in BLOCK.controls if field.name == name)
        data = text.encode()
        self._client.db_write(DB, field.offset + 1, bytearray((len(data), *data)))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._client.disconnect()
