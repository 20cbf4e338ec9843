"""Frames that are not whole, read from real videos through OpenCV.

The videos were made with FFmpeg: 48 frames of grey noise, 128×96, a key frame every 12, a white block in every fourth frame.
Two have 12 frames: h264_interlaced.ts consists of fields, h264_larger.ts has 192×160 pixels.
"""

import http.server
import random
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.mjpeg_camera import jpeg_of, mjpeg_server, noisy

from anoseg_engines.errors import CameraError
from anoseg_engines.images import decode
from anosegd.capture.config import CaptureConfig, FileSource, UrlSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources import checked_video
from anosegd.capture.sources.checked_video import CheckedVideo
from anosegd.capture.sources.ffmpeg_messages import FfmpegMessages
from anosegd.capture.sources.opencv import Stream, VideoFile

VIDEOS = Path(__file__).parent / "videos"
PACKET = 188
"""Size of a packet in an MPEG transport stream."""


def opened(path: Path) -> CheckedVideo:
    video = CheckedVideo()
    parameters = [cv2.CAP_PROP_N_THREADS, 1]
    video.open_with_ffmpeg(lambda: cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, parameters), "video", live=False)
    assert video.capture.isOpened()
    return video


def frames(path: Path) -> Iterator[np.ndarray | None]:
    """The frames of a video; None for one that is not whole."""
    video = opened(path)
    while video.grab() != "nothing":
        yield video.shot(None).image


def with_losses(path: Path, into: Path, seed: int) -> Path:
    """Copy a transport stream without some of its video packets."""
    data, chance = path.read_bytes(), random.Random(seed)
    packets = [data[i : i + PACKET] for i in range(0, len(data), PACKET)]
    kept = [p for n, p in enumerate(packets) if n < 20 or (p[1] & 31, p[2]) != (1, 0) or chance.random() > 0.05]
    into.write_bytes(b"".join(kept))
    return into


@pytest.mark.parametrize("name", ["h264.ts", "h264_reordered.ts", "h265.ts"])
def test_no_damaged_frame_counts_as_whole(tmp_path: Path, name: str) -> None:
    """Of a video that lost packets, every frame that counts as whole equals a frame of the whole video."""
    whole = {image.tobytes() for image in frames(VIDEOS / name) if image is not None}
    assert len(whole) == 48  # none is refused without a loss
    passed = refused = 0
    for seed in range(1, 9):
        for image in frames(with_losses(VIDEOS / name, tmp_path / name, seed)):
            refused += image is None
            passed += image is not None
            assert image is None or image.tobytes() in whole
    assert refused > 80
    assert passed > 60


def test_a_frame_after_the_next_key_frame_is_whole_again(tmp_path: Path) -> None:
    """One lost packet costs the frames up to the next key frame, and no more."""
    data = (VIDEOS / "h264.ts").read_bytes()
    lost = len(data) // PACKET // 2 * PACKET
    (tmp_path / "v.ts").write_bytes(data[:lost] + data[lost + PACKET :])
    seen = "".join("." if image is not None else "x" for image in frames(tmp_path / "v.ts"))
    begin = seen.index("x")
    end = seen.rindex("x") + 1
    assert "." not in seen[begin:end]
    assert end in (23, 24)  # the decoder may give one frame less
    assert end - begin <= 12


def test_frames_that_the_decoder_drops_are_counted(tmp_path: Path) -> None:
    """A frame of a file that the H.265 decoder drops is reported as one that cannot be decoded, and none is passed over."""
    data = (VIDEOS / "h265.ts").read_bytes()
    packets = [data[i : i + PACKET] for i in range(0, len(data), PACKET)]
    begins = [n for n, packet in enumerate(packets) if (packet[1] & 31, packet[2]) == (1, 0) and packet[1] & 0x40]
    assert len(begins) == 48
    without_16 = packets[: begins[16]] + packets[begins[17] :]  # one frame is missing altogether
    (tmp_path / "v.ts").write_bytes(b"".join(without_16))
    seen = "".join("." if image is not None else "x" for image in frames(tmp_path / "v.ts"))
    assert len(seen) == 47
    assert seen == "." * seen.index("x") + "x" * seen.count("x") + "." * 24
    assert 7 <= seen.count("x") <= 9  # the reader is two frames ahead


def test_one_thread_decodes_a_video_file() -> None:
    """With several, FFmpeg reports damage when the frame has already come."""
    job = Job(camera=CaptureConfig(source=FileSource(path=str(VIDEOS / "h264.ts"))), slots=1, frame_bytes=1)
    video = VideoFile(FileSource(path=str(VIDEOS / "h264.ts")), job)
    video.open()
    assert video._video.capture.get(cv2.CAP_PROP_N_THREADS) == 1


