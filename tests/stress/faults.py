"""Causes each fault for real under a running line, and prints a table of the parts' outcomes. `make faults`.

    python tests/stress/faults.py [--only NAME] [--parts 12]

A camera streams the demo line's parts. Parts are triggered by name before, during and after the fault. Half of them are
defective, in a way that the demo's network finds with certainty. In every row no defective part is PASS, no part has two
committed verdicts, every accepted trigger is answered, and good parts are PASS again after the fault.
"""

import argparse
import contextlib
import http.server
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.paths import DEMO, SUPPORT

from anoseg_engines.bundle import load_bundle
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region
from anosegd.client import Client, ClientError
from anosegd.demo.line import DemoLine

FAULTY_DAEMON = SUPPORT / "faulty_daemon.py"
PATIENCE_S = 40.0
HOLD_S = 0.3
"""How long a part stays in front of the camera after its trigger."""
SURE = 0.2
"""A defective part scores at least this far above the threshold; a good one scores below half of it."""

H264_ENCODER = [
    *("ffmpeg", "-v", "quiet", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "320x320", "-r", "30", "-i", "-"),
    *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-crf", "18", "-g", "15", "-pix_fmt", "yuv420p"),
    *("-f", "mpegts", "-muxdelay", "0", "-muxpreload", "0", "-flush_packets", "1", "-"),
]

Image = np.ndarray[Any, np.dtype[np.uint8]]


def sure_parts(n: int) -> tuple[list[Image], list[Image]]:
    """Good and defective parts whose verdict is certain, also with a sensor's noise."""
    engine = load_engine(load_bundle(DEMO))
    line, good, bad = DemoLine(99, defect_share=0.5), [], []
    for i in itertools.count():
        if len(good) >= n and len(bad) >= n:
            engine.close()
            return good[:n], bad[:n]
        part = line.part(i)
        seen = noisy(part.image, i)
        placement = engine.place(Region(0, 0, seen.shape[1], seen.shape[0]))
        score = engine.inspect(seen, placement).score
        if part.defect and score > engine.thresholds.score + SURE:
            bad.append(part.image)
        elif not part.defect and score < engine.thresholds.score / 2:
            good.append(part.image)
    raise AssertionError


