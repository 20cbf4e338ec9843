"""The page of `anosegd collect --view` in a real Chromium."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anosegd_line import LIMIT_S, run_anosegd
from support.axe_core import barriers
from support.browser import Browser
from support.mjpeg_camera import mjpeg_server

SAID = "document.querySelector('{}')?.textContent"


def picture(i: int) -> np.ndarray:
    """Parts, each in another texture; every fifth one after the first ten is blurred."""
    rng = np.random.default_rng(i)
    image = cv2.resize(rng.integers(60, 190, (12, 20, 3)).astype(np.uint8), (200, 120), interpolation=cv2.INTER_NEAREST)
    image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 4.0) if i > 10 and i % 5 == 0 else image


def config(folder: Path, source: str) -> Path:
    path = folder / "line.yaml"
    path.write_text(f"engine: {{bundle: store/part}}\ncameras:\n  top:\n    source: {source}\n")
    return path


@contextmanager
def collecting(path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`anosegd collect --view`, and the address that it prints."""
    command = [sys.executable, "-m", "anosegd", "collect", str(path), "--out", str(path.parent / "data"), "--view", *arguments]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith("the camera's picture is at http://127.0.0.1:"), said
        yield process, said.split()[-1]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.long
def test_the_page_shows_what_is_saved_and_what_is_left_out(tmp_path: Path, browser: Browser) -> None:
    """Picture, count, sharpness, each reason; a camera that stops and the end of the collection are unmistakable."""
    with mjpeg_server(0, picture) as port:
        path = config(tmp_path, f"{{kind: url, url: 'http://127.0.0.1:{port}/'}}")
        with collecting(path, "--count", "100000") as (process, url):
            browser.open(f"{url}?lang=en&theme=light")
            browser.wait_for("document.querySelector('#picture')?.naturalWidth === 200")
            browser.wait_for(f"parseInt({SAID.format('#saved')}) > 5 && {SAID.format('#saved')}.endsWith('of 100,000 saved')")
            browser.wait_for(f"{SAID.format('#left')}.includes('Blurred')")
            browser.wait_for(f"{SAID.format('#fate')} === '✕ Left out: blurred'")
            browser.wait_for(f"{SAID.format('#sharpness-text')}.includes('% of the usual')")
            assert browser.evaluate("document.title") == "Collecting images: camera top"
            assert barriers(browser) == []
            process.kill()
            browser.wait_for("document.querySelector('.alarm.connection')?.innerText.includes('Nothing is known')")
            browser.wait_for("document.querySelector('figure').dataset.picture === 'old'")
    assert browser.messages == []


@pytest.mark.long
def test_the_page_says_how_the_collection_ended(tmp_path: Path, browser: Browser) -> None:
    """An open page learns that it is complete, and what comes next, before the command ends."""
    with mjpeg_server(0, picture) as port:
        path = config(tmp_path, f"{{kind: url, url: 'http://127.0.0.1:{port}/'}}")
        with collecting(path, "--count", "60") as (process, url):
            browser.open(f"{url}?lang=de&theme=dark")
            browser.wait_for("document.querySelector('.alarm.notice') !== null")
            said = browser.evaluate("document.querySelector('.alarm.notice').innerText")
            assert "Die Sammlung ist vollständig: 60 Bilder in " in said
            assert f"anoseg-train fit --data {tmp_path / 'data'} --out {tmp_path / 'store' / 'part'} --release" in said
            assert barriers(browser) == []
            assert process.wait(LIMIT_S) == 0
    assert len(list((tmp_path / "data").glob("*.png"))) == 60


@pytest.mark.long
def test_ctrl_c_is_no_failure_to_the_page(tmp_path: Path, browser: Browser) -> None:
    """A person who ends the collection finds on the page how many images there are."""
    with mjpeg_server(0, picture) as port:
        path = config(tmp_path, f"{{kind: url, url: 'http://127.0.0.1:{port}/'}}")
        with collecting(path, "--count", "100000") as (process, url):
            browser.open(f"{url}?lang=en")
            browser.wait_for(f"parseInt({SAID.format('#saved')}) > 5")
            process.send_signal(signal.SIGINT)
            browser.wait_for("document.querySelector('.alarm.notice')?.innerText.includes('The collection was stopped: ')")
            assert process.wait(LIMIT_S) == 130


def test_only_this_machine_may_see_the_part(tmp_path: Path) -> None:
    """The page has no login, so an address that others reach is refused."""
    path = config(tmp_path, "{kind: demo}")
    done = run_anosegd("collect", str(path), "--out", str(tmp_path / "data"), "--listen", "0.0.0.0:0", process=True)
    assert done.returncode == 2
    assert "everybody who reaches this address could see the part" in done.stderr
    assert not (tmp_path / "data").exists()
