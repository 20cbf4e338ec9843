"""Says why a stream could not be opened, in the words of a person who looks for the cause. Runs in the capture process.

OpenCV says only that it failed. FFmpeg writes the reason to its log.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from anoseg_engines.errors import CameraError, LoginRefusedError, StreamRefusedError
from anoseg_engines.passwords import address_of, login_in_settings, mask_passwords

SCHEMES = {
    *("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "rtp", "srtp", "udp", "tcp", "tls", "srt", "mmsh", "mmst", "sctp"),
    *("file", "pipe", "unix", "ftp", "sftp", "hls", "concat"),
}
"""Schemes that FFmpeg knows. It says nothing about one that it does not know."""

_FFMPEG = re.compile(r"\[OPENCV:FFMPEG:(\d+)\] *(.*)")
_OPENCV = re.compile(r"\[ *[A-Z]+:\d+@[\d.]+\] *(.*)")
_EXPLAINS_NOTHING = re.compile(r"backend is generally available but can't be used|^Stream ends prematurely")
WARNING = 24
"""AV_LOG_WARNING. FFmpeg's messages above this level explain nothing to a person, and can contain the login."""
_STATUS = re.compile(r"(?:HTTP error|method \w+ failed:) (\d{3}) *(.*)")
_NO_NAME = re.compile(r"Failed to resolve hostname (\S+?): (.*)")
_NO_CONNECTION = re.compile(r"Connection (?:to|attempt to) .*failed: (.*)")
_STREAMS = (1, 2)
_LOGIN = {401, 403, 407}
_NO_PATH = {404, 410, 454}


@dataclass(slots=True)
class Output:
    """Holds the lines that native libraries wrote."""

    lines: list[str] = field(default_factory=list)


@contextlib.contextmanager
def native_output(*, shown: bool = True) -> Iterator[Output]:
    """Keep what native libraries write to stdout and stderr in this block. If `shown`, it is written there when the block ends.

    OpenCV writes FFmpeg's messages to stdout, and its own to stderr.
    """
    output = Output()
    flush = ctypes.CDLL(None).fflush  # of the C library, whose buffer holds what was written to stdout
    flush(None)
    memory = [os.memfd_create("native-output", os.MFD_CLOEXEC) for _ in _STREAMS]  # no file: it may contain a password
    kept = [os.dup(fd) for fd in _STREAMS]
    for fd, into in zip(_STREAMS, memory, strict=True):
        os.dup2(into, fd)
    try:
        yield output
    finally:
        flush(None)
        for fd, original, into in zip(_STREAMS, kept, memory, strict=True):
            os.dup2(original, fd)
            os.close(original)
            written = os.pread(into, os.lseek(into, 0, os.SEEK_END), 0)
            os.close(into)
            output.lines += _lines_of(written.decode(errors="replace"))
            if shown:
                os.write(fd, written)


def _lines_of(text: str) -> list[str]:
    """Return the lines without the prefixes of FFmpeg and OpenCV, and without messages that explain nothing to a person."""
    lines, level = [], 0
    for line in text.splitlines():
        said = line.strip()
        if (match := _FFMPEG.match(line)) is not None:
            level, said = int(match[1]), match[2].strip()
        elif (match := _OPENCV.match(line)) is not None:
            level, said = 0, match[1].strip()
        # Any other line continues the message before, such as FFmpeg's HTTP request, which can contain the login.
        if said and level <= WARNING and not _EXPLAINS_NOTHING.search(said):
            lines.append(said)
    return lines


def check_address(url: str) -> None:
    """Refuse an address of which FFmpeg would take a part of the password for the host.

    Raises:
        CameraError: The user name or the password contains `/`, `?` or `#`.
    """
    _, _, rest = url.partition("://")
    before = re.split(r"[/?#]", rest, maxsplit=1)[0]
    _, colon, after = before.rpartition(":")
    if "@" in rest[len(before) :] and colon and not after.isdigit() and not after.endswith("]"):
        how = "write / as %2F, ? as %3F, # as %23 and @ as %40 in them"
        raise CameraError(f"{address_of(url)} cannot be opened: the user name or the password contains / ? or #; {how}")


def host_and_port(url: str) -> tuple[str, str]:
    """Return host and port of an address as they are written; each is empty if it is missing."""
    where = re.split(r"[/?#]", url.partition("://")[2].rpartition("@")[2], maxsplit=1)[0]
    host, _, rest = where.partition("]") if where.startswith("[") else (where, "", where)
    host_alone, _, port = rest.partition(":")
    return (f"{host}]" if where.startswith("[") else host_alone), port


def sends_login_in_settings(url: str) -> bool:
    """Return whether an address has its login among its settings only, so that FFmpeg does not know it."""
    before_path = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    return "@" not in before_path and login_in_settings(url) is not None


def refusal(url: str, lines: list[str]) -> CameraError | None:
    """Return the error of a camera that refuses, or of an address that is wrong. None if the lines do not say so.

    Args:
        url: The stream's address, or a GStreamer pipeline.
        lines: What the libraries wrote while the stream was opened.
    """
    address = address_of(url)
    for line in reversed(lines):
        if (match := _STATUS.search(line)) is not None:
            return _status(url, address, int(match[1]), match[2].strip())
        if "GStreamer" in line and re.search(r"(?i)unauthori[sz]ed|not authori[sz]ed|\b401\b", line):
            return LoginRefusedError("the stream cannot be opened: the camera refuses the user name or the password")
        if (match := _NO_NAME.search(line)) is not None:
            return CameraError(f"{address} cannot be opened: the name {match[1]} was not found ({match[2]})")
        if (match := _NO_CONNECTION.search(line)) is not None:
            what = "nothing listens at this address and port" if "refused" in match[1] else "there is no connection"
            return CameraError(f"{address} cannot be opened: {what} ({match[1]})")
    return None


def unexplained(url: str, lines: list[str]) -> CameraError:
    """Return the error for a stream that FFmpeg could not open for another reason."""
    address = address_of(url)
    scheme, separator, _ = url.partition("://")
    if not separator:
        return CameraError(f"{address} cannot be opened: the url has no scheme; write rtsp://… or http://…")
    if scheme.lower() not in SCHEMES:
        return CameraError(f"{address} cannot be opened: the scheme {scheme}:// is unknown; write rtsp://… or http://…")
    reason = mask_passwords(lines[-1], url) if lines else "it gives no video, or does not answer in time"
    return CameraError(f"{address} cannot be opened: {reason}")


def _status(url: str, address: str, code: int, text: str) -> CameraError:
    status = f"{code} {text}".strip()
    if code in _LOGIN:
        has_login = "@" in url or login_in_settings(url) is not None
        what = "it refuses the user name or the password" if has_login else "it asks for a user name and a password"
        return LoginRefusedError(f"{address} cannot be opened: {what} ({status})")
    if code in _NO_PATH:
        return StreamRefusedError(f"{address} cannot be opened: there is no such path on the camera ({status})")
    if code == 461:
        return StreamRefusedError(
            f"{address} cannot be opened: it does not offer this transport ({status}); set transport: udp or tcp"
        )
    return StreamRefusedError(f"{address} cannot be opened: the camera answers {status}")
