"""Sends malformed input to both sockets: broken requests, invalid frames, odd subscriptions, bytes that are not ZeroMQ.

    python tests/stress/rubbish.py --messages 100000

After each bad peer a good client asks for the status, and must get an answer. At the end the daemon still publishes, and its
memory has not grown. Half of the messages are requests; they come from many peers, so that the rate limit does not keep them
from the decoder. A third are frames to the publisher. The rest are raw connections.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.torture import make_line, show, wait_for_state

from anosegd.client import Client
from anosegd.control.server import RATE

GROWTH_MB = 20.0
EACH_PEER = int(RATE) - 20
OPS = ["replay", "since", "consumer", "ack", "forget", "status", "fly", "", None, 7, [], {}]
FIELDS = ["id", "from", "to", "limit", "time_ns", "name", "journal_id", "seq", "more", "op"]


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def flood_command(description: str | None, flood: Callable[[int, int], list[str]]) -> int:
    """Be the command of a rig that sends malformed frames to a bridge.

    Args:
        description: For its help.
        flood: Runs the rig with a number of frames and a seed. Returns what went wrong.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wrong = flood(options.frames, options.seed)
    print("\n".join(wrong) or "nothing wrong")
    return int(bool(wrong))


def request(rng: random.Random) -> list[bytes]:
    """The frames of one request that is malformed, or almost valid."""
    kind = rng.randrange(6)
    if kind == 0:
        return [rng.randbytes(rng.choice([0, 1, 40, 3000])) for _ in range(rng.randint(1, 4))]
    if kind == 1:
        return [rng.choice([b"[", b'{"op":', b'{"id":[']) * rng.randint(1, 2000)]
    values: list[object] = [None, -1, 1 << 70, 0.5, "", "x" * rng.randint(0, 2000), "\udc80", [], {}, [[]], True, "../x", 3]
    fields = {name: rng.choice(values) for name in rng.sample(FIELDS, rng.randint(0, 5))}
    text = json.dumps({**fields, "op": rng.choice(OPS)}).encode()
    if kind == 2:
        cut = rng.randrange(len(text))
        text = text[:cut] + rng.randbytes(rng.randint(0, 3)) + text[cut + 1 :]
    return [b"", text] if kind == 3 else [text]


def send_requests(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, rng: random.Random, n: int) -> None:
    """Send requests as one peer, which also reads the answers."""
    with context.socket(zmq.DEALER) as peer:
        peer.linger = 1000
        peer.sndtimeo = 10_000
        peer.connect(endpoint)
        for _ in range(n):
            peer.send_multipart(request(rng))
            while peer.poll(0):
                peer.recv_multipart()
        if rng.random() < 0.2:
            peer.send(b"x" * 20_000)  # larger than any request: the daemon closes the connection


def send_frames(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, rng: random.Random, n: int) -> None:
    """Send subscriptions to random topics, and invalid frames, to the publisher."""
    with context.socket(zmq.XSUB) as peer:
        peer.linger = 100
        peer.sndtimeo = 10_000
        peer.connect(endpoint)
        for _ in range(n):
            peer.send(rng.choice([b"\x01", b"\x00", b"\x02", b""]) + rng.randbytes(rng.choice([0, 1, 30, 2000])))


def send_raw(endpoint: str, rng: random.Random) -> None:
    """Send random bytes instead of a handshake, or an incomplete handshake."""
    greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL" + bytes(48)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.setblocking(False)
        while True:
            try:
                raw.connect(endpoint.removeprefix("ipc://"))
                break
            except BlockingIOError:  # the backlog is full
                time.sleep(0.01)
        raw.settimeout(10)
        try:
            raw.sendall(rng.choice([b"", greeting[: rng.randint(1, 64)], greeting]) + rng.randbytes(rng.choice([0, 10, 2000])))
        except (BrokenPipeError, ConnectionResetError):
            return


def rubbish(messages: int, seed: int) -> list[str]:
    """Run the test. Returns what went wrong."""
    rng = random.Random(seed)
    wrong = []
    with tempfile.TemporaryDirectory(prefix="anoseg-rubbish-") as name, zmq.Context() as context:
        folder = Path(name)
        publish, control = f"ipc://{folder}/pub", f"ipc://{folder}/ctl"
        command = [sys.executable, "-m", "anosegd", "run", str(make_line(folder, 40))]
        with (folder / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(command, stderr=log)
        try:
            wait_for_state(control)
            time.sleep(5)  # let its memory settle
            sent, early = 0, 0.0
            good = Client(publish, control, request_timeout_s=10)
            while sent < messages:
                kind = rng.random()
                if kind < 0.5:
                    n = EACH_PEER
                    send_requests(context, control, rng, n)
                elif kind < 0.5 + 0.5 * 2 / 3:
                    n = EACH_PEER
                    send_frames(context, publish, rng, n)
                else:
                    n = EACH_PEER
                    for _ in range(n):
                        send_raw(rng.choice([publish, control]), rng)
                sent += n
                good.status()
                time.sleep(0.01)  # stay below the limit of 100 requests a second
                early = early or (resident_mb(daemon.pid) if sent >= messages / 10 else 0.0)
                show(f"{sent} sent, daemon {resident_mb(daemon.pid):.0f} MB")
            good.close()
            grown = resident_mb(daemon.pid) - early
            show(f"{sent} sent; the daemon grew by {grown:.1f} MB after the first tenth\n")
            if grown > GROWTH_MB:
                wrong.append(f"the daemon grew by {grown:.1f} MB")
            with Client(publish, control) as client:
                before = int(client.status()["last_seq"])
                served = any(v["seq"] > before + 20 for v in client.follow(idle_s=5))
                if not served:
                    wrong.append("no more verdicts")
            daemon.send_signal(signal.SIGTERM)
            if code := daemon.wait(60):
                wrong.append(f"the daemon ended with {code}")
            if b"Traceback" in (folder / "daemon.log").read_bytes():
                wrong.append("a traceback in the log")
        finally:
            daemon.kill()
            daemon.wait()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = rubbish(options.messages, options.seed)
    print("\n".join(wrong) or "requests answered, verdicts published, memory stable")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
