"""Attaches 200 bad subscribers. The daemon's memory stays bounded, and a good subscriber gets every verdict.

    python tests/stress/crowd.py --seconds 600

Most subscribers never read; some reconnect every second. The line inspects as fast as it can and publishes masks. The daemon's
resident memory is printed while the test runs.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.rubbish import resident_mb
from stress.torture import make_line

IDLE, HASTY = 190, 9
GROWTH_MB = 120
"""Allowed growth: the unread messages up to the high-water mark. All slow subscribers share their content."""


def crowd(seconds: float, rate: float | None) -> list[str]:
    """Run the test. Returns what went wrong."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="anoseg-crowd-") as name, zmq.Context() as context:
        folder = Path(name)
        context.set(zmq.MAX_SOCKETS, 4096)
        config = make_line(folder, rate)
        config.write_text(config.read_text().replace("masks: false", "masks: true"))
        publish = f"ipc://{folder}/pub"
        daemon = subprocess.Popen([sys.executable, "-m", "anosegd", "run", str(config)], stderr=subprocess.DEVNULL)
        good = context.socket(zmq.SUB)
        good.set(zmq.RCVHWM, 0)
        good.set(zmq.RECONNECT_IVL, 10)
        good.subscribe("verdict.")
        good.connect(publish)
        crowd_sockets = []
        hasty: list[zmq.Socket[bytes]] = []
        try:
            for _ in range(IDLE):
                socket = context.socket(zmq.SUB)
                socket.linger = 0
                socket.set(zmq.RCVHWM, 10)
                socket.set(zmq.RCVBUF, 4096)
                socket.subscribe("")
                socket.connect(publish)
                crowd_sockets.append(socket)
            started = renewed = time.monotonic()
            expected, received, memory = None, 0, []
            while time.monotonic() - started < seconds:
                while good.poll(100):
                    seq = json.loads(good.recv_multipart()[1])["seq"]
                    if expected is not None and seq != expected:
                        wrong.append(f"the good subscriber missed {expected}…{seq - 1}")
                    expected, received = seq + 1, received + 1
                    if time.monotonic() - renewed > 1:
                        break
                if time.monotonic() - renewed > 1:
                    renewed = time.monotonic()
                    for socket in hasty:
                        socket.close(linger=0)
                    hasty = [context.socket(zmq.SUB) for _ in range(HASTY)]
                    for socket in hasty:
                        socket.subscribe("")
                        socket.connect(publish)
                    memory.append(resident_mb(daemon.pid))
                    sys.stdout.write(f"\r{received} verdicts, daemon {memory[-1]:.0f} MB   ")
                    sys.stdout.flush()
            third = max(1, len(memory) // 3)
            print(f"\nlargest memory: first third {max(memory[:third]):.0f} MB, last third {max(memory[-third:]):.0f} MB")
            if max(memory) - memory[0] > GROWTH_MB:
                wrong.append(f"the daemon grew by {max(memory) - memory[0]:.0f} MB")
            daemon.send_signal(signal.SIGTERM)
            if daemon.wait(30) != 0:
                wrong.append(f"the daemon ended with {daemon.returncode}")
        finally:
            daemon.kill()
            daemon.wait()
            for socket in [*crowd_sockets, *hasty, good]:
                socket.close(linger=0)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, help="parts a second (as fast as they are inspected)")
    options = parser.parse_args()
    wrong = crowd(options.seconds, options.rate)
    print("\n".join(wrong[:10]) or "memory bounded, and the good subscriber missed no verdict")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
