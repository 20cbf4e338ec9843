"""Starts one capture process, receives its messages and kills it. Runs on the camera's thread."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping

import msgspec

from anoseg_engines.errors import CameraError
from anoseg_engines.images import Image
from anoseg_engines.passwords import mask_passwords
from anosegd.capture.config import GenicamSource, UrlSource
from anosegd.capture.protocol import MAX_BYTES, Captured, FromCapture, Job, Release, TakeFrame, decode_from_capture, encode
from anosegd.capture.readable import readable
from anosegd.capture.shared_slots import Slots
from anosegd.capture.sources.ffmpeg_messages import FFMPEG_LOG_LEVEL

OPENCV_LOGS = {"OPENCV_LOG_LEVEL": "ERROR", "OPENCV_FFMPEG_LOGLEVEL": str(FFMPEG_LOG_LEVEL)}
REAP_S = 2.0
GRACE_S = 0.5
"""For a process that uses a GigE Vision camera, to release it: otherwise the camera refuses the next program for seconds."""
UNWANTED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class CaptureHandle:
    """Controls one run of `anosegd.capture.child`. Each run has its own memory, so its frames outlive the process.

    The thread that starts it must outlive it: the kernel kills the process when that thread ends.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], link: socket.socket, slots: Slots, *, grace_s: float, url: str
    ) -> None:
        assert process.stderr is not None
        self._process, self._link, self._slots = process, link, slots
        self._stderr = process.stderr
        self._grace_s = grace_s
        self._taken: set[int] = set()
        self._lock = threading.Lock()  # the inspector's thread releases frames
        self._complaints: deque[str] = deque(maxlen=5)
        self._url = url

    @classmethod
    def start(cls, job: Job, environment: Mapping[str, str]) -> CaptureHandle:
        """Start a capture process and give it the job.

        Raises:
            CameraError: There is no memory, or no process can be started.
        """
        try:
            slots = Slots.create(job.slots, job.frame_bytes)
        except OSError as error:
            raise CameraError(f"there is no memory for its frames ({error.strerror})") from error
        with contextlib.ExitStack() as stack:
            stack.callback(slots.close_fd)
            try:
                link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:
                raise CameraError(f"the capture process cannot be started ({error.strerror})") from error
            stack.callback(theirs.close)
            try:
                process = subprocess.Popen(
                    _command(theirs.fileno(), slots.fd),
                    pass_fds=(theirs.fileno(), slots.fd),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C at the terminal is for the daemon, which then drains
                    env={**{k: v for k, v in environment.items() if k not in UNWANTED}, **OPENCV_LOGS},
                )
            except OSError as error:
                link.close()
                raise CameraError(f"the capture process cannot be started ({error.strerror})") from error
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        with contextlib.suppress(OSError):  # it has ended already, which `receive` reports
            link.send(encode(job))
        source = job.camera.source
        grace_s = GRACE_S if isinstance(source, GenicamSource) else 0.0
        return cls(process, link, slots, grace_s=grace_s, url=source.url if isinstance(source, UrlSource) else "")

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def receive(self, timeout_s: float, wake_fd: int) -> list[FromCapture] | None:
        """Return messages that have come, waiting up to timeout_s for the first or for wake_fd; None: the process has ended.

        Raises:
            CameraError: A message cannot be decoded.
        """
        stderr = self._stderr.fileno()
        ready = readable([self._link.fileno(), stderr, wake_fd], timeout_s)
        if stderr in ready:
            self._read_stderr()
            if ready == [stderr]:
                return []
        messages: list[FromCapture] = []
        while True:
            try:
                data = self._link.recv(MAX_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            except ConnectionResetError:  # it ended and left messages of ours unread; what it sent is still there
                continue
            if not data:
                return messages or None
            try:
                messages.append(decode_from_capture(data))
            except msgspec.DecodeError as error:
                raise CameraError(f"the capture process sent an invalid message: {error}") from error

    def image(self, message: Captured) -> Image:
        """Return the frame's pixels, uint8 [H, W, 3], in the slot that is the daemon's until `release`.

        Raises:
            CameraError: The message names a slot that is in use, or does not exist.
        """
        with self._lock:
            fresh = message.slot not in self._taken
            self._taken.add(message.slot)
        if not fresh:
            raise CameraError(f"the capture process wrote into slot {message.slot}, which is in use")
        try:
            return self._slots.view(message.slot, message.shape)
        except ValueError as error:
            raise CameraError(f"the capture process sent an impossible frame: {error}") from error

    def release(self, slot: int) -> None:
        """Give a slot back. Any thread."""
        with self._lock:
            self._taken.discard(slot)
        self.send(Release(slot))

    def send(self, message: Release | TakeFrame) -> None:
        """Send a message; one to a process that has ended is lost. Any thread."""
        with self._lock, contextlib.suppress(OSError):
            self._link.send(encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def kill(self) -> str:
        """End the process at once and reap it; returns how it ended, with the last line of its stderr."""
        if self._grace_s:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace_s)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        try:
            code = self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:  # stuck in a driver: SIGKILL takes effect when the driver returns
            code = None
        self._read_stderr()
        self._stderr.close()
        with self._lock:
            self._link.close()
        if code is None:
            return f"process {self._process.pid} hangs in the kernel and cannot be killed"
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{end}: {self.complaint}" if self.complaint else end

    @property
    def complaint(self) -> str:
        """The last line the process, or a library in it, wrote to stderr."""
        return self._complaints[-1] if self._complaints else ""

    def _read_stderr(self) -> None:
        with contextlib.suppress(BlockingIOError, ValueError):
            for line in (os.read(self._stderr.fileno(), 65536) or b"").decode(errors="replace").splitlines():
                if line.strip():
                    self._complaints.append(mask_passwords(line.strip(), self._url)[:300])


def _command(socket_fd: int, memory_fd: int) -> list[str]:
    numbers = {"--socket": socket_fd, "--memory": memory_fd, "--parent": os.getpid()}
    return [sys.executable, "-m", "anosegd.capture.child", *(text for name, n in numbers.items() for text in (name, str(n)))]
