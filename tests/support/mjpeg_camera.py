"""An MJPEG camera for tests: JPEG pictures over HTTP, which OpenCV's FFmpeg backend reads as a live stream."""

import contextlib
import http.server
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np


def noisy(i: int, height: int = 48, width: int = 80) -> np.ndarray:
    """A good part with a sensor's noise. Each `i` gives another picture."""
    return np.random.default_rng(i).integers(110, 146, (height, width, 3), dtype=np.uint8)


def jpeg_of(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", image)[1])


@contextmanager
def mjpeg_server(
    port: int,
    picture: Callable[[int], np.ndarray] = noisy,
    *,
    pause_s: float = 0.02,
    message: Callable[[np.ndarray], bytes] = jpeg_of,
    arrives: Callable[[int, bytes], bytes] = lambda _, data: data,
) -> Iterator[int]:
    """Serve pictures until the context ends.

    Args:
        port: 0 for a free one.
        picture: Makes the picture with this number.
        pause_s: Seconds between two pictures.
        message: Makes the bytes that are sent of a picture.
        arrives: Returns what is left of the message with this number. Its header still announces the whole length.

    Yields:
        The port.
    """
    over = threading.Event()
    number = itertools.count()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not over.wait(pause_s):
                    i = next(number)
                    data = message(picture(i))
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                    self.wfile.write(head + arrives(i, data) + b"\r\n")

        def log_message(self, *arguments: object) -> None:
            pass

    http.server.ThreadingHTTPServer.allow_reuse_address = True
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Camera) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            over.set()
            server.shutdown()
            thread.join()