@pytest.mark.parametrize("damage", ["tail", "tail, end marker"])
def test_a_damaged_frame_of_a_jpeg_video_is_not_whole(tmp_path: Path, damage: str) -> None:
    """Each frame of a JPEG video stands for itself: the damaged ones are refused, and no other."""
    images = [np.random.default_rng(n).integers(100, 150, (48, 80, 3), dtype=np.uint8) for n in range(20)]
    data = b""
    for n, image in enumerate(images):
        jpeg = cv2.imencode(".jpg", image)[1].tobytes()
        if n % 5 == 3:
            jpeg = jpeg[: len(jpeg) * 55 // 100] + (b"\xff\xd9" if damage != "tail" else b"")
        data += jpeg
    (tmp_path / "v.mjpeg").write_bytes(data)
    seen = [image is None for image in frames(tmp_path / "v.mjpeg")]
    assert [n for n, refused in enumerate(seen) if refused] == [3, 8, 13, 18]


def test_a_frame_of_a_jpeg_video_has_the_pixels_of_the_same_image_file(tmp_path: Path) -> None:
    """A camera's JPEG image and the same image in a training folder are equal."""
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8))[1]
    (tmp_path / "v.mjpeg").write_bytes(jpeg.tobytes() * 3)
    expected = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert [(image == expected).all() for image in frames(tmp_path / "v.mjpeg") if image is not None] == [True] * 3


def test_an_opencv_that_hides_the_messages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without FFmpeg's messages damage would go unnoticed, so the source does not open."""
    monkeypatch.setattr(FfmpegMessages, "_take", lambda self: [])
    with pytest.raises(CameraError, match="does not pass on FFmpeg's messages"):
        opened(VIDEOS / "h264.ts")


class JpegCapture:
    """A USB camera or GStreamer pipeline that sends JPEG images, as OpenCV shows it. There is neither on this machine."""

    def __init__(self, images: list[bytes]) -> None:
        self._images = images
        self.settings: dict[int, float] = {cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"MJPG")}

    def get(self, prop: int) -> float:
        return self.settings.get(prop, 0.0)

    def set(self, prop: int, value: float) -> bool:
        self.settings[prop] = value
        return True

    def grab(self) -> bool:
        self._image = self._images.pop(0)
        return True

    def retrieve(self, into: np.ndarray | None = None) -> tuple[bool, np.ndarray]:
        return True, np.frombuffer(self._image, np.uint8)[None]


