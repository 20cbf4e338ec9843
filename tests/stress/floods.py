"""Attacks both sockets over TCP, with and without keys. The station goes on, and its memory, files and log stay bounded.

    python tests/stress/floods.py --frames 100000            # without keys
    python tests/stress/floods.py --frames 100000 --keys     # the attackers have no key, or one that may listen

Malformed frames and connections come from everywhere at once: bytes that are not ZeroMQ, handshakes cut anywhere, wrong
mechanisms, lengths that are too large, messages of thousands of frames, requests that are no requests. Hundreds of connections
stay half open, and a hundred clients come and go. A good client in a process of its own follows all the time: each verdict must
reach it once, in order and live, as many a second as before the attack.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.rubbish import resident_mb
from stress.torture import make_line, show, wait_for_state
from support.zmtp import command, frame, greeting, handshake, ready

from anosegd.client import Client, ClientError, Key, connect
from anosegd.control.rates import RATE
from anosegd.keys.files import keep_out_of_core_dumps, new_client_key, new_station_key, write_key

PARTS_PER_S = 20
CROWD_MB = 50.0
"""What hundreds of connections may take, once."""
GROWTH_MB = 10.0
"""What more may be taken after the first third of the attack."""
PEAK_MB = 250.0
"""What a flood may take until the next check of its connection."""
LINES_PER_S = 25
MORE = 1
TLS = bytes.fromhex("16030100750100007103035355e6")
STRANGERS = (b"GET / HTTP/1.1\r\nHost: station\r\n\r\n", TLS, b"\0" * 200, b"\xff" * 200, b"SSH-2.0-OpenSSH_9.2\r\n")
OPS = ("replay", "since", "consumer", "ack", "forget", "status", "trigger", "swap", "pause", "fly", "", None, 7, [], {})
FIELDS = ("id", "from", "to", "limit", "time_ns", "name", "journal_id", "seq", "camera", "part_id", "who", "why", "more")
VALUES = (None, -1, 1 << 70, 0.5, 1e308, "", "x" * 2000, "\udc80", "\0", [], {}, [[]], True, "../x", 3)


@dataclass(frozen=True)
class Station:
    """The attacked station.

    Attributes:
        publish, control: Its ports.
        key: A key that may listen; None without keys.
    """

    publish: int
    control: int
    key: Key | None

    def url(self, port: int) -> str:
        return f"tcp://127.0.0.1:{port}"


# ---- connections by hand


def raw_bytes(rng: random.Random, station: Station) -> tuple[int, list[bytes]]:
    """Bytes that are not ZeroMQ, and handshakes that are cut or wrong. Returns the port and what to send."""
    port = rng.choice((station.publish, station.control))
    mechanism = rng.choice((b"NULL", b"PLAIN", b"CURVE", b"GSSAPI", b"", rng.randbytes(20)))
    hello = greeting(mechanism, version=rng.choice((b"\3\0", b"\3\1", b"\2\0", b"\1", b"\xff\xff")))
    kind = rng.randrange(6)
    if kind == 0:
        return port, [rng.choice((*STRANGERS, rng.randbytes(rng.randint(0, 3000))))]
    if kind == 1:
        return port, [hello[: rng.randint(0, 64)]]
    if kind == 2:
        return port, [hello, command(rng.choice((b"READY", b"HELLO", b"ERROR", b"")), rng.randbytes(rng.randint(0, 300)))]
    if kind == 3:
        curve = rng.choice((b"\1\0", b"\0\0")) + bytes(72) + rng.randbytes(rng.choice((0, 120, 118, 2000)))
        return port, [greeting(b"CURVE"), command(b"HELLO", curve), command(b"INITIATE", rng.randbytes(400))]
    if kind == 4:
        size = rng.choice((1 << 63, (1 << 63) - 1, 1 << 32, 33_000, 0))
        return port, [greeting(), ready(b"DEALER"), bytes([rng.randrange(256)]) + struct.pack(">Q", size) + rng.randbytes(500)]
    broken = ready(rng.choice((b"DEALER", b"SUB", b"ROUTER", b"x" * 200)))
    cut = rng.randrange(len(broken))
    return port, [greeting(), broken[:cut] + rng.randbytes(3) + broken[cut + 1 :]]


def send_raw(rng: random.Random, station: Station) -> int:
    """Open a connection, send, and close it, in order or not."""
    port, parts = raw_bytes(rng, station)
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.settimeout(0.05)
        for part in parts:
            peer.sendall(part)
            if len(parts) > 1 and rng.random() < 0.5:
                with suppress(TimeoutError):
                    peer.recv(200)
        if rng.random() < 0.3:  # reset
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return max(1, len(parts) - 1)


def send_without_an_end(rng: random.Random, station: Station) -> int:
    """Send frames of a message that never ends, or subscriptions, until the connection is closed."""
    port, kind = rng.choice(((station.publish, b"SUB"), (station.control, b"DEALER")))
    part = frame(b"x" * 900, MORE) if rng.random() < 0.5 else frame(b"\1" + rng.randbytes(20))
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as peer:
        handshake(peer, kind)
        for _ in range(20):
            peer.sendall(part * 500)
    return 1


# ---- what a ZeroMQ library can send


def request(rng: random.Random) -> list[bytes]:
    """The frames of one request that is malformed, or almost valid."""
    kind = rng.randrange(9)
    if kind == 0:
        return [rng.randbytes(rng.choice((0, 1, 40, 3000))) for _ in range(rng.randint(1, 4))]
    if kind == 1:
        return [rng.choice((b"[", b'{"op":', b'{"id":[')) * rng.randint(1, 4000)]
    if kind == 2:
        return [
            b'{"op": "set_threshold", "camera": "line", "value": %b, "who": "x", "why": "y"}' % rng.choice((b"NaN", b"1e999"))
        ]
    if kind == 3:
        return [b'{"op": "status", "op": "fly", "id": 1, "id": [1]}']
    if kind == 4:
        return [b"{}"] * rng.choice((5, 50, 3000))
    if kind == 5 and rng.random() < 0.05:
        return [b'{"op": "status", "id": "%b"}' % (b"x" * rng.choice((32_000, 32_768, 40_000)))]
    fields = {name: rng.choice(VALUES) for name in rng.sample(FIELDS, rng.randint(0, 5))}
    text = json.dumps({**fields, "op": rng.choice(OPS)}).encode()
    if kind == 6:
        cut = rng.randrange(len(text))
        text = text[:cut] + rng.randbytes(rng.randint(0, 3)) + text[cut + 1 :]
    return [b"", text] if kind == 7 else [text]


def send_requests(rng: random.Random, station: Station, context: zmq.Context[zmq.Socket[bytes]]) -> int:
    """Send requests as one peer that may or may not read the answers."""
    reads, sent = rng.random() < 0.7, 0
    with context.socket(zmq.DEALER) as peer:
        peer.linger, peer.sndtimeo = 200, 1000
        connect(peer, station.url(station.control), station.key)
        with suppress(zmq.Again):
            for _ in range(int(RATE)):
                parts = request(rng)
                peer.send_multipart(parts)
                sent += 1
                while reads and peer.poll(0):
                    peer.recv_multipart()
    return sent


def send_subscriptions(rng: random.Random, station: Station, context: zmq.Context[zmq.Socket[bytes]]) -> int:
    """Send odd subscriptions and frames to the publisher."""
    sent = 0
    with context.socket(zmq.XSUB) as peer:
        peer.linger, peer.sndtimeo = 200, 1000
        connect(peer, station.url(station.publish), station.key)
        with suppress(zmq.Again):
            for _ in range(100):
                first = rng.choice((b"\x01", b"\x00", b"\x02", b""))
                content = first + rng.randbytes(rng.choice((0, 1, 30, 90, 200, 2000)))
                # Of several frames, libzmq leaves out ends of subscriptions that it does not have, and then ends this program.
                peer.send_multipart([content] * (rng.choice((1, 500)) if content[:1] > b"\x01" else 1))
                sent += 1
    return sent


# ---- all the time


def hold_half_open(station: Station, count: int, stop: threading.Event) -> None:
    """Keep connections half open: each sends a byte of its greeting a second, and is opened again when it is closed."""
    peers: list[tuple[socket.socket, int]] = []
    while not stop.wait(1.0):
        kept = []
        for peer, sent in peers:
            try:
                peer.send(greeting(b"CURVE")[sent : sent + 1])
                kept.append((peer, sent + 1))
            except OSError:
                peer.close()
        while len(kept) < count and not stop.is_set():
            peer = socket.create_connection(("127.0.0.1", station.control if len(kept) % 2 else station.publish), 10)
            peer.setblocking(False)
            kept.append((peer, 0))
        peers = kept
    for peer, _ in peers:
        peer.close()


def come_and_go(station: Station, stop: threading.Event, wrong: list[str]) -> None:
    """Be one client after the other: take a few verdicts, ask for the status, leave."""
    rng = random.Random(threading.get_ident())
    while not stop.wait(rng.random()):
        with Client(
            station.url(station.publish), station.url(station.control), key=station.key, request_timeout_s=30
        ) as client:
            try:
                for number, _ in enumerate(client.follow(idle_s=30)):
                    if number >= 3 or stop.is_set():
                        break
                else:
                    wrong.append("a client that came got no verdict for 30 s")
                client.status()
            except ClientError as error:
                if "busy" not in str(error):  # all have one key, and so one rate
                    wrong.append(f"a client that came: {error}")


def watch(publish: str, control: str, key: str | None) -> None:
    """The good client: print each verdict's number, how it came, and when."""
    with Client(publish, control, key=Key.read(key) if key else None, request_timeout_s=20) as client:
        for verdict in client.follow():
            print(verdict["seq"], int(verdict.replayed), time.monotonic(), flush=True)