def noisy(image: Image, seed: int) -> Image:
    return np.clip(image + np.random.default_rng(seed).normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


class LiveCamera:
    """A camera that shows a given image over HTTP, and can fail. `off` and `on` unplug it and plug it in.

    Attributes:
        image: What it shows.
        mode: fine, silent (sends nothing), frozen, garbage, truncated, tailless (most images lack the tail but have an end
            marker), scanless (most are progressive and lack the last scans), doubled (most messages hold another picture
            first), small (another resolution), slow; packets lost (H.264).
        h264: Whether it sends H.264, through FFmpeg, instead of JPEG images.
    """

    def __init__(self, *, h264: bool = False) -> None:
        self.image: Image = np.zeros((320, 320, 3), np.uint8)
        self.h264 = h264
        self.mode = "fine"
        self._over = threading.Event()
        self._server: http.server.ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._seed = itertools.count(1)
        self._port = 0
        self.on()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def on(self) -> None:
        camera = self
        self._over.clear()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t" if camera.h264 else "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    if camera.h264:
                        camera._send_h264(self.wfile.write)
                    while not camera._over.wait(0.5 if camera.mode == "slow" else 0.03):
                        if camera.mode != "silent":
                            data = camera._jpeg()
                            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                            self.wfile.write(head + data + b"\r\n")

            def log_message(self, *arguments: object) -> None:
                pass

        http.server.ThreadingHTTPServer.allow_reuse_address = True
        http.server.ThreadingHTTPServer.daemon_threads = True
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def off(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None

    def _jpeg(self) -> bytes:
        image = self.image
        if self.mode == "small":
            image = cv2.resize(image, (240, 240), interpolation=cv2.INTER_AREA)
        sent = image if self.mode == "frozen" else noisy(image, next(self._seed))
        progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if self.mode == "scanless" else []
        data = cv2.imencode(".jpg", sent, progressive)[1].tobytes()
        if self.mode == "garbage":
            return np.random.default_rng(next(self._seed)).bytes(len(data))
        if self.mode == "tailless" and next(self._seed) % 4:
            return data[: len(data) * 55 // 100] + data[-2:]
        if self.mode == "scanless" and next(self._seed) % 4:
            return data[: data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)] + data[-2:]
        if self.mode == "doubled" and next(self._seed) % 4:
            return cv2.imencode(".jpg", noisy(np.full_like(image, 128), next(self._seed)))[1].tobytes() + data
        return data[: len(data) // 2] if self.mode == "truncated" else data

    def _send_h264(self, send: Callable[[bytes], object]) -> None:
        """Encode what the camera sees and send it as a transport stream, without a share of its packets if packets are lost."""
        chance = random.Random(1)
        encoder = subprocess.Popen(H264_ENCODER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert encoder.stdin is not None
        assert encoder.stdout is not None

        def feed(into: IO[bytes]) -> None:
            with contextlib.suppress(OSError), into:
                while not self._over.wait(0.03):
                    into.write(noisy(self.image, next(self._seed)).tobytes())

        feeder = threading.Thread(target=feed, args=(encoder.stdin,))
        feeder.start()
        try:
            while packet := encoder.stdout.read(188):
                if self.mode != "packets lost" or (packet[1] & 31, packet[2]) != (1, 0) or chance.random() > 0.05:
                    send(packet)
        finally:
            encoder.kill()
            encoder.wait()
            feeder.join()
            encoder.stdout.close()


@dataclass
class Rig:
    """A station under test: a live camera, the daemon, a client, and the parts that were triggered."""

    folder: Path
    camera: LiveCamera
    good: list[Image]
    bad: list[Image]
    deadline_ms: float = 1500.0
    accepted: list[str] = field(default_factory=list)
    refused: int = 0
    live: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publish, self.control = f"ipc://{self.folder}/pub", f"ipc://{self.folder}/ctl"
        (self.folder / "journal").mkdir(exist_ok=True)
        shutil.copytree(DEMO, self.folder / "store" / "demo")
        self.config = self.folder / "station.yaml"
        self.config.write_text(
            f"engine: {{bundle: store/demo}}\npublish: {{endpoint: '{self.publish}'}}\n"
            f"control: {{endpoint: '{self.control}'}}\n"
            f"journal: {{path: journal/verdicts.db}}\ncameras:\n  eye:\n    source: {{kind: url, url: '{self.camera.url}'}}\n"
            f"    policy: every\n    queue: 8\n    trigger: {{kind: software, within_ms: {HOLD_S * 900:g}}}\n"
            f"    deadline_ms: {self.deadline_ms:g}\n"
            f"    open_timeout_s: 5\n"
        )
        self._over = threading.Event()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self.start()
        self.wait_until_running()

    def start(self) -> None:
        command = [sys.executable, str(FAULTY_DAEMON), str(self.folder), "run", str(self.config)]
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)

    def _listen(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set(zmq.RCVHWM, 0)
            socket.set(zmq.RECONNECT_IVL, 10)
            socket.subscribe("verdict.")
            socket.connect(self.publish)
            while not self._over.is_set():
                while socket.poll(100):
                    self.live.append(json.loads(socket.recv_multipart()[1]))

    def state(self) -> dict[str, Any] | None:
        with Client(self.publish, self.control, request_timeout_s=1) as client, contextlib.suppress(ClientError):
            return client.status()
        return None

    def wait_until_running(self) -> float:
        """Wait until the camera delivers. Returns the seconds it took."""
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE_S:
            state = self.state()
            if state is not None and state["cameras"].get("eye", {}).get("state") == "running":
                return time.monotonic() - began
            time.sleep(0.05)
        raise SystemExit(f"the camera does not deliver: {self.state()}\n{(self.folder / 'daemon.log').read_text()[-2000:]}")

    def trigger_parts(self, phase: str, n: int) -> None:
        """Show n parts, every second one defective. Trigger each when the camera has seen it for 0.3 s."""
        for i in range(n):
            kind, images = ("bad", self.bad) if i % 2 else ("good", self.good)
            self.camera.image = images[i % len(images)]
            time.sleep(0.3)
            name = f"{phase}-{kind}-{i}-{len(self.accepted)}"
            with Client(self.publish, self.control, request_timeout_s=1) as client:
                try:
                    client.request("trigger", camera="eye", part_id=name)
                    self.accepted.append(name)
                except ClientError:
                    self.refused += 1
            time.sleep(HOLD_S)

    def finish(self) -> tuple[list[str], Counter[str], Counter[str]]:
        """Stop the daemon with SIGTERM. Returns what went wrong, and the outcomes during and after the fault."""
        time.sleep(self.deadline_ms / 1000 + 0.5)
        with Client(self.publish, self.control, request_timeout_s=10) as client:
            kept = [dict(v) for v in client.replay(1)]
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(PATIENCE_S)
        self._over.set()
        self._listener.join()
        wrong = [f"the daemon ended with {code}"] if code else []
        committed = Counter(v["part_id"] for v in kept)
        wrong += [f"{name} has {n} committed verdicts" for name, n in committed.items() if n > 1][:3]
        answered = {v["part_id"]: v for v in [*self.live, *kept]}
        wrong += [f"{name} was accepted, but has no verdict" for name in self.accepted if name not in answered][:3]
        for v in (*self.live, *kept):
            if "-bad-" in v["part_id"] and v["outcome"] == "PASS":
                wrong.append(f"{v['part_id']} is defective, but PASS (score {v['score']})")
        outcomes = {
            phase: Counter(
                f"{'bad' if '-bad-' in name else 'good'} {v['reason'] or v['outcome']}"
                for name, v in answered.items()
                if name.startswith(phase)
            )
            for phase in ("during", "after")
        }
        if not outcomes["after"]["good PASS"]:
            wrong.append("good parts are not PASS after the fault")
        if b"Traceback" in (self.folder / "daemon.log").read_bytes():
            wrong.append("a traceback in the log")
        return wrong, outcomes["during"], outcomes["after"]


# ---- the faults: each lasts as long as its context


@contextmanager
def camera_mode(rig: Rig, mode: str) -> Iterator[None]:
    rig.camera.mode = mode
    yield
    rig.camera.mode = "fine"


@contextmanager
def unplugged(rig: Rig) -> Iterator[None]:
    rig.camera.off()
    yield
    rig.camera.on()


@contextmanager
def other_resolution(rig: Rig) -> Iterator[None]:
    """The camera comes back with another resolution, as if it had lost its settings."""
    rig.camera.off()
    rig.camera.mode = "small"
    rig.camera.on()
    rig.wait_until_running()
    yield
    rig.camera.off()
    rig.camera.mode = "fine"
    rig.camera.on()


@contextmanager
def capture_killed(rig: Rig) -> Iterator[None]:
    """Kill the capture process with SIGKILL every 0.7 s."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.7):
            for task in Path(f"/proc/{rig.daemon.pid}/task").glob("*/children"):
                for pid in task.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def file_there(rig: Rig, name: str, text: str = "") -> Iterator[None]:
    (rig.folder / name).write_text(text)
    yield
    (rig.folder / name).unlink()


@contextmanager
def bundle_deleted(rig: Rig) -> Iterator[None]:
    """Delete the bundle and request a reload, which must be refused."""
    store = rig.folder / "store"
    store.rename(rig.folder / "gone")
    with Client(rig.publish, rig.control, request_timeout_s=30) as client, contextlib.suppress(ClientError):
        client.request("reload")
        raise SystemExit("a reload without a bundle was accepted")
    yield
    (rig.folder / "gone").rename(store)


@contextmanager
def disk_full(rig: Rig) -> Iterator[None]:
    filler = rig.folder / "journal" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()
    time.sleep(2)  # a failed commit is retried every second


@contextmanager
def clock_jumps(rig: Rig) -> Iterator[None]:
    over = threading.Event()

    def jump() -> None:
        for seconds in itertools.cycle((-3600, 86_400, 0, -40_000_000)):
            (rig.folder / "clock").write_text(str(seconds))
            if over.wait(0.6):
                return

    thread = threading.Thread(target=jump)
    thread.start()
    yield
    over.set()
    thread.join()
    (rig.folder / "clock").unlink()


@contextmanager
def subscriber_stuck(rig: Rig) -> Iterator[None]:
    with zmq.Context() as context:
        sockets = []
        for _ in range(20):
            socket = context.socket(zmq.SUB)
            socket.set(zmq.RCVHWM, 1)
            socket.set(zmq.LINGER, 0)
            socket.subscribe("")
            socket.connect(rig.publish)
            sockets.append(socket)
        yield
        for socket in sockets:
            socket.close()


@contextmanager
def overloaded(rig: Rig) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    yield
    for process in busy:
        process.kill()
        process.wait()


@contextmanager
def bad_reload(rig: Rig) -> Iterator[None]:
    text = rig.config.read_text()
    rig.config.write_text(text.replace("queue: 8", "queue: many"))
    with Client(rig.publish, rig.control, request_timeout_s=30) as client, contextlib.suppress(ClientError):
        client.request("reload")
        raise SystemExit("a bad configuration was accepted")
    yield
    rig.config.write_text(text)


@contextmanager
def runtime_lost(rig: Rig) -> Iterator[None]:
    """Lose the GPU's context, as it were: the daemon ends with exit code 1, and is started again, as systemd does."""
    over = threading.Event()
    lost = rig.folder / "runtime-lost"
    codes: list[int] = []

    def restart() -> None:
        while not over.wait(0.05):
            if (code := rig.daemon.poll()) is not None:
                codes.append(code)
                lost.unlink(missing_ok=True)
                rig.start()

    thread = threading.Thread(target=restart)
    thread.start()
    lost.touch()
    yield
    over.set()
    thread.join()
    if codes != [1]:
        raise SystemExit(f"a lost runtime did not end the daemon once with exit code 1, but: {codes}")


@contextmanager
def journal_log_deleted(rig: Rig) -> Iterator[None]:
    """Delete the write-ahead log of the running journal."""
    for name in ("verdicts.db-wal", "verdicts.db-shm"):
        (rig.folder / "journal" / name).unlink()
    yield


@contextmanager
def daemon_killed(rig: Rig) -> Iterator[None]:
    """Kill the daemon with SIGKILL at random, and start it again at once, as systemd does."""
    over = threading.Event()
    rng = random.Random(1)

    def kill() -> None:
        while not over.wait(rng.uniform(1.0, 3.0)):
            rig.daemon.kill()
            rig.daemon.wait()
            rig.start()

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    over.set()
    thread.join()


FAULTS: dict[str, Callable[[Rig], contextlib.AbstractContextManager[None]]] = {
    "camera lost": unplugged,
    "camera frozen": lambda rig: camera_mode(rig, "frozen"),
    "camera hung": lambda rig: camera_mode(rig, "silent"),
    "garbage frames": lambda rig: camera_mode(rig, "garbage"),
    "truncated frames": lambda rig: camera_mode(rig, "truncated"),
    "frames without a tail": lambda rig: camera_mode(rig, "tailless"),
    "frames without scans": lambda rig: camera_mode(rig, "scanless"),
    "two images a message": lambda rig: camera_mode(rig, "doubled"),
    "H.264 packets lost": lambda rig: camera_mode(rig, "packets lost"),
    "changed resolution": other_resolution,
    "slow camera": lambda rig: camera_mode(rig, "slow"),
    "capture killed": capture_killed,
    "engine error": lambda rig: file_there(rig, "engine-fails"),
    "runtime lost": runtime_lost,
    "journal's log deleted": journal_log_deleted,
    "bundle deleted": bundle_deleted,
    "disk full": disk_full,
    "clock jumping": clock_jumps,
    "subscribers stuck": subscriber_stuck,
    "overloaded threefold": overloaded,
    "bad reload": bad_reload,
    "daemon killed": daemon_killed,
}


def run_fault(name: str, parts: int, good: list[Image], bad: list[Image]) -> tuple[list[str], str, str, float]:
    """Run one row. Returns what went wrong, the outcomes during and after, and the seconds until the camera delivered again."""
    with tempfile.TemporaryDirectory(prefix="anoseg-fault-") as folder:
        camera = LiveCamera(h264=name.startswith("H.264"))
        journal = Path(folder) / "journal"
        mounted = False
        rig: Rig | None = None
        try:
            if name == "disk full":
                journal.mkdir()
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", journal], check=True)
                mounted = True
            rig = Rig(Path(folder), camera, good, bad)
            rig.trigger_parts("before", 4)
            with FAULTS[name](rig):
                rig.trigger_parts("during", parts)
            back_s = rig.wait_until_running()
            rig.trigger_parts("after", 6)
            wrong, during, after = rig.finish()
            if rig.refused and name not in ("daemon killed", "runtime lost"):
                wrong.append(f"{rig.refused} triggers were refused")
            return wrong, _in_words(during), _in_words(after), back_s
        finally:
            if rig is not None:
                rig.daemon.kill()
                rig.daemon.wait()
                rig._over.set()
            camera.off()
            if mounted:
                subprocess.run(["umount", journal], check=True)


def _in_words(outcomes: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items())) or "none"


def faults(names: list[str], parts: int) -> list[str]:
    """Run these faults and print a line for each. Returns what went wrong."""
    good, bad = sure_parts(6)
    table = Table(title="Outcomes of the parts in front of the camera, half of them defective")
    for column in ("fault", "during the fault", "after the fault", "recovered after", "result"):
        table.add_column(column, overflow="fold")
    everything = []
    for name in names:
        if name.startswith("H.264") and shutil.which("ffmpeg") is None:
            print(f"{name:22} left out: FFmpeg is missing", flush=True)
            continue
        wrong, during, after, back_s = run_fault(name, parts, good, bad)
        everything += [f"{name}: {what}" for what in wrong]
        table.add_row(name, during, after, f"{back_s:.1f} s", "; ".join(wrong) or "ok")
        print(f"{name:22} {during} | {after} | recovered after {back_s:.1f} s | {'; '.join(wrong) or 'ok'}", flush=True)
    Console(width=140).print(table)
    return everything


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--parts", type=int, default=12, help="number of parts during the fault (12)")
    options = parser.parse_args()
    return 1 if faults(options.only or list(FAULTS), options.parts) else 0


if __name__ == "__main__":
    sys.exit(main())
