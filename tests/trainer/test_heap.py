"""Large blocks that are freed can be returned to the system, although small ones stay between them."""

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from anoseg_trainer.heap import return_free_memory

def resident_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

first = bytearray(b"x" * 20_000_000)
del first  # from now on, glibc has blocks of this size in the heap
before = resident_kib()
large, small = [], []
for i in range(20):
    large.append(bytearray(b"x" * 4_000_000))
    small.append(bytearray(b"x" * (100_000 + i)))
large.clear()
if sys.argv[1] == "returned":
    return_free_memory()
print(resident_kib() - before)
"""


def grown_kib(where: str) -> int:
    return int(subprocess.run([sys.executable, "-c", SCRIPT, where], check=True, capture_output=True, text=True).stdout)


def test_free_memory_is_returned() -> None:
    """Blocks of 4 MB are freed. Small blocks between them keep some in the heap, until it is returned."""
    assert grown_kib("kept") > 5_000
    assert grown_kib("returned") < 4_000