# ---- the rig


def write_keys(folder: Path, config: Path) -> tuple[Key, Path]:
    """Give the station keys. Returns the attackers' key and the file of the good client's."""
    (folder / "clients").mkdir(mode=0o755)
    station = new_station_key()
    write_key(folder / "station.key", station)
    secrets = {}
    for name in ("attacker", "good"):
        secrets[name], authorised = new_client_key(name, station.public, control=name == "good", expires=None)
        write_key(folder / f"{name}.key", secrets[name])
        write_key(folder / "clients" / f"{name}.pub", authorised)
    config.write_text(config.read_text() + f"keys: {{station: {folder}/station.key, clients: {folder}/clients}}\n")
    return Key.read(folder / "attacker.key"), folder / "good.key"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def attack(publish: int, control: int, key: str, seed: int, frames: int) -> None:
    """Be the attackers: send so many malformed frames, and print how many after each step."""
    keep_out_of_core_dumps()  # libzmq may abort this process, see `run_attackers`
    station = Station(publish, control, Key.read(key) if key else None)
    rng, sent = random.Random(seed), 0
    with zmq.Context() as context:
        while sent < frames:
            kind = rng.random()
            if kind < 0.4:
                sent += sum(send_raw(rng, station) for _ in range(50))
            elif kind < 0.7:
                sent += send_requests(rng, station, context)
            elif kind < 0.95:
                sent += send_subscriptions(rng, station, context)
            else:
                sent += send_without_an_end(rng, station)
            print(sent, flush=True)


