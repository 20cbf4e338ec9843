"""A short run of some streams of the table of losses; `make losses` runs all of them."""

import re
import shutil
import subprocess
import sys

import pytest
from stress.losses import SYSTEM_PYTHON
from support.paths import SUPPORT, TESTS

STREAMS = ["mjpeg http", "h264 ts-http", "h265-slices rtsp-tcp", "h264 rtsp-udp"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FFmpeg makes the videos")
def test_streams_that_lose_packets_pass_no_defective_part() -> None:
    """Of streams that lose packets, no frame that differs from what was sent is judged."""
    camera = [SYSTEM_PYTHON, str(SUPPORT / "rtsp_camera.py")]
    rtsp = shutil.which(SYSTEM_PYTHON) is not None and subprocess.run(camera, capture_output=True, check=False).returncode == 0
    streams = [f"--stream={name}" for name in STREAMS if rtsp or "rtsp" not in name]
    command = [sys.executable, str(TESTS / "stress" / "losses.py"), "--seconds=5", "--loss=0.03", "--lossy-only", *streams]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    broken = re.search(r"(\d+) broken frames, 0 defective parts passed", finished.stdout)
    assert broken is not None
    assert int(broken[1]) > 20
