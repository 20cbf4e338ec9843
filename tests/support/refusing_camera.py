"""Cameras that refuse: over HTTP with a status, over RTSP with a status and Digest authentication; one gives one image.

They count what they get.
"""

import http.server
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
from support.mjpeg_camera import noisy


@dataclass
class Refusals:
    """What the camera was asked.

    Attributes:
        port: Where it listens.
        logins: Time of each request that carried a user name and password, as a header or in its address (pwd=…).
        paths: The path of each request.
        ways: How each login in a header was sent: Basic or Digest.
    """

    port: int = 0
    logins: list[float] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)

    def note(self, path: str, authorization: str | None) -> None:
        self.paths.append(path)
        if authorization:
            self.ways.append(authorization.split()[0])
        if authorization or "pwd=" in path:
            self.logins.append(time.monotonic())


@contextmanager
def http_camera(status: int, asks: str = 'Basic realm="camera"') -> Iterator[Refusals]:
    """Answer every request with `status`. With 401, ask for a login in the way `asks`."""
    refusals = Refusals()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refusals.note(self.path, self.headers["Authorization"])
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", asks)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, _serving(server):
        refusals.port = server.server_address[1]
        yield refusals


@contextmanager
def snapshot_camera(kind: str = "image/jpeg") -> Iterator[Refusals]:
    """Answer every request with one JPEG image of this content type, and close the connection."""
    refusals = Refusals()
    image = cv2.imencode(".jpg", noisy(0))[1].tobytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refusals.note(self.path, self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(image)))
            self.end_headers()
            self.wfile.write(image)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, _serving(server):
        refusals.port = server.server_address[1]
        yield refusals


@contextmanager
def rtsp_camera(status: str) -> Iterator[Refusals]:
    """Answer OPTIONS, and refuse DESCRIBE with `status`, such as `404 Not Found`."""
    refusals = Refusals()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                headers = {}
                while (header := self.rfile.readline().strip()) != b"":
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                method, path, _ = line.decode().split()
                answer = "200 OK"
                more = ""
                if method == "DESCRIBE":
                    refusals.note(path, headers.get("authorization"))
                    answer = status
                    more = 'WWW-Authenticate: Digest realm="camera", nonce="1f2e"\r\n' if status.startswith("401") else ""
                self.wfile.write(f"RTSP/1.0 {answer}\r\nCSeq: {headers.get('cseq', '0')}\r\n{more}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server, _serving(server):
        refusals.port = server.server_address[1]
        yield refusals


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
