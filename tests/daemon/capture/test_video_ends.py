"""Video files that end early, and those that have come to their end."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from anoseg_engines.errors import CameraError, EndedEarlyError
from anosegd.capture.config import CaptureConfig, FileSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources.base import Shot
from anosegd.capture.sources.opencv import VideoFile
from anosegd.capture.sources.transport_stream import StreamEnd, stream_end

VIDEOS = Path(__file__).parent / "videos"
FRAMES = 40


def written(path: Path, code: str) -> bytes:
    """A video of noise; every frame differs from the others."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 25.0, (80, 48))
    assert writer.isOpened()
    for n in range(FRAMES):
        writer.write(np.random.default_rng(n).integers(110, 146, (48, 80, 3), dtype=np.uint8))
    writer.release()
    return path.read_bytes()


def read(path: Path) -> tuple[list[Shot], str]:
    """Read a file to its end; return what came, and why the file ended early if it did."""
    source = FileSource(path=str(path))
    video = VideoFile(source, Job(camera=CaptureConfig(source=source, policy="wait"), slots=1, frame_bytes=1))
    shots = []
    video.open()
    try:
        while (shot := video.read(len(shots), None)) is not None:
            shots.append(shot)
    except EndedEarlyError as error:
        return shots, error.what
    return shots, ""


CODECS = ["avi MJPG", "avi MPNG", "avi FFV1", "avi FMP4", "mkv MJPG", "mkv FFV1", "mp4 mp4v", "webm VP80"]


@pytest.mark.parametrize("kind", CODECS)
def test_a_whole_video_ends_in_order(tmp_path: Path, kind: str) -> None:
    """Every container's own count or duration fits the frames that are read."""
    ending, code = kind.split()
    written(tmp_path / f"v.{ending}", code)
    shots, error = read(tmp_path / f"v.{ending}")
    assert error == ""
    assert [shot.image is not None for shot in shots] == [True] * FRAMES


@pytest.mark.parametrize("kind", [kind for kind in CODECS if "mp4" not in kind])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.85])
def test_a_video_that_was_cut_ended_early(tmp_path: Path, kind: str, share: float) -> None:
    """The error names the file, the frames that were read and those that it announces."""
    ending, code = kind.split()
    path = tmp_path / f"v.{ending}"
    data = written(path, code)
    path.write_bytes(data[: int(len(data) * share)])
    shots, error = read(path)
    assert 0 < len(shots) < FRAMES
    assert error == f"{path}: the file ended early: {len(shots)} frames were read, and it announces {FRAMES}"


