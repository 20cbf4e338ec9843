"""A real Chromium is killed, gets texts that are HTML, and shows a page of another site."""

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anosegd_line import LIMIT_S, Line, alive, wait_until
from support.browser import Browser
from support.view_server import StartView, ViewServer

from anosegd.client import Client

HOSTILE = "<img src=x onerror=owned=1><svg onload=owned=1>"
"""HTML that can be the name of a file, too."""
INJECTED = "document.querySelectorAll('[onerror], [onload], main script').length + (window.owned ?? 0)"


@pytest.mark.long
def test_a_killed_browser_leaves_nothing_behind(
    line: Line, config: Path, start_view: StartView, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Verdicts go on without a gap, the screen gives its place to the next page, and the next browser shows the line."""
    view = start_view()
    daemon = line.run(config)
    browser.open(view.url)
    browser.wait_for("document.querySelector('.camera[data-picture=current]') !== null")
    browser.process.kill()
    streams = []
    give_up_at = time.monotonic() + LIMIT_S
    while len(streams) < 40:  # as many as there are places
        stream = view.stream()
        if stream.answer.status == 200:
            streams.append(stream)
        else:
            stream.close()
            assert time.monotonic() < give_up_at
            time.sleep(0.2)
    for stream in streams:
        stream.close()
    with contextlib.closing(Browser(tmp_path_factory.mktemp("second"))) as second:
        second.open(view.url)
        second.wait_for("document.querySelector('.camera[data-picture=current]') !== null")
    sent = len(line.listener.wait_for_verdicts(5))
    seqs = [verdict["seq"] for verdict in line.listener.wait_for_verdicts(sent + 8)]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert alive(daemon.process.pid)
    assert view.log == ""


@pytest.fixture
def hostile(line: Line, tmp_path: Path) -> Iterator[ViewServer]:
    """The screen of a line with a rejected part whose file, part id, comment and person are HTML, and a paused camera."""
    images = line.folder / "images"
    images.mkdir()
    assert cv2.imwrite(str(images / "x.png"), np.full((32, 32, 3), 250, np.uint8))
    (images / "x.png").rename(images / f"{HOSTILE}.png")
    control = line.endpoint.replace("pub", "control")
    more = f"control: {{endpoint: '{control}'}}\njournal: {{path: verdicts.db}}\nevidence: {{folder: kept, min_free: 0}}"
    cameras = (
        "files: {policy: wait, source: {kind: folder, path: images}}\n"
        "hand: {source: {kind: demo}, trigger: {kind: software}, policy: every}"
    )
    config = line.config(cameras, more=more)
    line.run(config)
    with Client(line.endpoint, control) as client:
        line.listener.wait_for_verdicts(1)
        wait_until(lambda: client.status()["journal"]["last_committed"] >= 1, "the part is stored")
        (verdict,) = client.replay(1, 1)
        assert (verdict["outcome"], HOSTILE in verdict["source"]) == ("FAIL", True)
        client.feedback(verdict["journal_id"], [1], "false_reject", who=HOSTILE, comment=HOSTILE)
        line.listener.wait_for_state(lambda state: state["cameras"]["hand"]["state"] == "running")
        client.trigger("hand", part_id=HOSTILE)
        line.listener.wait_for_verdicts(2)
        client.pause(60, camera="hand", who=HOSTILE, why=HOSTILE)
        client.trigger("hand", part_id=HOSTILE)
    view = ViewServer(tmp_path, str(config))
    try:
        yield view
    finally:
        view.close()


def shows(browser: Browser, selector: str, *, attribute: str = "innerText", times: int = 1) -> None:
    """Wait until the text is on the page, as text, and check that nothing was made of it."""
    browser.wait_for(f"(document.querySelector({selector!r})?.{attribute}.split('<img src=x onerror').length ?? 0) > {times}")
    assert browser.evaluate(INJECTED) == 0


@pytest.mark.long
def test_hostile_texts_stay_texts(hostile: ViewServer, browser: Browser) -> None:
    """Part ids, names of files, comments, names of persons and reasons are shown as they are on every page that has them."""
    browser.open(f"{hostile.url}?lang=en")
    shows(browser, ".alarm.paused", times=2)  # who, and why
    browser.wait_for("document.querySelector('.reject[data-outcome=FAIL]') !== null")
    browser.evaluate("[...document.querySelectorAll('.reject[data-outcome=FAIL]')].at(-1).click()")
    shows(browser, "dialog[open]", times=3)  # the file, the comment, and who
    browser.open(f"{hostile.url}parts?lang=en")
    shows(browser, "main")  # the part id
    title = "td.mark[title*=onerror]"
    shows(browser, title, attribute="title", times=2)
    for page in ("report", "bundle"):
        browser.open(f"{hostile.url}{page}?lang=en")
        shows(browser, "main", times=2)  # the change with who and why
    assert browser.messages == []


ATTACK = """<!doctype html><title>another site</title><iframe name="sink"></iframe><script>
const target = "TARGET";
const values = { minutes: 60, why: "forged" };
const text = JSON.stringify({ who: "Eve", values });
const post = (options) => fetch(`${target}changes/pause`, { method: "POST", body: text, credentials: "include", ...options });
const form = (action, type) => {
  const one = Object.assign(document.createElement("form"), { method: "POST", action, enctype: type, target: "sink" });
  const name = `{"values":${JSON.stringify(values)},"who":"Eve`;  // the browser adds "=" and the value
  one.append(Object.assign(document.createElement("input"), { name, value: '"}' }));
  document.body.append(one);
  one.submit();
};
const outcome = (promise) => promise.then((answer) => answer.type, () => "refused");
const stream = new Promise((done, failed) => {
  const one = new EventSource(`${target}events`, { withCredentials: true });
  one.onopen = () => done({ type: "open" });
  one.onerror = failed;
});
(async () => {
  window.results = {
    plain: await outcome(post({ mode: "no-cors", headers: { "content-type": "text/plain" } })),
    json: await outcome(post({ headers: { "content-type": "application/json" } })),
    read: await outcome(fetch(`${target}settings`, { credentials: "include" })),
    stream: await outcome(stream),
  };
  const types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
  for (const type of types) form(`${target}changes/pause`, type);
  await new Promise((done) => setTimeout(done, 2000));
  const frame = Object.assign(document.createElement("iframe"), { src: target });
  document.body.append(frame);
  await new Promise((done) => { frame.onload = done; setTimeout(done, 2000); });
  try { window.results.frame = frame.contentDocument ? "read" : "opaque"; } catch { window.results.frame = "opaque"; }
  window.finished = true;
})();
</script>"""


@pytest.fixture
def other_site() -> Iterator[tuple[str, list[str]]]:
    """Serves what is put into the list as a page of another origin of the same machine, which gets the same cookies."""
    content: list[str] = []

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content[0].encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", content
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.long
def test_a_page_of_another_site_changes_and_reads_nothing(
    line: Line, config: Path, start_view: StartView, browser: Browser, other_site: tuple[str, list[str]]
) -> None:
    """Whatever such a page can have a browser send: no change is made, and it reads no answer, no stream and no frame."""
    view = start_view()
    line.run(config)
    line.listener.wait_for_verdicts(1)
    address, content = other_site
    content.append(ATTACK.replace("TARGET", view.url))
    browser.open(address)
    browser.wait_for("window.finished === true")
    expected = {"plain": "refused", "json": "refused", "read": "refused", "stream": "refused", "frame": "opaque"}
    assert browser.evaluate("window.results") == expected
    with Client(line.endpoint, line.endpoint.replace("pub", "control")) as client:
        assert [change for change in client.changes() if change["kind"] == "pause"] == []
        assert all(camera["pause"] is None for camera in client.status()["cameras"].values())
    assert "change.made" not in view.log
    own = view.post("/changes/pause", {"who": "Ada", "values": {"minutes": 60, "why": "from the screen itself"}})
    assert own.status == 200  # what was forged is a change that the screen's own page can make
