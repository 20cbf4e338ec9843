"""axe-core finds no barrier on the pages of the screen, in light and dark, in a real Chromium."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.anosegd_line import Line
from support.axe_core import barriers
from support.browser import Browser
from support.view_server import StartView, ViewServer

from anosegd.view.users import add_user

REJECT = "document.querySelector('.reject img:not([hidden])')"
ROW = "document.querySelector('#rows tr')"


@dataclass(frozen=True)
class Page:
    """A page to look at.

    Attributes:
        path: Its address.
        ready: JavaScript that is true once the page shows what it is for.
        click: JavaScript of an element to click on first; empty: none.
        then: True once the click has worked.
    """

    path: str
    ready: str
    click: str = ""
    then: str = "true"


PAGES = {
    "live": Page("", f"document.querySelector('.camera[data-picture=current]') && {REJECT}"),
    "parts": Page("parts", ROW),
    "no parts": Page("parts?part=there-is-none", "document.querySelector('#said')?.textContent"),
    "a reject": Page("", REJECT, f"{REJECT}.closest('.reject')", "document.querySelector('dialog[open] canvas:not([hidden])')"),
    "a past part": Page("parts", ROW, f"{ROW}.querySelector('button')", "document.querySelector('#detail[open]')"),
    "trend": Page("trend", "document.querySelectorAll('canvas').length > 1"),
    "what if": Page("what-if?camera=top&threshold=1", "document.querySelectorAll('.flipped .reject').length"),
    "report": Page("report", "document.body?.dataset.report"),
    "bundle": Page("bundle", "document.querySelector('#versions table')"),
    "pause": Page(
        "", "document.querySelector('#pause')", "document.querySelector('#pause')", "document.querySelector('dialog.ask[open]')"
    ),
}
"""The pages of a station that inspects. A new page is one more line."""


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_have_no_barriers(theme: str, line: Line, config: Path, start_view: StartView, browser: Browser) -> None:
    """Each page of `PAGES`, and the live page when the station is silent and when the screen's own connection is lost."""
    view = start_view()
    daemon = line.run(config)
    line.listener.wait_for_verdicts(20)
    found = list[str]()

    def look(name: str) -> None:
        found.extend(f"{name}: {barrier}" for barrier in barriers(browser))

    for name, page in PAGES.items():
        browser.open(f"{view.url}{page.path}{'&' if '?' in page.path else '?'}lang=en&theme={theme}")
        browser.wait_for(f"!!({page.ready})")
        if page.click:
            browser.evaluate(f"{page.click}.click()")
            browser.wait_for(f"!!({page.then})")
        look(name)
        browser.evaluate("location.replace('about:blank')")  # a page that stays open keeps its stream
    browser.open(f"{view.url}?lang=en&theme={theme}")
    browser.wait_for("document.querySelector('.camera[data-picture=current]') !== null")
    daemon.process.kill()
    browser.wait_for("document.querySelector('.alarm.silent') !== null")
    look("silent station")
    view.process.kill()
    browser.wait_for("document.querySelector('.alarm.connection') !== null")
    look("lost connection")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_of_login_has_no_barriers(theme: str, config: Path, browser: Browser, tmp_path: Path) -> None:
    """Also after a wrong token."""
    add_user(tmp_path / "users.json", "person", "see")
    view = ViewServer(tmp_path, str(config), "--users", str(tmp_path / "users.json"))
    try:
        browser.open(f"{view.url}?lang=en&theme={theme}")
        browser.wait_for("document.querySelector('fieldset:not([disabled])') !== null")
        found = barriers(browser)
        browser.evaluate("document.querySelector('[name=token]').value = 'wrong'")
        browser.evaluate("document.querySelector('#login button').click()")
        browser.wait_for("document.querySelector('#said').textContent !== ''")
        found += barriers(browser)
    finally:
        view.close()
    assert not found, "\n".join(found)


def test_a_barrier_is_found(start_view: StartView, browser: Browser) -> None:
    """axe-core works in this browser: a picture without a text, and grey on grey, are named."""
    browser.open(f"{start_view().url}?lang=en")
    browser.wait_for("document.querySelector('#theme option') !== null")
    browser.evaluate("document.querySelector('h1').style.cssText = 'color: #ccc; background: #bbb'")
    browser.evaluate("document.querySelector('main').append(new Image())")
    found = barriers(browser)
    assert any(barrier.startswith("image-alt: ") for barrier in found)
    assert any(barrier.startswith("color-contrast: ") for barrier in found)