def run_attackers(station: Station, key: str, frames: int, seed: int, on_step: Callable[[int], None]) -> int:
    """Run attackers until there were enough malformed frames. Returns how many.

    libzmq 4.3.5 may end their process (session_base.cpp:233) when it closes a socket and the station closes the connection, in
    the middle of a message of many frames. Then others take over.
    """
    sent = 0
    while sent < frames:
        seed += 1
        ports = (str(station.publish), str(station.control))
        command = [sys.executable, __file__, "--attack", *ports, key, str(seed), str(frames - sent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            before = sent
            try:
                for line in process.stdout:
                    sent = before + int(line)
                    on_step(sent)
            finally:
                process.kill()
    return sent


def rate(verdicts: list[tuple[int, int, float]]) -> float:
    return (len(verdicts) - 1) / (verdicts[-1][2] - verdicts[0][2]) if len(verdicts) > 1 else 0.0


def floods(frames: int, *, half_open: int, clients: int, keys: bool, seed: int, settle_s: float, rate_kept: float) -> list[str]:
    """Run the test. Returns what went wrong. `rate_kept` is the share of the rate before that must be left in the attack."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="anoseg-floods-") as name:
        folder = Path(name)
        config = make_line(folder, PARTS_PER_S)
        station = Station(free_port(), free_port(), None)
        text = config.read_text().replace(f"ipc://{folder}/pub", station.url(station.publish))
        config.write_text(text.replace(f"ipc://{folder}/ctl", station.url(station.control)))
        good_key: Path | None = None
        if keys:
            key, good_key = write_keys(folder, config)
            station = Station(station.publish, station.control, key)
        with (folder / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen([sys.executable, "-m", "anosegd", "run", str(config)], stderr=log)
        watching: subprocess.Popen[str] | None = None
        stop = threading.Event()
        threads: list[threading.Thread] = []
        try:
            wait_for_state(station.url(station.control), station.key)
            urls = [station.url(station.publish), station.url(station.control), *([str(good_key)] if good_key else [])]
            with (folder / "watched").open("w") as out:
                watching = subprocess.Popen([sys.executable, __file__, "--watch", *urls], stdout=out)
            time.sleep(settle_s)
            before_mb, before_files, began = resident_mb(daemon.pid), open_files(daemon.pid), time.monotonic()
            peak_mb = early_mb = 0.0

            def step(sent: int) -> None:
                nonlocal peak_mb, early_mb
                peak_mb = max(peak_mb, resident_mb(daemon.pid))
                if sent < frames / 3:
                    early_mb = peak_mb
                show(f"{sent} frames, daemon {resident_mb(daemon.pid):.0f} MB, {open_files(daemon.pid)} files")

            threads = [threading.Thread(target=come_and_go, args=(station, stop, wrong)) for _ in range(clients)]
            threads.append(threading.Thread(target=hold_half_open, args=(station, half_open, stop)))
            for thread in threads:
                thread.start()
            sent = run_attackers(station, str(folder / "attacker.key") if keys else "", frames, seed, step)
            ended = time.monotonic()
            stop.set()
            for thread in threads:
                thread.join()
            time.sleep(settle_s)
            after_mb, after_files = resident_mb(daemon.pid), open_files(daemon.pid)
            daemon.send_signal(signal.SIGTERM)
            if code := daemon.wait(60):
                wrong.append(f"the daemon ended with {code}")
            time.sleep(1)
            watching.kill()
            watching.wait()
            lines = (folder / "daemon.log").read_text().splitlines()
            verdicts = [
                (int(seq), int(old), float(at))
                for seq, old, at in map(str.split, (folder / "watched").read_text().splitlines())
            ]
        finally:
            stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            for process in (watching, daemon):
                if process is not None:
                    process.kill()
                    process.wait()
    took = ended - began
    seqs = [seq for seq, _, _ in verdicts]
    calm, attacked = ([v for v in verdicts if low <= v[2] < high] for low, high in ((began - settle_s, began), (began, ended)))
    show(
        f"{sent} frames in {took:.0f} s; {before_mb:.0f} MB before, {early_mb:.0f} after a third, {peak_mb:.0f} at most, "
        f"{after_mb:.0f} after; "
        f"{before_files} files before, {after_files} after; {rate(calm):.1f} verdicts/s before, {rate(attacked):.1f} in it, "
        f"{sum(old for _, old, _ in attacked)} of {len(attacked)} from the journal; {len(lines) / took:.1f} log lines/s\n"
    )
    if not seqs or seqs != list(range(seqs[0], seqs[0] + len(seqs))):
        wrong.append("the good client missed verdicts, or got some twice")
    if rate(attacked) < rate_kept * rate(calm):
        wrong.append(f"{rate(attacked):.1f} verdicts a second instead of {rate(calm):.1f}")
    if after_mb > min(early_mb + GROWTH_MB, before_mb + CROWD_MB) or peak_mb > before_mb + PEAK_MB:
        wrong.append(f"memory: {before_mb:.0f} MB before, {peak_mb:.0f} at most, {after_mb:.0f} after")
    if after_files > before_files + 4:
        wrong.append(f"files: {before_files} before, {after_files} after")
    if len(lines) > LINES_PER_S * took + 50:
        wrong.append(f"{len(lines)} log lines in {took:.0f} s")
    if any("Traceback" in line or '"thread.died"' in line for line in lines):
        wrong.append("a traceback in the log")
    return wrong


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names are not needed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--half-open", type=int, default=500)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settle", type=float, default=8, metavar="S", help="seconds of rest before and after (8)")
    parser.add_argument("--watch", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--attack", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        publish, control, key, seed, frames = options.attack
        attack(int(publish), int(control), key, int(seed), int(frames))
        return 0
    if options.watch:
        watch(options.watch[0], options.watch[1], options.watch[2] if len(options.watch) > 2 else None)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the station ends, too
    wrong = floods(
        options.frames,
        half_open=options.half_open,
        clients=options.clients,
        keys=options.keys,
        seed=options.seed,
        settle_s=options.settle,
        rate_kept=0.9,
    )
    print("\n".join(sorted(set(wrong))) or "every verdict arrived live and in order; memory, files and log stayed bounded")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
