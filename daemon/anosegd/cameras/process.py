"""The daemon's end of one capture process: started, listened to, killed. Lives on its camera's thread."""

from __future__ import annotations

import contextlib
import os
import select
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
from anosegd.capture.buffers import Slots
from anosegd.capture.config import GenicamSource
from anosegd.capture.protocol import MAX_BYTES, Captured, FromCapture, Job, Release, TakeFrame, decode_from_capture, encode

QUIET = {"OPENCV_LOG_LEVEL": "ERROR", "OPENCV_FFMPEG_LOGLEVEL": "16"}  # 16: AV_LOG_ERROR; what is said explains a failure
REAP_S = 2.0
GRACE_S = 0.5
"""For a process that holds a GigE Vision camera: one that is not given back refuses the next program for seconds."""
UNWANTED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class CaptureProcess:
    """One run of `anosegd.capture.child`, with memory of its own: frames of a process that died stay readable.

    The thread that makes it must outlive it: the kernel kills the process when that thread ends.
    """

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        try:
            self._slots = Slots.create(job.slots, job.frame_bytes)
        except OSError as error:
            raise CameraError(f"there is no memory for its frames ({error.strerror})") from error
        try:
            self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._slots.close_fd()
            raise CameraError(f"the capture process cannot be started ({error.strerror})") from error
        self._grace_s = GRACE_S if isinstance(job.camera.source, GenicamSource) else 0.0
        self._taken: set[int] = set()
        self._lock = threading.Lock()  # frames are released from the inspector's thread too
        self._complaints: deque[str] = deque(maxlen=5)
        try:
            self._process = subprocess.Popen(
                _command(theirs.fileno(), self._slots.fd),
                pass_fds=(theirs.fileno(), self._slots.fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C at the terminal is for the daemon, which then drains
                env={**{k: v for k, v in environment.items() if k not in UNWANTED}, **QUIET},
            )
        except OSError as error:
            self._link.close()
            raise CameraError(f"the capture process cannot be started ({error.strerror})") from error
        finally:
            theirs.close()
            self._slots.close_fd()
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        os.set_blocking(self._stderr.fileno(), False)
        with contextlib.suppress(OSError):  # it has ended already, which `receive` tells
            self._link.send(encode(job))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def receive(self, timeout_s: float, wake_fd: int) -> list[FromCapture] | None:
        """Messages that have come, waiting up to timeout_s for the first or for wake_fd; None: the process has ended.

        Raises:
            CameraError: it says what no capture process says.
        """
        stderr = self._stderr.fileno()
        readable = select.select([self._link.fileno(), stderr, wake_fd], [], [], max(0.0, timeout_s))[0]
        if stderr in readable:
            self._listen()
            if readable == [stderr]:
                return []
        messages: list[FromCapture] = []
        while True:
            try:
                data = self._link.recv(MAX_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            except ConnectionResetError:
                data = b""
            if not data:
                return messages or None
            try:
                messages.append(decode_from_capture(data))
            except msgspec.DecodeError as error:
                raise CameraError(f"the capture process sent what cannot be understood: {error}") from error

    def image(self, message: Captured) -> Image:
        """The frame's pixels, uint8 [H, W, 3], in the slot that is ours until `release`.

        Raises:
            CameraError: the message names no slot of its own.
        """
        with self._lock:
            fresh = message.slot not in self._taken
            self._taken.add(message.slot)
        if not fresh:
            raise CameraError(f"the capture process wrote into slot {message.slot}, which is in use")
        try:
            return self._slots.view(message.slot, message.height, message.width)
        except ValueError as error:
            raise CameraError(f"the capture process sent what cannot be: {error}") from error

    def release(self, slot: int) -> None:
        """Give a slot back; any thread."""
        with self._lock:
            self._taken.discard(slot)
        self.send(Release(slot))

    def send(self, message: Release | TakeFrame) -> None:
        """Tell the process; any thread. It may be gone, then nobody hears it."""
        with self._lock, contextlib.suppress(OSError):
            self._link.send(encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def kill(self) -> str:
        """End the process at once and reap it; returns how it ended, with what it last complained of."""
        if self._grace_s:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace_s)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        try:
            code = self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:  # stuck in a driver: not even SIGKILL ends it before the driver returns
            code = None
        self._listen()
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

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError, ValueError):
            for line in (os.read(self._stderr.fileno(), 65536) or b"").decode(errors="replace").splitlines():
                if line.strip():
                    self._complaints.append(line.strip()[:300])


def _command(socket_fd: int, memory_fd: int) -> list[str]:
    numbers = {"--socket": socket_fd, "--memory": memory_fd, "--parent": os.getpid()}
    return [sys.executable, "-m", "anosegd.capture.child", *(text for name, n in numbers.items() for text in (name, str(n)))]
