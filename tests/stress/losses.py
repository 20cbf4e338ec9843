"""Streams and videos lose data on the way, and no defective part may pass. One table. `make losses`.

    python tests/stress/losses.py [--seconds 60] [--loss 0.01] [--stream NAME ...] [--whole-only] [--lossy-only]

Videos are made in which every frame has its number, and every fourth part is defective. They are played to the daemon's own
sources over HTTP, RTSP (TCP and UDP) and from files, whole and with a share of the packets lost. Each frame that comes is
compared with the same frame of the whole video: this is the truth. Requirements: no frame that differs counts as whole, no
defective part is PASS; a whole video loses no frame. It needs FFmpeg, and GStreamer's RTSP server for RTSP.
"""

import argparse
import contextlib
import hashlib
import http.server
import json
import random
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.paths import SUPPORT
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle import load_bundle
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.errors import CameraError
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region
from anosegd.capture.config import CaptureConfig, FileSource, UrlSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources import source_of

SYSTEM_PYTHON = "/usr/bin/python3"
HEIGHT, WIDTH, FPS, KEY, BITS = 96, 128, 25, 25, 20
DEFECTIVE = 4
"""Every so many parts one is defective."""
LOST_TAIL = 0.45
"""The share of a JPEG image that does not come, as when a sender's buffer is full."""
PACKET = 188
NEVER = 1 << 40
"""No frame has so high a number."""
LOST_IMAGES = 10
"""How many times as many JPEG images lose their tail as packets are lost: an image is many packets."""


@dataclass(frozen=True)
class Stream:
    """A way in which a video comes. `codec` names the video, `way` how it is played."""

    codec: str
    way: str

    @property
    def name(self) -> str:
        return f"{self.codec} {self.way}"


STREAMS = [
    Stream("mjpeg", "http"),
    *(Stream(codec, way) for codec in ("h264", "h265") for way in ("rtsp-tcp", "rtsp-udp", "ts-http", "file")),
    Stream("h264-slices", "rtsp-tcp"),
    Stream("h264-slices", "rtsp-udp"),
    Stream("h265-slices", "rtsp-tcp"),
    Stream("h265-slices", "ts-http"),
    Stream("h264-reordered", "file"),
    Stream("h265-reordered", "file"),
]
X264 = f"keyint={KEY}:min-keyint={KEY}:scenecut=0:crf=28"
CODECS = {
    "h264": ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-x264-params", f"{X264}:slices=1"],
    "h264-slices": ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-x264-params", f"{X264}:slices=3"],
    "h264-reordered": ["-c:v", "libx264", "-preset", "veryfast", "-x264-params", f"{X264}:bframes=3"],
    "h265": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", f"{X264}:bframes=0:log-level=none"],
    "h265-slices": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", f"{X264}:bframes=0:slices=3:log-level=none"],
    "h265-reordered": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", f"{X264}:bframes=3:log-level=none"],
}


def is_defective(number: int) -> bool:
    return number % DEFECTIVE == DEFECTIVE // 2


