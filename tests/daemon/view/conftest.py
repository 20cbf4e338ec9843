from collections.abc import Iterator
from pathlib import Path

import pytest
from support.anosegd_line import Line
from support.browser import Browser
from support.view_server import StartView, ViewServer

STATION = """
top: {source: {kind: demo, fps: 4}, policy: every}
hand: {source: {kind: demo}, trigger: {kind: software}, policy: every}
"""
"""Parts of the demo line, whose scores the tiny bundle finds too high now and then, and a camera for part ids of one's own."""


@pytest.fixture
def config(line: Line) -> Path:
    control = line.endpoint.replace("pub", "control")
    return line.config(STATION, more=f"control: {{endpoint: '{control}'}}\njournal: {{path: '{line.folder}/verdicts.db'}}")


@pytest.fixture
def start_view(config: Path, tmp_path: Path) -> Iterator[StartView]:
    """Starts screens of the station `config`; whatever was started is ended."""
    started: list[ViewServer] = []

    def start() -> ViewServer:
        started.append(ViewServer(tmp_path, str(config)))
        return started[-1]

    try:
        yield start
    finally:
        for view in started:
            view.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path)
    try:
        yield browser
    finally:
        browser.close()
