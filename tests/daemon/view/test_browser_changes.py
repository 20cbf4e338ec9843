"""Names, log-in and changes in a real Chromium, and what a page of another site achieves there."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.anosegd_line import Line, run_anosegd
from support.browser import Browser
from support.view_server import StartView, ViewServer

from anosegd.view.users import add_user, revoke_user

ENTER, ESCAPE = 13, 27
THRESHOLD = {"camera": "top", "value": 0.75, "why": "a test"}
CHANGE = f"import('./changes.js').then((changes) => changes.change('set_threshold', {json.dumps(THRESHOLD)}))"

FORGING = """<!doctype html><title>other site</title><script>
const screen_ = "SCREEN", body = JSON.stringify({who: "eve", values: VALUES});
async function attempt(what) { try { return await what(); } catch (error) { return "refused"; } }
async function attack() {
  const found = {};
  for (const type of ["text/plain", "application/json"])
    for (const mode of ["no-cors", "cors"])
      found[type + mode] = await attempt(async () => (await fetch(screen_ + "changes/set_threshold",
        {method: "POST", mode, credentials: "include", headers: {"content-type": type}, body})).status);
  found.read = await attempt(async () => (await fetch(screen_ + "settings", {credentials: "include"})).text());
  const out = {method: "POST", mode: "no-cors", credentials: "include"};
  found.logout = await attempt(async () => (await fetch(screen_ + "logout", out)).status);
  const form = document.createElement("form");
  Object.assign(form, {method: "post", enctype: "text/plain", action: screen_ + "changes/set_threshold", target: "frame"});
  const field = document.createElement("input");
  field.name = body.slice(0, -1) + ', "x": "'; field.value = '"}';
  form.append(field);
  const frame = document.createElement("iframe");
  frame.name = "frame";
  document.body.append(form, frame);
  const loaded = new Promise((done) => frame.addEventListener("load", done, {once: true}));
  form.submit();
  await loaded;
  return found;
}
</script><body></body>"""


@contextlib.contextmanager
def other_site(screen: str) -> Iterator[str]:
    """Another program of this machine, at another port: the same site as the screen for a cookie, but another origin."""
    page = FORGING.replace("SCREEN", screen).replace("VALUES", json.dumps(THRESHOLD)).encode()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def put(browser: Browser, selector: str, text: str) -> None:
    """Put text into a field and press Enter."""
    browser.wait_for(f"document.querySelector({json.dumps(selector)})?.matches(':enabled')")
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
    browser.press("Enter", ENTER)


@pytest.mark.long
def test_user_logs_in_and_other_sites_achieve_nothing(line: Line, config: Path, browser: Browser, tmp_path: Path) -> None:
    """Login leads back to the page that was asked for. A page of another site changes, reads and ends nothing, although the
    browser sends the cookie. A revoked user sees the page of login."""
    users = tmp_path / "users.json"
    token = add_user(users, "ada", "change")
    view = ViewServer(tmp_path, str(config), "--users", str(users))
    try:
        line.run(config)
        line.listener.wait_for_verdicts(1)
        browser.open(f"{view.url}parts?camera=top&lang=en")
        put(browser, "input[name=token]", "wrong")
        browser.wait_for("document.getElementById('said').textContent === 'This token is not valid.'")
        put(browser, "input[name=token]", token)
        browser.wait_for("location.pathname === '/parts' && location.search === '?camera=top&lang=en'")
        browser.wait_for("document.querySelector('.choices')?.innerText.includes('ada')")
        assert token not in browser.evaluate("location.href + document.referrer")
        assert browser.evaluate("document.cookie") == ""  # no script reads it
        with other_site(view.url) as site:
            browser.open(site)
            browser.wait_for("document.title === 'other site'")
            found = browser.evaluate("attack()")
        assert set(found.values()) <= {"refused", 0}, found  # 0: an opaque answer, which says nothing
        assert "change." not in view.log
        assert run_anosegd("changes", str(config), "--json").stdout.count("eve") == 0
        browser.open(f"{view.url}?lang=en")
        browser.wait_for("document.querySelector('.choices')?.innerText.includes('ada')")  # still logged in
        assert browser.evaluate(CHANGE)["new"]["who"] == "ada"
        revoke_user(users, "ada")
        browser.wait_for("location.pathname === '/login'")
    finally:
        view.close()


@pytest.mark.long
def test_name_is_asked_for_once(line: Line, config: Path, start_view: StartView, browser: Browser) -> None:
    """Without login, Escape changes nothing, a name goes with the change, and the next change does not ask again."""
    view = start_view()
    line.run(config)
    line.listener.wait_for_verdicts(1)
    browser.open(f"{view.url}?lang=en")
    browser.wait_for("document.querySelector('#theme')?.options.length === 3")
    begin = f"window.result = null; {CHANGE}.then((answer) => window.result = answer, (error) => window.result = error.code); 0"
    browser.evaluate(begin)
    browser.wait_for("document.querySelector('dialog.ask[open] input') !== null")
    browser.press("Escape", ESCAPE)
    assert browser.wait_for("window.result") == "cancelled"
    browser.evaluate(begin)
    put(browser, "dialog.ask[open] input", "Ada <b>")
    assert browser.wait_for("window.result")["new"]["who"] == "Ada <b>"
    browser.open(f"{view.url}?lang=en")
    browser.wait_for("document.getElementById('person')?.textContent === 'Name: Ada <b>'")
    assert browser.evaluate(CHANGE)["new"]["who"] == "Ada <b>"
    assert browser.messages == []
