"""Reads frames through OpenCV, and finds those that are not whole. Runs in the capture process.

Frames that are image files (JPEG, PNG, TIFF …) are taken from OpenCV as they were sent, and decoded strictly. FFmpeg decodes
other videos, within OpenCV. Its messages tell which frames are damaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np

from anoseg_engines.errors import CameraError, DataError
from anoseg_engines.image_structure import JPEG_START
from anoseg_engines.images import Image, as_image, decode, decode_jpeg, rotated
from anosegd.capture.sources.base import Shot
from anosegd.capture.sources.connections import Connections
from anosegd.capture.sources.ffmpeg_messages import (
    FfmpegMessages,
    connection_end_in,
    conversion_error_in,
    frames_dropped_in,
    losses_in,
    reader_loss_in,
    set_up_in,
)
from anosegd.capture.sources.frame_check import REORDERED, FrameCheck

Grab = Literal["frame", "undecodable", "nothing"]

JPEG_CODES = ("MJPG", "JPEG", "MJPE")  # the last of OpenCV before 4.8, from the name mjpeg
IMAGE_CODES = (*JPEG_CODES, "MPNG", "PNG ", "TIFF", "WEBP", "GIF ", "MJP2", "MJ2C", "JPG2")
"""Codecs whose frames are image files. Those that cannot be checked are among them, so that their frames are refused."""
H265_CODES = ("HEVC", "H265", "HEV1", "HVC1")
MAX_UNDECODABLE = 250
"""After so many packets in a row that give no frame, the source has failed. A live stream of images has only lost its place:
FFmpeg reports each line of a damaged message until the next one begins."""

_FRAME_TYPE = getattr(cv2, "CAP_PROP_FRAME_TYPE", None)  # since OpenCV 4.8
_IMAGE_READER = re.compile(r"Format (\w+_pipe|image2) probed")
"""FFmpeg reads a single image, for example a snapshot over HTTP. For some formats OpenCV names no codec."""
_RAW_H265 = "Format hevc probed"
_ANALYSED = re.compile(r"After avformat_find_stream_info.* frames:(\d+)")


class CheckedVideo:
    """Reads one opened `cv2.VideoCapture`. `grab` takes a frame, `shot` decodes it or says why it cannot be judged.

    Attributes:
        capture: The capture; not opened at first.
        changed: Whether the size or the format of the pictures has changed since the video was opened. OpenCV does not follow:
            it scales them to the size before, or returns an earlier frame.
        may_be_image: Whether FFmpeg took the source for an image file. It may be a stream of images, or one image.
    """

    def __init__(self) -> None:
        self.capture = cv2.VideoCapture()
        self.changed = False
        self.may_be_image = False
        self._messages: FfmpegMessages | None = None
        self._connections = Connections()
        self._check = FrameCheck()
        self._images = False  # the frames are image files
        self._size = (0, 0)  # height, width that the source announces
        self._turn = 0  # degrees by which the video's container says that its frames are to be turned
        self._problem: str | None = None
        self._hides_cuts = False  # FFmpeg's decoder does not report that a frame's last rows are missing
        self._begun = False  # the first frame has come
        self._undecodable = 0  # in a row
        self._live = True
        # A file's frames that the decoder dropped are reported, each as one that cannot be decoded, before the frame that came
        # after them. A live camera has gone on.
        self._dropped = 0
        self._kept: tuple[Grab, str | None] | None = None

    def open_with_ffmpeg(self, opened: Callable[[], cv2.VideoCapture], description: str, *, live: bool) -> None:
        """Take the capture that `opened` returns, which uses FFmpeg. It may have failed to open.

        Raises:
            CameraError: OpenCV does not pass on what FFmpeg reports, or nothing tells where the video ends.
        """
        self.capture.release()
        self._messages, self._check, self._begun, self._live = FfmpegMessages(), FrameCheck(), False, live
        self.changed = False
        with self._connections.opened(), self._messages.collected() as said:
            self.capture = opened()
        self.may_be_image = any(_IMAGE_READER.match(text) for _, text in said)
        if not self.capture.isOpened():
            return
        if not said:
            raise CameraError(
                f"{description}: this OpenCV does not pass on FFmpeg's messages, so damaged frames would go unnoticed",
                hint="use opencv-python of PyPI, or a GStreamer pipeline that ends in JPEG images",
            )
        if any(text.startswith(_RAW_H265) for _, text in said):
            raise CameraError(
                f"{description}: nobody can tell whether a raw H.265 file was cut: store the video in a container, "
                "for example with ffmpeg -i VIDEO -c copy VIDEO.mkv"
            )
        self._hides_cuts = live and fourcc(self.capture).upper() in H265_CODES
        loss = reader_loss_in(said) or (self._hides_cuts and connection_end_in(said))
        if live and loss:
            # FFmpeg has read these frames in advance, and does not report their losses again when they are grabbed.
            analysed = [int(match[1]) for _, text in said if (match := _ANALYSED.match(text))]
            self._check.distrust(loss, max(analysed, default=0))
        if fourcc(self.capture).upper() in IMAGE_CODES or self.may_be_image:
            self._turn = round(self.capture.get(cv2.CAP_PROP_ORIENTATION_META))
            self.capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # otherwise OpenCV turns the bytes
            self._expect_images(cv2.CAP_PROP_FORMAT, -1)

    def open_device(self, capture: cv2.VideoCapture) -> None:
        """Take a V4L2 device that has been set up."""
        self.capture = capture
        if fourcc(capture).upper() in JPEG_CODES:
            self._expect_images(cv2.CAP_PROP_CONVERT_RGB, 0)

    @property
    def waits_for_key_frame_s(self) -> float:
        """For how many seconds no frame has been whole and no key frame has come."""
        return self._check.waiting_s

    @property
    def _is_image_stream(self) -> bool:
        return self._images and self._live

    def grab(self) -> Grab:
        """Take the next frame.

        Returns:
            "undecodable" if there was a frame, but the decoder could make nothing of it; "nothing" if the source gives none.
        """
        if self._messages is None:
            return "frame" if self.capture.grab() else "nothing"
        if self._kept is None:
            # Frames before the first key frame are not parts: no decoder can show them.
            while (came := self._grab_with_ffmpeg(self._messages)) == "undecodable":
                if self._begun and not (self._is_image_stream and self._undecodable > 1):
                    break
            begun, self._begun = self._begun, True
            if self._live or not begun or not self._dropped:
                return came
            self._kept = came, self._problem
        if self._dropped:
            self._dropped -= 1
            self._problem = "the decoder dropped the frame, because data before it is missing"
            return "undecodable"
        (came, self._problem), self._kept = self._kept, None
        return came

    def _grab_with_ffmpeg(self, messages: FfmpegMessages) -> Grab:
        with messages.collected() as said:
            came = self.capture.grab()
        losses = losses_in(said)
        if self._hides_cuts and (ended := connection_end_in(said) or (self._connections.ended and "End of file")):
            self._check.distrust(ended, REORDERED)
        self._dropped = max(0, frames_dropped_in(said) - (not came))
        if not self._images:
            self.changed = self.changed or (self._begun and set_up_in(said))
            key_packet = bool(self.capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
            self._problem = self._check.grabbed(losses, key_packet=key_packet, frame_type=self._frame_type() if came else None)
        if came:
            self._undecodable = 0
            if self._images:
                self._problem = None  # every image is checked by itself
            return "frame"
        self._undecodable += 1
        if not losses.first or (self._undecodable > MAX_UNDECODABLE and not self._is_image_stream):
            return "nothing"
        self._problem = f"the frame cannot be decoded: the decoder reports “{losses.first}”"
        return "undecodable"

    def shot(self, into: Image | None, source: str | None = None) -> Shot:
        """Return the frame that was grabbed last, or why it cannot be judged."""
        if self._problem is not None:
            return Shot(None, source=source, error=self._problem)
        if self.changed:
            what = "the size or the pixel format of the pictures has changed, and this part of the video cannot be read"
            return Shot(None, source=source, error=what)
        ok, image, failed = self._retrieved(None if self._images else into)
        if failed:
            return Shot(None, source=source, error=f"the frame could not be converted: “{failed}”{_advice(failed)}")
        if not ok or image is None:
            return Shot(None, source=source, error="OpenCV could not convert the frame")
        try:
            return Shot(self._decoded(np.asarray(image, np.uint8), into), source=source)
        except DataError as error:
            return Shot(None, source=source, error=error.what)

    def _retrieved(self, into: Image | None) -> tuple[bool, Any, str]:
        """Return what OpenCV makes of the frame, and the first error that FFmpeg reports meanwhile."""
        retrieve = self.capture.retrieve if into is None else partial(self.capture.retrieve, into)
        if self._messages is None:
            return *retrieve(), ""
        with self._messages.collected() as said:
            ok, image = retrieve()
        return ok, image, conversion_error_in(said)

    def _expect_images(self, prop: int, value: float) -> None:
        capture = self.capture
        self._size = (round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
        self._images = bool(capture.set(prop, value))

    def _decoded(self, image: Image, into: Image | None) -> Image:
        """Decode a frame that is the bytes of an image file; return any other unchanged.

        Raises:
            DataError: It is damaged.
        """
        data = image.reshape(-1)
        if not self._images and not (image.shape[0] == 1 and data[:3].tobytes() == JPEG_START):  # GStreamer may give JPEG too
            return as_image(image)
        sent = data.tobytes()
        decoded = (decode_jpeg(sent, into) if sent.startswith(JPEG_START) else decode(sent)).image
        if (decoded.shape[0] * 2, decoded.shape[1]) == self._size:
            raise DataError("the camera sends each frame as two JPEG images (interlaced), which cannot be read")
        return rotated(decoded, self._turn)

    def _frame_type(self) -> str:
        code = 0 if _FRAME_TYPE is None else round(self.capture.get(_FRAME_TYPE))
        return "" if code in (0, ord("?")) else chr(code)


def _advice(failed: str) -> str:
    return "; set the camera to progressive video" if "interlaced" in failed else ""


def fourcc(capture: cv2.VideoCapture) -> str:
    """Return the four letters of the codec or pixel format, empty if unknown."""
    code = round(capture.get(cv2.CAP_PROP_FOURCC))
    return code.to_bytes(4, "little").decode("latin-1") if 0 < code < 1 << 32 else ""
