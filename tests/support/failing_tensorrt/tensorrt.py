"""A module in the place of TensorRT whose builder fails in the way that the environment variable FAILURE names."""

import os
import signal
import sys
import time
from pathlib import Path

__version__ = "10.3.0"


class ILogger:
    INTERNAL_ERROR, ERROR = "internal error", "error"


def Builder(log: object) -> None:  # noqa: N802 - TensorRT's name
    failure = os.environ["FAILURE"]
    print("the last line that TensorRT printed", file=sys.stderr, flush=True)
    if failure == "exception":
        raise KeyError("a type that this version does not have")
    if failure == "memory error":
        raise MemoryError
    if failure == "exit code":
        os._exit(7)
    if failure == "silent":
        time.sleep(600)
    if failure == "bad_alloc":
        print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
        os.abort()
    if failure == "kernel":  # as if the kernel had chosen this process
        vmstat = Path(os.environ["VMSTAT"])
        vmstat.write_text(vmstat.read_text().replace("oom_kill 3", "oom_kill 4"))
    if failure == "priority":
        raise KeyError(Path("/proc/self/oom_score_adj").read_text().strip())
    os.kill(os.getpid(), {"crash": signal.SIGSEGV, "kernel": signal.SIGKILL, "killed": signal.SIGKILL}[failure])
