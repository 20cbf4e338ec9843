"""Pause, what if, bundle and report in a real Chromium, with the keyboard."""

from pathlib import Path

import pytest
from support.anosegd_line import Line
from support.browser import Browser
from support.view_server import StartView

from anosegd.client import Client

TAB, ENTER = 9, 13


def reach(browser: Browser, selector: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(60):
        if browser.evaluate(f"document.activeElement.matches({selector!r})"):
            return
        browser.press("Tab", TAB)
    raise AssertionError(f"the keyboard does not reach {selector}")


@pytest.mark.long
def test_pause_and_threshold_with_the_keyboard(line: Line, config: Path, start_view: StartView, browser: Browser) -> None:
    """A person pauses the line, ends the pause, tries a threshold and sets it; station and journal have what the page said."""
    line.run(config)
    line.listener.wait_for_verdicts(8)
    view = start_view()
    browser.open(f"{view.url}?lang=en")
    browser.wait_for("document.querySelector('.camera .age')?.textContent.endsWith('ago')")
    browser.evaluate("localStorage.setItem('who', 'Anna'); true")
    reach(browser, "#pause")
    browser.press("Enter", ENTER)
    browser.wait_for("document.querySelector('dialog.ask[open]') !== null")
    assert "UNKNOWN" in browser.evaluate("document.querySelector('dialog.ask').innerText")
    reach(browser, "dialog button[value=ok]")
    browser.press("Enter", ENTER)
    answer_name(browser)
    browser.wait_for("document.querySelector('.alarm.paused')?.innerText.includes('Anna')")
    browser.wait_for("document.querySelector('.camera[data-look=paused]')?.innerText.includes('PAUSED')")
    assert line.listener.wait_for(lambda m: m.topic == "verdict.top" and m.header["reason"] == "paused")
    browser.wait_for("document.querySelector('#pause').textContent.startsWith('End')")
    reach(browser, "#pause")
    browser.press("Enter", ENTER)
    browser.wait_for("document.querySelector('dialog.ask[open]') !== null")
    reach(browser, "dialog button[value=ok]")
    browser.press("Enter", ENTER)
    browser.wait_for("document.querySelector('.alarm.paused') === null")

    browser.open(f"{view.url}what-if?lang=en&camera=top&threshold=1")
    browser.wait_for("document.querySelector('#said')?.textContent.includes('more would be rejected')")
    browser.wait_for("document.querySelector('canvas') !== null && document.querySelectorAll('.flipped .reject').length > 0")
    reach(browser, "#set")
    browser.press("Enter", ENTER)
    asked = browser.wait_for("document.querySelector('dialog.ask[open]')?.innerText")
    old = line.listener.last_state()["cameras"]["top"]["threshold"]["value"]
    assert f"{old:.3f}" in asked
    assert "1.0000" in asked
    browser.evaluate("document.querySelector('dialog [name=why]').value = 'trial'; true")
    reach(browser, "dialog button[value=ok]")
    browser.press("Enter", ENTER)
    browser.wait_for("document.querySelector('#done')?.textContent.includes('is 1.000 now')")
    with Client(line.endpoint, line.endpoint.replace("pub", "control")) as client:
        found = [(change["kind"], change["who"], change["why"]) for change in client.changes()]
    assert found == [("pause", "Anna", ""), ("resume", "Anna", ""), ("threshold", "Anna", "trial")]
    assert browser.messages == []


def answer_name(browser: Browser) -> None:
    """Give the name if the page asks for it."""
    if browser.evaluate("document.querySelector('dialog [name=who]') !== null"):
        browser.evaluate("document.querySelector('dialog [name=who]').value = 'Anna'; true")
        reach(browser, "dialog button[value=ok]")
        browser.press("Enter", ENTER)


@pytest.mark.long
def test_other_pages_draw_and_print(line: Line, config: Path, start_view: StartView, browser: Browser) -> None:
    """Trend and bundle show what the station has; the report prints on paper in A4."""
    line.run(config)
    line.listener.wait_for_verdicts(8)
    view = start_view()
    browser.open(f"{view.url}trend?lang=de")
    browser.wait_for("document.querySelectorAll('canvas').length >= 2")
    assert browser.evaluate("document.querySelector('nav [aria-current]').textContent") == "Verlauf"
    browser.open(f"{view.url}bundle?lang=en")
    digest = line.listener.last_state()["engine"]["digest"]
    browser.wait_for(f"document.querySelector('#running')?.innerText.includes('{digest}')")
    browser.wait_for("document.querySelector('#versions table')?.innerText.includes('inspects now')")
    browser.open(f"{view.url}report?lang=en")
    browser.wait_for("document.body?.dataset.report === 'ready'")
    printed = browser.print_pdf()
    assert printed.startswith(b"%PDF")
    assert b"/MediaBox [0 0 59" in printed  # 595 points: A4
    assert browser.messages == []
