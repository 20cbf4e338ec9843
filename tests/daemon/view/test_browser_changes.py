"""Pause, what if, bundle and report in a real Chromium, with the keyboard."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from support.anosegd_line import Line
from support.browser import Browser
from support.tiny_bundle import tiny_draft
from support.view_server import StartView, ViewServer

from anoseg_engines.bundle_writer import write_bundle
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
    assert browser.evaluate("document.querySelector('#csv').href").startswith(f"{view.url}parts.csv?since=")
    printed = browser.print_pdf()
    assert printed.startswith(b"%PDF")
    assert b"/MediaBox [0 0 59" in printed  # 595 points: A4
    assert browser.messages == []


def press_in_dialog(browser: Browser, button: str) -> str:
    """Press a button with the keyboard, and "ok" in the dialog that it opens; return what the dialog says."""
    reach(browser, button)
    browser.press("Enter", ENTER)
    asked = str(browser.wait_for("document.querySelector('dialog.ask[open]')?.innerText"))
    reach(browser, "dialog button[value=ok]")
    browser.press("Enter", ENTER)
    return asked


@pytest.mark.long
def test_swap_rollback_and_release_with_the_keyboard(
    line: Line, tmp_path: Path, start_view: StartView, browser: Browser
) -> None:
    """Each names both versions before it is done, and the page then shows what is; a refused swap is said in plain words."""
    store = tmp_path / "store" / "tiny"
    for number in (1, 2, 3):
        write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.5 - number / 100))
    (store / "3" / "model.onnx").write_bytes(b"damaged")
    control = line.endpoint.replace("pub", "control")
    more = f"control: {{endpoint: '{control}'}}\njournal: {{path: '{tmp_path}/v.db'}}"
    line.run(line.config("top: {source: {kind: demo, fps: 4}, policy: every}", more=more, store=store / "1"))
    line.listener.wait_for_verdicts(1)
    view = start_view()
    browser.open(f"{view.url}bundle?lang=en")
    browser.wait_for("document.querySelector('#versions table')?.innerText.includes('inspects now')")
    browser.evaluate("localStorage.setItem('who', 'Anna'); true")
    done = "document.querySelector('#done')?.textContent"
    row = "[...document.querySelectorAll('#versions tbody tr')].find((row) => row.cells[0].textContent === '{}')?.innerText"

    asked = press_in_dialog(browser, "button[aria-label='Swap to this version: 2']")
    assert "tiny/1 inspects now. tiny/2 would inspect" in asked
    browser.wait_for(f"{done} === 'tiny/2 inspects now.'")
    browser.wait_for(f"{row.format(2)}.includes('inspects now') && !{row.format(1)}.includes('inspects now')")
    browser.wait_for("document.querySelector('#running').innerText.includes('tiny/2')")
    browser.wait_for("document.querySelector('#changes').innerText.includes('Swap')")
    assert browser.evaluate(done) == "tiny/2 inspects now."  # what was done stays in sight when the table is made again

    asked = press_in_dialog(browser, "button[aria-label='Swap to this version: 3']")
    assert "tiny/3" in asked
    browser.wait_for(f"{done}.startsWith('Nothing was changed: tiny/2 goes on inspecting. The reason: ')")
    assert "model.onnx" in browser.evaluate(done)
    assert line.listener.last_state()["engine"]["version"] in (1, 2)

    browser.wait_for("!document.querySelector('#rollback').hidden")
    asked = press_in_dialog(browser, "#rollback")
    assert "tiny/2 inspects now. tiny/1 would inspect" in asked
    browser.wait_for(f"{done} === 'tiny/1 inspects now.'")
    browser.wait_for(f"{row.format(1)}.includes('inspects now')")

    asked = press_in_dialog(browser, "button[aria-label='Release: 1']")
    assert "Current release: tiny/3. tiny/1 would be the current release." in asked
    browser.wait_for(f"{done} === 'Version 1 is the current release.'")
    browser.wait_for(f"{row.format(1)}.includes('released, current')")
    assert json.loads((store / "releases.json").read_text())["releases"][-1]["version"] == 1
    with Client(line.endpoint, control) as client:
        assert [(change["kind"], change["who"]) for change in client.changes()] == [("swap", "Anna"), ("rollback", "Anna")]
    assert browser.messages == []


@pytest.mark.long
def test_release_is_offered_only_where_it_works(line: Line, tmp_path: Path, browser: Browser) -> None:
    """Where the screen may not write to the store, as under systemd, there is no button, and one line says how to release."""
    store = tmp_path / "store" / "tiny"
    for _ in range(2):
        write_bundle(store, tiny_draft())
    config = line.config("top: {source: {kind: demo, fps: 4}, policy: every}", store=store / "1")
    line.run(config)
    line.listener.wait_for_verdicts(1)
    store.chmod(0o555)
    # Root may write anywhere, unless it gives up this capability.
    as_others = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    view = ViewServer(tmp_path, str(config), prefix=as_others)
    try:
        browser.open(f"{view.url}bundle?lang=en")
        browser.wait_for("document.querySelector('#versions table')?.innerText.includes('Swap to this version')")
        assert "Release" not in browser.evaluate("document.querySelector('#versions').innerText").splitlines()
        said = browser.evaluate("document.querySelector('#how-to-release').innerText")
        assert said.endswith(f"sudo anoseg-engine release {store}/VERSION")
    finally:
        view.close()
        store.chmod(0o755)
