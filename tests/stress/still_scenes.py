"""Cameras before a part that stands still, and cameras that really freeze. `make still-scenes`.

    python tests/stress/still_scenes.py [--seconds 600] [--scene NAME] [--no-freeze]

One daemon has every kind of stream twice: in free run, and with software triggers. First the scenes are still, with a sensor's
noise: no part may be UNKNOWN, and no camera may be restarted. Then each camera freezes in every way it can: its process stops,
its time stamps stop, or it repeats one frame. This must be noticed within two seconds, and at a trigger at once.
"""

import abc
import argparse
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.real_cameras import RTSP_CAMERA, SYSTEM_PYTHON
from support.anosegd_line import Daemon, Listener
from support.mjpeg_camera import mjpeg_server
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle_writer import write_bundle
from anosegd.client import Client

LIMIT_S = 2.0
TRIGGER_EVERY_S = 0.5
PATIENCE_S = 30.0
HEIGHT, WIDTH = 120, 160


class Scene(abc.ABC):
    """A camera before a still part.

    Attributes:
        source: Its YAML for the configuration, once it is started.
        faults: The ways in which it can freeze.
    """

    source = ""
    faults: tuple[str, ...] = ()

    @abc.abstractmethod
    def start(self, folder: Path) -> None:
        """Start the camera."""

    def freeze(self, fault: str) -> None:
        """Freeze it in one of its ways."""
        raise ValueError(f"{type(self).__name__} cannot freeze as '{fault}'; it has {self.faults}")

    def thaw(self) -> None:
        """Let it go on. A scene that cannot freeze goes on anyway."""
        assert not self.faults

    def stop(self) -> None:  # noqa: B027 - a file needs no end
        """End what was started."""