def part(number: int) -> np.ndarray:
    """A grey part with a moving texture, and its number in the upper rows; a defective one has a white block below."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.sin((x + 3 * number) / 7) + np.sin((y + 2 * number) / 5)
    image = np.asarray(118 + 10 * waves + rng.integers(-3, 4, (HEIGHT, WIDTH)), np.uint8)
    for bit in range(BITS):
        image[4:12, 4 + 6 * bit : 9 + 6 * bit] = 145 if number >> bit & 1 else 110
    if is_defective(number):
        top, left = rng.integers(40, HEIGHT - 24), rng.integers(0, WIDTH - 40)
        image[top : top + 24, left : left + 40] = 250
    return image


def make_video(codec: str, frames: int, path: Path) -> None:
    """Encode the parts with FFmpeg into a transport stream."""
    command = ["ffmpeg", "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS)]
    command += ["-i", "-", *CODECS[codec], "-pix_fmt", "yuv420p", "-f", "mpegts", str(path)]
    encoder = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert encoder.stdin is not None
    for number in range(frames):
        encoder.stdin.write(part(number).tobytes())
    encoder.stdin.close()
    if encoder.wait():
        raise RuntimeError(f"FFmpeg cannot encode {codec}")


def without_packets(data: bytes, loss: float, seed: int) -> bytes:
    """A transport stream without a share of its video packets, the first frames excepted."""
    chance = random.Random(seed)
    packets = [data[i : i + PACKET] for i in range(0, len(data), PACKET)]
    return b"".join(
        packet for n, packet in enumerate(packets) if n < 60 or (packet[1] & 31, packet[2]) != (1, 0) or chance.random() >= loss
    )


@contextmanager
def http_server(chunks: list[bytes], seconds: float, content_type: str) -> Iterator[str]:
    """Serve the chunks over HTTP at an even pace."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            began = time.monotonic()
            with contextlib.suppress(OSError):
                for n, chunk in enumerate(chunks):
                    self.wfile.write(chunk)
                    time.sleep(max(0.0, began + n / len(chunks) * seconds - time.monotonic()))

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def rtsp_server(path: Path, codec: str, loss: float) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [SYSTEM_PYTHON, str(SUPPORT / "lossy_rtsp_camera.py"), str(port), str(path), codec, str(loss)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        if server.stdout.readline().strip() != "ready":
            raise RuntimeError("GStreamer's RTSP server does not start")
        yield f"rtsp://127.0.0.1:{port}/live"
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()


def jpeg_parts(frames: int, loss: float, seed: int) -> list[bytes]:
    """The parts of an MJPEG stream. Each image has its number in a comment; some lack their tail."""
    chance, chunks = random.Random(seed), []
    for number in range(frames):
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(part(number), cv2.COLOR_GRAY2BGR))[1].tobytes()
        jpeg = jpeg[:2] + b"\xff\xfe\x00\x0a" + b"%08d" % number + jpeg[2:]
        if chance.random() < loss * LOST_IMAGES:
            jpeg = jpeg[: round(len(jpeg) * (1 - LOST_TAIL))] + (b"\xff\xd9" if chance.random() < 0.5 else b"")
        chunks.append(b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n")
    return chunks


class Reader:
    """Reads one stream through the daemon's own source, and judges it. Runs in a process of its own.

    FFmpeg's messages come through the process's standard output, which two streams cannot share.
    """

    def __init__(self, source: UrlSource | FileSource, reference: Path | None, bundle: Path) -> None:
        camera = CaptureConfig(source=source, policy="wait", stall_timeout_s=20.0)  # a busy machine may stall the sender
        self._job = Job(camera=camera, slots=1, frame_bytes=1)
        self._engine = load_engine(load_bundle(bundle), runtime="cpu-f32", threads=1)
        self._placement = self._engine.place(Region(0, 0, WIDTH, HEIGHT))
        self.counts: Counter[str] = Counter()
        self.last_error = ""
        self._numbers: dict[bytes, int] = {}
        if reference is not None:
            whole = Job(camera=CaptureConfig(source=FileSource(path=str(reference)), policy="wait"), slots=1, frame_bytes=1)
            video = source_of(whole)
            video.open()
            for number, shot in enumerate(iter(lambda: video.read(0, None), None)):
                assert shot.image is not None, shot.error
                self._numbers[hashlib.md5(shot.image.tobytes()).digest()] = number
        self._offset: float | None = None  # from a stamp to a frame's number

    def run(self) -> None:
        source = source_of(self._job)
        source.open()
        video: Any = source._video  # type: ignore[union-attr]  # for the truth: what OpenCV returns without the check
        seen: set[int] = set()
        unknown: list[int] = []
        with contextlib.suppress(CameraError):
            while (shot := source.read(0, None)) is not None:
                raw = video.capture.retrieve()[1]
                if raw is None or "dropped" in shot.error or "cannot be decoded" in shot.error:
                    self.counts["dropped"] += 1  # UNKNOWN: the decoder gave no picture
                    unknown.append(max(seen, default=-1) + 1)
                    continue
                number, whole = self._truth(raw, video.capture)
                seen.add(number)
                if shot.image is None:
                    unknown.append(number)
                self._count(number, whole, shot.image, shot.error)
        self.counts["first"], self.counts["last"] = min(seen, default=0), max(seen, default=0)
        self.counts["numbers"] = len(seen)
        self.counts["first UNKNOWN"] = min(unknown, default=NEVER)
        self._engine.close()

    def _truth(self, raw: np.ndarray, capture: cv2.VideoCapture) -> tuple[int, bool]:
        """The frame's number, and whether it is whole."""
        if not self._numbers:  # the bytes of a JPEG image
            data = raw.tobytes()
            number = int(data[6:14])
            image = cv2.cvtColor(part(number), cv2.COLOR_GRAY2BGR)
            return number, data == data[:2] + b"\xff\xfe\x00\x0a" + b"%08d" % number + cv2.imencode(".jpg", image)[1].tobytes()[
                2:
            ]
        found = self._numbers.get(hashlib.md5(raw.tobytes()).digest())
        position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 * FPS
        if found is not None:
            self._offset = found - position
            return found, True
        return round(position + (self._offset or 0.0)), False

    def _count(self, number: int, whole: bool, image: np.ndarray | None, error: str) -> None:
        kind = "defective" if is_defective(number) else "good"
        if image is None:
            outcome, self.last_error = "UNKNOWN", error
        else:
            score = self._engine.inspect(image, self._placement).score
            outcome = "FAIL" if score >= self._engine.thresholds.score else "PASS"
        self.counts["frames"] += 1
        self.counts[f"{kind} {outcome}"] += 1
        self.counts["broken"] += not whole
        self.counts["broken defective"] += not whole and kind == "defective"
        self.counts["broken taken for whole"] += not whole and image is not None
        self.counts["whole UNKNOWN"] += whole and image is None
        self.counts["whole key frames UNKNOWN"] += whole and image is None and number % KEY == 0


def play(stream: Stream, frames: int, loss: float, folder: Path) -> dict[str, Any]:
    """Play one stream to a reader and return what the reader counted."""
    reference = folder / f"{stream.codec}.ts"
    seconds = frames / FPS
    with ExitStack() as stack:
        if stream.codec == "mjpeg":
            chunks = jpeg_parts(frames, loss, seed=1)
            source = {"url": stack.enter_context(http_server(chunks, seconds, "multipart/x-mixed-replace; boundary=x"))}
        elif stream.way == "ts-http":
            data = without_packets(reference.read_bytes(), loss, seed=2)
            chunks = [data[i : i + 7 * PACKET] for i in range(0, len(data), 7 * PACKET)]
            source = {"url": stack.enter_context(http_server(chunks, seconds, "video/mp2t"))}
        elif stream.way == "file":
            lossy = folder / f"{stream.codec}-{loss}.ts"
            lossy.write_bytes(without_packets(reference.read_bytes(), loss, seed=3))
            source = {"path": str(lossy)}
        else:
            url = stack.enter_context(rtsp_server(reference, stream.codec.partition("-")[0], loss))
            source = {"url": url, "transport": stream.way.partition("-")[2]}
        reader = subprocess.run(
            [sys.executable, str(Path(__file__)), "--read", json.dumps(source), "--folder", str(folder)]
            + (["--reference", str(reference)] if stream.codec != "mjpeg" else []),
            stdout=subprocess.PIPE,
            timeout=seconds + 300,
            check=True,
            env={"OPENCV_FFMPEG_LOGLEVEL": "48", "PATH": "/usr/bin:/bin"},
        )
    result: dict[str, Any] = json.loads(next(line for line in reader.stdout.splitlines() if line.startswith(b"{")))
    return result


def table_of(title: str, results: dict[str, dict[str, Any]], frames: int) -> Table:
    table = Table(title=title)
    columns = (
        "stream",
        "sent",
        "UNKNOWN without picture",
        "came",
        "defective",
        "broken",
        "of these defective",
        "PASS/FAIL/UNKNOWN good",
        "… defective",
    )
    for column in (*columns, "whole UNKNOWN", "key frames of these", "broken taken for whole"):
        table.add_column(column, justify="left" if column == "stream" else "right", overflow="fold")
    for name, c in results.items():
        by_kind = {k: "/".join(str(c.get(f"{k} {o}", 0)) for o in ("PASS", "FAIL", "UNKNOWN")) for k in ("good", "defective")}
        defective = sum(c.get(f"defective {o}", 0) for o in ("PASS", "FAIL", "UNKNOWN"))
        numbers = (
            [c.get(k, 0) for k in ("dropped", "frames")] + [defective] + [c.get(k, 0) for k in ("broken", "broken defective")]
        )
        rest = [c.get(k, 0) for k in ("whole UNKNOWN", "whole key frames UNKNOWN", "broken taken for whole")]
        table.add_row(name, str(frames), *map(str, numbers), by_kind["good"], by_kind["defective"], *map(str, rest))
    return table


def run(streams: list[Stream], frames: int, loss: float, folder: Path, console: Console) -> bool:
    """Play all streams at the same time; print the table and return whether the requirements hold."""
    results: dict[str, dict[str, Any]] = {}
    failures: list[str] = []

    def one(stream: Stream) -> None:
        try:
            results[stream.name] = play(stream, frames, loss, folder)
        except (RuntimeError, subprocess.SubprocessError) as error:
            failures.append(f"{stream.name}: {error}")

    threads = [threading.Thread(target=one, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = {stream.name: results[stream.name] for stream in streams if stream.name in results}
    title = f"{loss:.1%} of the packets lost" if loss else "nothing lost"
    console.print(table_of(f"{frames / FPS:.0f} s, {title}", results, frames))
    for name, c in results.items():
        if c.get("defective PASS") or c.get("broken taken for whole"):
            failures.append(f"{name}: a broken frame was taken for a whole one, or a defective part passed")
        unknown = sum(c.get(what, 0) for what in ("dropped", "good UNKNOWN", "defective UNKNOWN"))
        # A stream's reader may keep the last frame until the next one begins, which never comes. If the connection ends, nobody
        # can tell whether an H.265 frame is whole; the reader is one frame ahead.
        h265, udp = name.startswith("h265"), name.endswith("udp")
        ended = any(said in str(c["last_error"]) for said in ("Stream ends prematurely", "End of file"))
        at_end = 2 if h265 and ended else 0
        # Over UDP the message that a stream ends overtakes the last packets: the last frame is cut, and is UNKNOWN rightly.
        kept = 1 + (h265 and udp)
        early = c["first UNKNOWN"] <= c["last"] - at_end - udp  # only the last frames may be UNKNOWN
        if not loss and (unknown > at_end + udp or early or c["numbers"] != c["last"] + 1 or c["last"] < frames - 1 - kept):
            failures.append(f"{name}: {c['numbers']} of {frames} frames came, {unknown} UNKNOWN: {c['last_error']}")
    broken = sum(c.get("broken", 0) for c in results.values())
    console.print(f"{broken} broken frames, {sum(c.get('defective PASS', 0) for c in results.values())} defective parts passed")
    for failure in failures:
        console.print(f"[red]{failure}[/red]")
    return not failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--loss", type=float, default=0.01, help="share of the packets lost (0.01)")
    parser.add_argument("--stream", action="append", metavar="NAME", help=f"one of: {', '.join(s.name for s in STREAMS)}")
    parser.add_argument("--whole-only", action="store_true", help="only play the streams without losses")
    parser.add_argument("--lossy-only", action="store_true", help="only play the streams with losses")
    parser.add_argument("--read", help=argparse.SUPPRESS)  # the reader's process
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        named = json.loads(options.read)
        source = FileSource(**named) if "path" in named else UrlSource(**named)
        reader = Reader(source, options.reference, options.folder / "tiny" / "1")
        reader.run()
        print(json.dumps({**reader.counts, "last_error": reader.last_error}))
        return 0
    console = Console(width=200)
    if shutil.which("ffmpeg") is None:
        console.print("FFmpeg is missing: apt install ffmpeg")
        return 1
    streams = [s for s in STREAMS if not options.stream or s.name in options.stream]
    frames = round(options.seconds * FPS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bundle(folder / "tiny", tiny_draft())
        for codec in sorted({s.codec for s in streams} - {"mjpeg"}):
            make_video(codec, frames, folder / f"{codec}.ts")
        losses = ([] if options.whole_only else [options.loss]) + ([] if options.lossy_only else [0.0])
        held = [run(streams, frames, loss, folder, console) for loss in losses]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
