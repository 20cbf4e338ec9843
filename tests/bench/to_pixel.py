"""Measures how long it takes until a person can see a reject or an alarm. `make pixel-bench`; about three minutes.

    python tests/bench/to_pixel.py [--seconds 40] [--alarms 5] [--json FILE]

The real daemon inspects ten parts of the demo line a second, every other one defective. `anosegd view` shows them in a real
headless Chromium. A plain subscriber beside it says when a program gets the same message. A script in the page notes the moment
after the browser has drawn the frame in which the reject or the alarm appeared.

reject         from the capture, and from the commit, of a rejected part to the subscriber and to the pixel
camera lost    from the end of a camera's connection, and from its loss in the station's log, to the red banner
daemon silent  from the kill of the daemon, and from its last heartbeat, to the banner. The page waits 3 s for a heartbeat
screen lost    from the kill of `anosegd view` to the banner. The page waits 1.5 s for its connection

All clocks are the machine's own. The exit code is 1 if a reject or an alarm was not drawn.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.anosegd_line import Daemon
from support.browser import Browser
from support.mjpeg_camera import mjpeg_server
from support.paths import DEMO
from support.view_server import ViewServer

from anosegd.demo.line import DemoLine

N_IMAGES = 32
FPS = 10.0
PATIENCE_S = 30.0
WATCH = """(() => {
  const drawn = (note) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => note((performance.timeOrigin + performance.now()) / 1000);
    channel.port2.postMessage(null);
  });
  window.rejects = {};
  window.alarms = [];
  const watch = (id, note) => new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) drawn((at) => note(node, at));
  }).observe(document.getElementById(id), { childList: true });
  watch("strip", (node, at) => { window.rejects[node.querySelector(".reject-part").textContent] ??= at; });
  watch("alarms", (node, at) => window.alarms.push([node.classList[1], at]));
})()"""


class Subscriber:
    """A plain subscriber on a thread of its own.

    Attributes:
        rejects: Of each rejected part: capture, commit and arrival.
        lost_at: When the heartbeat arrived that first said that the camera is lost; None while it is not.
        heartbeat_at: When the last heartbeat arrived.
        running: Whether the last heartbeat said that all cameras run.
    """

    def __init__(self, endpoint: str) -> None:
        self.rejects: dict[str, tuple[float, float, float]] = {}
        self.lost_at: float | None = None
        self.heartbeat_at = 0.0
        self.running = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._receive, args=(endpoint,))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()

    def _receive(self, endpoint: str) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.reconnect_ivl, socket.reconnect_ivl_max = 20, 100
            for topic in ("verdict.line", "state"):
                socket.subscribe(topic)
            socket.connect(endpoint)
            while not self._over.is_set():
                if socket.poll(100):
                    topic, header = socket.recv_multipart()[:2]
                    self._take(topic, json.loads(header), time.time())

    def _take(self, topic: bytes, message: dict[str, Any], now: float) -> None:
        if topic == b"state":
            cameras = message["cameras"]
            self.heartbeat_at = now
            self.running = bool(cameras) and all(camera["state"] == "running" for camera in cameras.values())
            if cameras.get("live", {}).get("state") != "lost":
                self.lost_at = None
            elif self.lost_at is None:
                self.lost_at = now
        elif message["outcome"] == "FAIL":
            self.rejects[message["part_id"]] = (_unix(message["captured_at"]), _unix(message["committed_at"]), now)


class Rig:
    """The station, its screen, the browser and the subscriber."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, list[float]] = {}
        self.missing: list[str] = []
        self._config = folder / "station.yaml"
        self._stack = contextlib.ExitStack()
        self.subscriber = Subscriber(f"ipc://{folder}/pub")
        self._camera: contextlib.AbstractContextManager[int] = mjpeg_server(0)

    def start(self) -> None:
        """Start everything, and wait until the page shows the line."""
        folder = self.folder
        self._port = self._camera.__enter__()
        self._stack.callback(lambda: self._camera.__exit__(None, None, None))
        self._config.write_text(
            f"engine: {{bundle: {DEMO}}}\npublish: {{endpoint: 'ipc://{folder}/pub'}}\n"
            f"control: {{endpoint: 'ipc://{folder}/control'}}\njournal: {{path: verdicts.db}}\ncameras:\n"
            f"  line:\n    source: {{kind: folder, path: images, preload: true, loop: true, fps: {FPS}}}\n    policy: every\n"
            f"  live:\n    source: {{kind: url, url: 'http://127.0.0.1:{self._port}/'}}\n"
            "    trigger: {kind: software}\n    policy: every\n"
        )
        self._write_parts()
        self.subscriber.start()
        self._stack.callback(self.subscriber.close)
        self._daemon = Daemon(self._config)
        self._stack.callback(lambda: self._daemon.close())  # the present one
        self._view = ViewServer(folder, str(self._config))
        self._stack.callback(lambda: self._view.close())
        self._browser = Browser(folder)
        self._stack.callback(self._browser.close)
        self._browser.open(self._view.url)
        self._wait("both cameras run", lambda: self.subscriber.running)
        self._browser.wait_for("document.querySelector('.camera[data-picture=current]') !== null")
        self._browser.evaluate(WATCH)

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def rejects(self, seconds: float) -> None:
        """Measure rejects for so long."""
        began = time.time() + 1.0
        time.sleep(seconds + 1.0)
        seen = {part: times for part, times in self.subscriber.rejects.items() if times[0] > began}
        time.sleep(1.0)
        drawn = self._browser.evaluate("window.rejects")
        for part, (captured, committed, arrived) in seen.items():
            if part not in drawn:
                self.missing.append(f"reject {part}")
                continue
            self._note("reject: capture → subscriber", arrived - captured)
            self._note("reject: capture → pixel", drawn[part] - captured)
            self._note("reject: commit → pixel", drawn[part] - committed)
            self._note("reject: subscriber → pixel", drawn[part] - arrived)

    def camera_lost(self) -> None:
        """End the camera's connection once, and bring the camera back."""
        self._forget_alarms()
        began = time.time()
        self._camera.__exit__(None, None, None)
        self._wait("the station lost the camera", lambda: self.subscriber.lost_at is not None)
        if (drawn := self._drawn("lost")) is not None:
            logged = [_unix(event["at"]) for event in self._daemon.events if event["event"] == "camera.lost"]
            after = [at for at in logged if at >= began]
            self._note("camera lost: end of connection → pixel", drawn - began)
            self._note("camera lost: log → pixel", drawn - min(after))
            self._note("camera lost: subscriber → pixel", drawn - (self.subscriber.lost_at or drawn))
        self._camera = mjpeg_server(self._port)
        self._camera.__enter__()
        self._wait("the camera is back", lambda: self.subscriber.running)
        self._browser.wait_for("document.querySelector('.alarm.lost') === null")

    def daemon_silent(self) -> None:
        """Kill the daemon once, and start it again."""
        self._forget_alarms()
        self._daemon.process.kill()
        killed = time.time()
        self._daemon.process.wait()
        if (drawn := self._drawn("silent")) is not None:
            self._note("daemon silent: kill → pixel", drawn - killed)
            self._note("daemon silent: last heartbeat → pixel", drawn - self.subscriber.heartbeat_at)
        self.subscriber.running = False
        self._daemon = Daemon(self._config)
        self._wait("the daemon is back", lambda: self.subscriber.running)
        self._browser.wait_for("document.querySelector('.alarm') === null")

    def screen_lost(self) -> None:
        """Kill the screen's server once, and start it again."""
        self._forget_alarms()
        port = self._view.port
        self._view.process.kill()
        killed = time.time()
        self._view.close()
        if (drawn := self._drawn("connection")) is not None:
            self._note("screen lost: kill → pixel", drawn - killed)
        self._view = ViewServer(self.folder, str(self._config), listen=f"127.0.0.1:{port}")
        self._browser.wait_for("document.querySelector('.alarm') === null")

    def _note(self, what: str, seconds: float) -> None:
        self.found.setdefault(what, []).append(seconds)

    def _forget_alarms(self) -> None:
        self._browser.evaluate("void (window.alarms = [])")

    def _drawn(self, kind: str) -> float | None:
        """Return when a banner of this kind was drawn; None, noted as missing, if it does not come."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = [at for name, at in self._browser.evaluate("window.alarms") if name == kind]
            if found:
                return float(found[0])
            time.sleep(0.1)
        self.missing.append(f"alarm {kind}")
        return None

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 2 * PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"never: {what}\n{self._daemon.log[-2000:]}")
            time.sleep(0.02)

    def _write_parts(self) -> None:
        """Write good and defective parts in turn."""
        (self.folder / "images").mkdir()
        line = DemoLine(3)
        parts = [line.part(i) for i in range(20 * N_IMAGES)]
        good = [part.image for part in parts if part.defect is None]
        bad = [part.image for part in parts if part.defect is not None]
        for i in range(N_IMAGES):
            cv2.imwrite(str(self.folder / "images" / f"{i:03}.png"), (bad if i % 2 else good)[i // 2])


def measure(seconds: float, alarms: int) -> tuple[dict[str, list[float]], list[str]]:
    """Make all measurements; return the seconds, and what was not drawn."""
    with tempfile.TemporaryDirectory(prefix="pixel-") as made:
        rig = Rig(Path(made))
        try:
            rig.start()
            rig.rejects(seconds)
            for cause in (rig.camera_lost, rig.screen_lost, rig.daemon_silent):
                for _ in range(alarms):
                    cause()
        finally:
            rig.close()
        return rig.found, rig.missing


def _figures(found: dict[str, list[float]]) -> Iterator[tuple[str, dict[str, float]]]:
    for what, seconds in found.items():
        p50, p95 = 1000 * np.percentile(seconds, [50, 95])
        yield what, {"n": len(seconds), "p50 ms": float(p50), "p95 ms": float(p95), "max ms": 1000 * max(seconds)}


def _unix(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="how long rejects are measured (40)")
    parser.add_argument("--alarms", type=int, default=5, help="alarms of each kind (5)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found, missing = measure(options.seconds, options.alarms)
    figures = dict(_figures(found))
    table = Table("from → to", "n", "p50 ms", "p95 ms", "max ms")
    for what, row in figures.items():
        table.add_row(what, f"{row['n']}", *(f"{row[name]:.0f}" for name in ("p50 ms", "p95 ms", "max ms")))
    Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "missing": missing}, indent=1))
    for what in missing:
        print(f"WRONG, not drawn: {what}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
