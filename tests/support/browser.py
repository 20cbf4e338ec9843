"""Drives Chromium through its debugging pipe, without any library. Debian: `apt install chromium`."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.anosegd_line import LIMIT_S

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str:
    """The browser's path. Skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here (apt install chromium)")
    return found


class Browser:
    """One headless Chromium with one page.

    Args:
        folder: For its profile and its log.
        before: A program that runs it, such as `nice`.
    """

    def __init__(self, folder: Path, *, before: tuple[str, ...] = ()) -> None:
        program = find_browser()
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
        command = [*before, program, *options, f"--user-data-dir={folder / 'browser'}", "--window-size=1280,720", "about:blank"]
        # The browser reads its file descriptor 3 and writes 4.
        shell = f'exec 3<&{to_read} 4>&{to_write}; exec "$@"'
        with (folder / "browser.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["/bin/bash", "-c", shell, "browser", *command],
                pass_fds=(to_read, to_write),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LANG": "C.UTF-8"},
            )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._id = 0
        self._session: str | None = None
        self.messages: list[str] = []
        """Errors that the page reported."""

    def open(self, url: str) -> None:
        """Open the page in a new tab."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._ask("Runtime.enable")
        self._ask("Page.enable")
        self._ask("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, and wait for a promise."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Evaluate until the result is true."""
        give_up_at = time.monotonic() + LIMIT_S
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < give_up_at, f"never true: {expression}; {self.evaluate('document.body.innerText')[:2000]}"
            time.sleep(0.2)
        return found

    def press(self, key: str, code: int) -> None:
        """Press and release a key; `code` is its Windows key code, which Chromium asks for."""
        text = {"text": "\r"} if key == "Enter" else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def print_pdf(self) -> bytes:
        """Print the page, on the paper that its style sheet asks for."""
        return base64.b64decode(self._ask("Page.printToPDF", preferCSSPageSize=True)["data"])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._write)
        os.close(self._read)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at:
            answer = self._next(give_up_at)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.messages.append(json.dumps(answer["params"]["exceptionDetails"]))
            if answer.get("id") == self._id:
                assert "result" in answer, answer
                return dict(answer["result"])
        raise AssertionError(f"{method}: the browser does not answer")

    def _next(self, give_up_at: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, give_up_at - time.monotonic()))
            assert ready, "the browser does not answer"
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))