class Rtsp(Scene):
    faults = ("process stopped", "stamps stopped", "one frame repeated")

    def __init__(self, *options: str) -> None:
        self._options = options

    def start(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.source = f"{{kind: url, url: 'rtsp://127.0.0.1:{port}/live'}}"
        command = [SYSTEM_PYTHON, str(RTSP_CAMERA), str(port), "--still", *self._options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit("the RTSP server did not start: gir1.2-gst-rtsp-server-1.0 and GStreamer's plugins are needed")

    def freeze(self, fault: str) -> None:
        if fault == "process stopped":
            self._process.send_signal(signal.SIGSTOP)
        else:
            self._say("stop" if fault == "stamps stopped" else "repeat")

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._say("fine")

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()


class HttpMjpeg(Scene):
    """Has no time stamps. `process stopped` is a server that sends nothing more."""

    faults = ("process stopped", "one frame repeated")

    def __init__(self) -> None:
        self._fault = ""
        self._going = threading.Event()
        self._going.set()

    def start(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        port = self._stack.enter_context(mjpeg_server(0, self._picture, pause_s=1 / RATE))
        self.source = f"{{kind: url, url: 'http://127.0.0.1:{port}/'}}"

    def freeze(self, fault: str) -> None:
        self._fault = fault
        if fault == "process stopped":
            self._going.clear()

    def thaw(self) -> None:
        self._fault = ""
        self._going.set()

    def stop(self) -> None:
        self.thaw()
        self._stack.close()

    def _picture(self, number: int) -> np.ndarray:
        self._going.wait()
        return still_picture(0 if self._fault == "one frame repeated" else 1 + number)


class VideoFile(Scene):
    """A file of a still part, played in a loop."""

    def start(self, folder: Path) -> None:
        path = folder / "still.mp4"
        command = [
            "ffmpeg",
            "-loglevel",
            "error",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "bgr24",
            "-s",
            f"{WIDTH}x{HEIGHT}",
            "-r",
            str(RATE),
        ]
        command += ["-i", "-", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "28", "-pix_fmt", "yuv420p", str(path)]
        film = b"".join(still_picture(n).tobytes() for n in range(250))
        subprocess.run(command, input=film, check=True)
        self.source = f"{{kind: file, path: {path}, loop: true}}"


RATE = 10
SCENES: dict[str, Scene] = {
    "h264-30": Rtsp("--key", "30", "--quantizer", "28", "--rate", str(RATE)),
    "h264-250": Rtsp("--key", "250", "--quantizer", "28", "--rate", str(RATE)),
    "mjpeg-rtsp": Rtsp("--codec", "mjpeg", "--rate", str(RATE)),
    "mjpeg-http": HttpMjpeg(),
    "file": VideoFile(),
}


def still_picture(number: int) -> np.ndarray:
    """A part that the tests' bundle passes, with a sensor's noise."""
    shading = np.linspace(120, 132, WIDTH)[None, :, None]
    noise = np.random.default_rng(number).normal(0, 1, (HEIGHT, WIDTH, 1))
    return np.repeat(np.clip(shading + noise, 0, 255), 3, axis=2).astype(np.uint8)


@dataclass
class Seen:
    """How a frozen camera showed itself: what, and after how many seconds."""

    what: str
    after_s: float


class Rig:
    """A daemon with every scene twice, NAME-free and NAME-trig, and what it published."""

    def __init__(self, folder: Path, scenes: dict[str, Scene]) -> None:
        self.publish, self.control = f"ipc://{folder}/pub", f"ipc://{folder}/ctl"
        self.names = list(scenes)
        write_bundle(folder / "store" / "tiny", replace(tiny_draft(), score_threshold=0.5))
        text = (
            f"engine: {{bundle: store/tiny, threads: 1}}\npublish: {{endpoint: '{self.publish}', masks: false}}\n"
            f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}\ncameras:\n"
        )
        for name, scene in scenes.items():
            text += f"  {name}-free: {{source: {scene.source}, policy: every, queue: 8}}\n"
            # Parts of a still scene may be equal: the encoder sends no difference between two key frames.
            trigger = "{kind: software, within_ms: 1000}"
            text += (
                f"  {name}-trig: {{source: {scene.source}, policy: every, queue: 8, repeats: allowed, trigger: {trigger}}}\n"
            )
            text += f"  {name}-strict: {{source: {scene.source}, policy: every, queue: 8, trigger: {trigger}}}\n"
        config = folder / "station.yaml"
        config.write_text(text)
        self._listener = Listener(self.publish)
        self.daemon = Daemon(config)
        self.states: list[tuple[float, dict[str, Any]]] = []
        self.verdicts: list[tuple[float, dict[str, Any]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self._client = Client(self.publish, self.control, request_timeout_s=PATIENCE_S)

    def _listen(self) -> None:
        while not self._over.is_set():
            message = self._listener.take()
            if message is not None:
                kept = self.states if message.topic == "state" else self.verdicts
                kept.append((time.monotonic(), message.header))

    def running(self) -> bool:
        return bool(self.states) and all(c["state"] == "running" for c in self.states[-1][1]["cameras"].values())

    def wait_until_running(self) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not self.running():
            if time.monotonic() > give_up_at:
                raise SystemExit(f"a camera does not deliver:\n{self.daemon.log[-3000:]}")
            time.sleep(0.05)

    def trigger(self, name: str, kind: str = "trig") -> str:
        return str(self._client.request("trigger", camera=f"{name}-{kind}")["part_id"])

    def outcome_of(self, part_id: str) -> str:
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            for _, verdict in reversed(self.verdicts):
                if verdict["part_id"] == part_id:
                    return str(verdict["reason"] or verdict["outcome"])
            time.sleep(0.02)
        return "no verdict"

    def camera(self, name: str) -> dict[str, Any]:
        return dict(self.states[-1][1]["cameras"][name])

    def seen(self, name: str, since: float, repeated: int | None) -> Seen | None:
        """How the free-running camera shows that it has frozen; None if it does not.

        Args:
            name: The scene.
            since: When it froze.
            repeated: Its repeated frames until then, if one more is a sign; None if it is none.
        """
        give_up_at = since + 3 * LIMIT_S
        while time.monotonic() < give_up_at:
            for at, state in self.states[::-1]:
                if at <= since:
                    break
                camera = state["cameras"][f"{name}-free"]
                if camera["state"] == "lost":
                    return Seen("lost", at - since)
                if repeated is not None and camera["repeated"] > repeated:
                    return Seen("counted as repeated", at - since)
            for at, verdict in self.verdicts[::-1]:
                if at <= since:
                    break
                if verdict["camera"] == f"{name}-free" and verdict["reason"] == "repeated_frame":
                    return Seen("UNKNOWN: repeated_frame", at - since)
            time.sleep(0.02)
        return None

    def close(self) -> int:
        code = self.daemon.terminate()
        self._client.close()
        self._over.set()
        self._thread.join()
        self._listener.close()
        return code


def watch(rig: Rig, seconds: float) -> list[str]:
    """Inspect the still scenes and print a table. Returns what went wrong."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in rig.names:
            rig.trigger(name)
        time.sleep(TRIGGER_EVERY_S)
    time.sleep(1.5)
    table = Table(title=f"Still scenes, {seconds:.0f} s each")
    for column in ("camera", "PASS", "FAIL", "UNKNOWN", "repeated", "dropped", "restarts", "note"):
        table.add_column(column)
    wrong = []
    outcomes = Counter((v["camera"], v["reason"] or v["outcome"]) for _, v in rig.verdicts)
    for name in (f"{scene}-{kind}" for scene in rig.names for kind in ("free", "trig")):
        camera = rig.camera(name)
        counts = camera["counts"]
        unknown = {what: n for (of, what), n in outcomes.items() if of == name and what not in ("PASS", "FAIL")}
        table.add_row(
            name, str(counts["passed"]), str(counts["failed"]), str(unknown or 0), str(camera["repeated"]),
            str(camera["dropped"]), str(camera["restarts"]), camera["note"] or "",
        )  # fmt: skip
        if unknown or counts["failed"]:
            wrong.append(f"{name}: {unknown} UNKNOWN, {counts['failed']} FAIL of a good part that stands still")
        if camera["restarts"]:
            wrong.append(f"{name}: {camera['restarts']} restarts: {camera['last_error']}")
        if not counts["passed"]:
            wrong.append(f"{name}: nothing was inspected")
    Console(width=150).print(table)
    return wrong


def freeze(rig: Rig, scenes: dict[str, Scene]) -> list[str]:
    """Freeze every camera in every way and print a table. Returns what went wrong."""
    table = Table(title="Frozen cameras")
    for column in ("camera", "fault", "in free run", "after", "two parts triggered at once"):
        table.add_column(column)
    wrong = []
    for name, fault in ((name, fault) for name, scene in scenes.items() for fault in scene.faults):
        rig.wait_until_running()
        time.sleep(5)  # the stamps are known
        living = rig.outcome_of(rig.trigger(name, "strict"))
        repeated = rig.camera(f"{name}-free")["repeated"] if fault == "one frame repeated" else None
        since = time.monotonic()
        scenes[name].freeze(fault)
        time.sleep(0.3)
        parts = [rig.trigger(name, "strict")]
        time.sleep(0.4)
        parts.append(rig.trigger(name, "strict"))
        seen = rig.seen(name, since, repeated)
        outcomes = [rig.outcome_of(part) for part in parts]
        scenes[name].thaw()
        table.add_row(
            name, fault, seen.what if seen else "not seen", f"{seen.after_s:.2f} s" if seen else "", ", ".join(outcomes)
        )
        if seen is None or seen.after_s > LIMIT_S:
            wrong.append(f"{name}, {fault}: {seen or 'not seen'}")
        # A picture that H.264 encodes again and again gives another frame at every key frame. Such a stream cannot be told from
        # that of a living scene in which nothing moves: only two parts between the same key frames look alike.
        some = fault == "one frame repeated" and name.startswith("h264")
        if outcomes.count("PASS") > some:
            wrong.append(f"{name}, {fault}: triggered parts were {', '.join(outcomes)}; before: {living}")
    Console(width=150).print(table)
    return wrong


@contextlib.contextmanager
def station(scenes: dict[str, Scene]) -> Iterator[Rig]:
    """Start the scenes and a daemon; stop them all."""
    with tempfile.TemporaryDirectory(prefix="anoseg-still-") as folder:
        try:
            for scene in scenes.values():
                scene.start(Path(folder))
            rig = Rig(Path(folder), scenes)
            try:
                rig.wait_until_running()
                yield rig
            finally:
                rig.close()
        finally:
            for scene in scenes.values():
                scene.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the still scenes are inspected (600)")
    parser.add_argument("--scene", action="append", choices=SCENES)
    parser.add_argument("--no-freeze", action="store_true", help="only the still scenes")
    parser.add_argument("--log", type=Path, help="copy the daemon's log to this file")
    options = parser.parse_args()
    scenes = {name: SCENES[name] for name in options.scene or SCENES}
    wrong = []
    with station(scenes) as rig:
        wrong += watch(rig, options.seconds)
        if not options.no_freeze:
            wrong += freeze(rig, scenes)
        if options.log is not None:
            shutil.copy(rig.daemon._stderr, options.log)
        if "Traceback" in rig.daemon.log:
            wrong.append("a traceback in the log")
    print("\n".join(["FAILED:", *wrong]) if wrong else "all requirements met")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