def test_an_avi_that_was_cut_between_two_frames_ended_early(tmp_path: Path) -> None:
    """No frame of it is damaged, and the decoder reports nothing."""
    path = tmp_path / "v.avi"
    data = written(path, "MJPG")
    path.write_bytes(data[: data.index(b"00dc", len(data) // 2)])
    shots, error = read(path)
    assert all(shot.image is not None for shot in shots)
    assert "the file ended early" in error


@pytest.mark.parametrize("name", ["h264.ts", "h265.ts"])
def test_a_stream_that_ends_in_a_damaged_frame_is_said(tmp_path: Path, name: str) -> None:
    """A transport stream announces no number of frames, but its last frame is not whole."""
    assert read(VIDEOS / name)[1] == ""
    data = (VIDEOS / name).read_bytes()
    damaged = bytearray(data)
    last = [i for i in range(0, len(data), 188) if (data[i + 1] & 31, data[i + 2]) == (1, 0)][-3]
    path = tmp_path / name
    path.write_bytes(bytes(damaged[:last]) + bytes(damaged[last + 188 :]))
    shots, error = read(path)
    assert shots[-1].image is None
    assert error == f"{path}: the file ends in a damaged frame, after {len(shots)} frames" or "ended early" in error


def test_a_damaged_png_frame_costs_no_other(tmp_path: Path) -> None:
    """FFmpeg's reader swallowed the rest of a video of PNG images after one that it could not decode."""
    path = tmp_path / "v.avi"
    data = bytearray(written(path, "MPNG"))
    at = data.index(b"IDAT", len(data) // 2) + 300
    data[at : at + 4] = bytes(byte ^ 0xFF for byte in data[at : at + 4])
    path.write_bytes(data)
    shots, error = read(path)
    assert error == ""
    assert len(shots) == FRAMES
    (broken,) = [shot for shot in shots if shot.image is None]
    assert "checksum" in broken.error


def test_bytes_that_are_missing_within_a_video_are_said(tmp_path: Path) -> None:
    """The frames behind the missing bytes cannot be found: they are UNKNOWN, or the file is said to end early."""
    path = tmp_path / "v.avi"
    data = written(path, "MPNG")
    half = len(data) // 2
    path.write_bytes(data[:half] + data[half + 3000 :])
    shots, error = read(path)
    assert sum(shot.image is not None for shot in shots) < FRAMES
    assert error or len(shots) == FRAMES


def frames_of(path: Path) -> list[np.ndarray]:
    return [shot.image for shot in read(path)[0] if shot.image is not None]


@pytest.mark.parametrize("name", ["h264.ts", "h264_reordered.ts", "h265.ts"])
def test_the_frame_within_which_a_stream_was_cut_is_not_whole(tmp_path: Path, name: str) -> None:
    """FFmpeg's H.265 decoder shows it without its last rows, and reports nothing."""
    data = (VIDEOS / name).read_bytes()
    whole = {image.tobytes() for image in frames_of(VIDEOS / name)}
    path = tmp_path / name
    for n in range(40):
        cut = len(data) // 4 + len(data) * n // 60 + n
        path.write_bytes(data[: cut if n % 2 else cut // 188 * 188])
        shots, error = read(path)
        assert all(shot.image is None or shot.image.tobytes() in whole for shot in shots), n
        assert error or not n % 2  # one that was cut between two packets may end between two frames


def test_a_raw_h265_file_is_refused(tmp_path: Path) -> None:
    """Nothing in it tells where it ends, and FFmpeg's decoder reports no cut."""
    data = (VIDEOS / "h265.ts").read_bytes()
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    video = [p for p in packets if (p[1] & 31, p[2]) == (1, 0)]
    payloads = [p[5 + p[4] if p[3] & 0x20 else 4 :] for p in video]
    begin = [9 + p[8] if v[1] & 0x40 else 0 for v, p in zip(video, payloads, strict=True)]
    path = tmp_path / "v.h265"
    path.write_bytes(b"".join(p[at:] for p, at in zip(payloads, begin, strict=True)))
    with pytest.raises(CameraError, match="store the video in a container"):
        read(path)


@pytest.mark.parametrize("before", [b"", b"\0\0\0\1"])
def test_a_stream_with_time_codes_is_looked_at_too(tmp_path: Path, before: bytes) -> None:
    """Packets of 192 bytes, as cameras store them on cards."""
    data = (VIDEOS / "h265.ts").read_bytes()
    packets = [before + data[i : i + 188] for i in range(0, len(data), 188)]
    path = tmp_path / "v.m2ts"
    path.write_bytes(b"".join(packets))
    assert stream_end(path) == StreamEnd()
    path.write_bytes(b"".join(packets)[:-90])
    assert stream_end(path).cut


def test_empty_frames_of_an_avi_are_not_missing(tmp_path: Path) -> None:
    """Recorders write them where no new frame came in time; the file counts them, and no decoder shows them."""
    path = tmp_path / "v.avi"
    data = bytearray(written(path, "MJPG"))
    index = data.rindex(b"idx1")
    entries = [i for i in range(index + 8, len(data) - 15, 16) if data[i : i + 4] == b"00dc"]
    assert len(entries) == FRAMES
    movi = data.index(b"movi")
    for n in (5, 6, 20):
        (offset,) = struct.unpack_from("<I", data, entries[n] + 8)
        struct.pack_into("<I", data, entries[n] + 12, 0)
        data[movi + offset : movi + offset + 4] = b"JUNK"
    path.write_bytes(data)
    shots, error = read(path)
    assert error == ""
    assert len(shots) == FRAMES - 3