@pytest.mark.parametrize("device", [True, False])
def test_jpeg_images_of_devices_and_pipelines_are_decoded_strictly(device: bool) -> None:
    """A USB camera's JPEG images come undecoded, and a damaged one is refused; so is one of a GStreamer pipeline."""
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    capture = JpegCapture([jpeg, jpeg[: len(jpeg) // 2] + b"\xff\xd9", jpeg + bytes(8)])
    video = CheckedVideo()
    if device:
        video.open_device(capture)  # type: ignore[arg-type]
        assert capture.settings[cv2.CAP_PROP_CONVERT_RGB] == 0
    else:
        video.capture = capture  # type: ignore[assignment]
    shots = []
    for _ in range(3):
        assert video.grab() == "frame"
        shots.append(video.shot(np.zeros((48, 80, 3), np.uint8)))
    assert (shots[0].image == cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)).all()
    assert shots[1].image is None
    assert "not a whole JPEG image" in shots[1].error
    assert (shots[2].image == shots[0].image).all()


@contextmanager
def snapshot(data: bytes, kind: str, *, length: bool = True) -> Iterator[int]:
    """A camera that gives one image for each request."""

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            if length:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def part() -> np.ndarray:
    return np.random.default_rng(0).integers(110, 146, (48, 80, 3), dtype=np.uint8)


def encoded(ending: str, *options: int) -> bytes:
    return bytes(cv2.imencode(ending, part(), options)[1])


def run_length_bmp() -> bytes:
    """Rows of one grey each, which do not say how long they are."""
    rows = b"".join(bytes([80, 110 + y, 0, 0]) for y in range(48)) + b"\0\1"
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 80, 48, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(rows), 0, 0, 14 + 40 + 1024) + header + palette + rows


PROGRESSIVE = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


@pytest.mark.parametrize(
    ("data", "kind", "whole"),
    [
        (encoded(".jpg"), "image/jpeg", True),
        (PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")] + b"\xff\xd9", "image/jpeg", False),
        (encoded(".png"), "image/png", True),
        (encoded(".png")[:-20], "image/png", False),
        (encoded(".bmp"), "image/bmp", True),
        (encoded(".bmp")[:-3000], "image/bmp", False),
        (run_length_bmp(), "image/bmp", False),
        (encoded(".tif"), "image/tiff", True),
        (encoded(".ppm")[:-3000], "image/x-portable-pixmap", False),
        (encoded(".jp2"), "image/jp2", False),
    ],
    ids=["jpeg", "progressive cut", "png", "png cut", "bmp", "bmp cut", "bmp in runs", "tiff", "ppm cut", "jpeg 2000"],
)
def test_a_snapshot_is_checked_like_a_file(data: bytes, kind: str, whole: bool) -> None:
    """A single image over HTTP is decoded as the same file in a folder is, or refused."""
    video = CheckedVideo()
    with snapshot(data, kind) as port:
        parameters = [cv2.CAP_PROP_N_THREADS, 1]
        url = f"http://127.0.0.1:{port}/s"
        video.open_with_ffmpeg(lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters), "stream", live=True)
        if video.capture.isOpened() and video.grab() == "frame":
            image = video.shot(None).image
            assert (image is not None) is whole
            assert image is None or (image == decode(data).image).all()
        else:
            assert not whole


@pytest.mark.parametrize("reported", [True, False], ids=["HTTP", "a protocol whose reader reports nothing, as RTSP"])
def test_an_h265_frame_within_which_a_connection_ended_is_not_whole(reported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's decoder shows it without its last rows and reports nothing; the connection's end is the only sign."""
    if not reported:
        monkeypatch.setattr(checked_video, "connection_end_in", lambda _: "")
    data = (VIDEOS / "h265.ts").read_bytes()
    whole = {image.tobytes() for image in frames(VIDEOS / "h265.ts") if image is not None}
    for n in range(0, 40, 3):
        video = CheckedVideo()
        with snapshot(data[: len(data) // 4 + len(data) * n // 60 + n], "video/mp2t", length=False) as port:
            url, parameters = f"http://127.0.0.1:{port}/s", [cv2.CAP_PROP_N_THREADS, 1]
            video.open_with_ffmpeg(lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters), "stream", live=True)  # noqa: B023
            images = []
            while video.grab() != "nothing":
                images.append(video.shot(None).image)
        assert len(images) > 8
        assert images[-1] is None
        assert all(image is None or image.tobytes() in whole for image in images)


def test_a_frame_that_cannot_be_converted_is_not_whole() -> None:
    """OpenCV 5 cannot convert interlaced frames. It then returns what is in the memory, and calls it a success."""
    images = list(frames(VIDEOS / "h264_interlaced.ts"))
    shown = {image.tobytes() for image in images if image is not None}
    assert len(images) >= 11
    assert len(shown) in (0, len(images))  # earlier versions show every frame


@pytest.mark.parametrize("first", ["h264.ts", "h265.ts"], ids=["the same codec", "another codec"])
def test_a_video_whose_pictures_change_their_size_is_read_to_the_change(tmp_path: Path, first: str) -> None:
    """OpenCV scales later pictures to the first size, or returns an earlier one."""
    (tmp_path / "v.ts").write_bytes((VIDEOS / first).read_bytes() + (VIDEOS / "h264_larger.ts").read_bytes())
    whole = {image.tobytes() for image in frames(VIDEOS / first) if image is not None}
    images = list(frames(tmp_path / "v.ts"))
    assert sum(image is not None for image in images) > 40
    assert all(image is None or image.tobytes() in whole for image in images)
    assert images[-1] is None


def test_a_stream_whose_pictures_change_their_size_is_opened_again() -> None:
    """The new connection gives the new size."""
    data = (VIDEOS / "h264.ts").read_bytes() + (VIDEOS / "h264_larger.ts").read_bytes()
    with snapshot(data, "video/mp2t", length=False) as port:
        source = UrlSource(url=f"http://127.0.0.1:{port}/s")
        stream = Stream(source, Job(camera=CaptureConfig(source=source), slots=1, frame_bytes=1))
        stream.open()
        sizes = set()

        def read_on() -> None:
            for _ in range(60):
                if (image := stream.read(0, None).image) is not None:
                    sizes.add(image.shape)

        with pytest.raises(CameraError, match="the size or the pixel format of the pictures has changed"):
            read_on()
    assert sizes == {(96, 128, 3)}


@pytest.mark.parametrize("kind", ["too short", "no picture"])
def test_an_image_stream_is_judged_again_after_a_damaged_message(kind: str) -> None:
    """A message that is shorter than announced, or no picture, costs its part and the next one, however long they are."""
    damaged = (4, 9)

    def arrives(i: int, data: bytes) -> bytes:
        if i not in damaged:
            return data
        return data[: len(data) // 2] if kind == "too short" else b"\r\n--frame\r\nContent-Type: text/html\r\n\r\nbusy"

    sent = [jpeg_of(noisy(i, 480, 640)) for i in range(16)]
    assert sent[5].count(b"\n") > 500  # FFmpeg tries each line of what is left of it
    whole = {bytes(decode(data).image) for data in sent}
    video, seen = CheckedVideo(), ""
    with mjpeg_server(0, lambda i: noisy(i, 480, 640), arrives=arrives) as port:
        address = f"http://127.0.0.1:{port}/"
        video.open_with_ffmpeg(lambda: cv2.VideoCapture(address, cv2.CAP_FFMPEG, []), "stream", live=True)
        for _ in range(12):
            assert video.grab() != "nothing"
            image = video.shot(None).image
            assert image is None or bytes(image) in whole
            seen += "x" if image is None else "."
        video.capture.release()
    assert seen == "....xx...xx."
