"""The screen in a real Chromium."""

from pathlib import Path

import pytest
from support.anosegd_line import Line
from support.browser import Browser
from support.view_server import StartView

from anosegd.client import Client

TAB, ENTER, ESCAPE = 9, 13, 27
SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.mark.long
def test_screen_shows_what_is(line: Line, config: Path, start_view: StartView, browser: Browser) -> None:
    """Reject, script in a part id, keyboard, silent daemon and lost connection, as a person at the screen meets them."""
    view = start_view()
    daemon = line.run(config)
    line.listener.wait_for_state(lambda state: state["cameras"].get("hand", {}).get("state") == "running")
    browser.open(f"{view.url}?lang=en")
    browser.wait_for("document.querySelector('.camera[aria-label=\"Camera top\"] .age')?.textContent.endsWith('ago')")
    browser.wait_for("document.querySelector('.camera[data-picture=current]') !== null")

    with Client(line.endpoint, line.endpoint.replace("pub", "control")) as client:
        client.request("trigger", camera="hand", part_id=SCRIPT)
    hand = "document.querySelector('.camera[aria-label=\"Camera hand\"]')"
    browser.wait_for(f"{hand}.innerText.includes('<img src=x')")
    assert browser.evaluate("document.title").startswith("test-station")
    assert browser.evaluate("document.querySelectorAll('main script, main img[onerror]').length") == 0

    assert browser.wait_for("document.querySelector('.reject img:not([hidden])') !== null")
    browser.evaluate("document.querySelector('#theme').focus()")
    browser.press("Tab", TAB)
    while not browser.evaluate("document.activeElement.classList.contains('reject')"):
        browser.press("Tab", TAB)
    browser.press("Enter", ENTER)
    browser.wait_for("document.querySelector('dialog[open] canvas:not([hidden])') !== null")
    assert "Score" in browser.evaluate("document.querySelector('dialog').innerText")
    browser.press("Escape", ESCAPE)
    browser.wait_for("document.querySelector('dialog[open]') === null")
    browser.wait_for("document.activeElement.classList.contains('reject')")

    daemon.process.kill()
    browser.wait_for("document.querySelector('.alarm.silent')?.innerText.toLowerCase().includes('does not answer')")
    browser.wait_for("[...document.querySelectorAll('.camera')].every((one) => one.dataset.look === 'silent')")
    assert "PASS\n" not in browser.evaluate("document.querySelector('main').innerText")
    browser.wait_for("[...document.querySelectorAll('.camera')].every((one) => one.dataset.picture !== 'current')")

    view.process.kill()
    browser.wait_for("document.querySelector('.alarm.connection') !== null")
    assert browser.evaluate("document.querySelectorAll('.alarm').length") == 1  # what was wrong before is not known now
    assert browser.messages == []


BANNERS = """(async () => {
  const { Alarms } = await import("./alarms.js");
  const root = document.createElement("div");
  const stream = { alive: true, connected: true, silence: 0 };
  await (await import("./texts.js")).load();
  const shown = (state) => {
    new Alarms(root).render(stream, { at: 1e15, state: { cameras: {}, ...state } });
    const texts = (banner) => [...banner.querySelectorAll("strong, .alarm-text")].map((one) => one.textContent);
    const found = [...root.children].map(texts);
    root.replaceChildren();
    return found;
  };
  const pause = { since: "2026-11-28T10:00:00Z", until: "2026-11-28T10:30:00Z", left_s: 1740, who: "Anna", why: "new lens" };
  const side = { state: "running" };
  const full = { working: false, last_error: "disk full" };
  return [
    shown({ state: "ContinuousExecution", detail: null, evidence: { working: true, last_error: "over" } }),
    shown({ state: "ContinuousExecution", detail: "no pictures of parts are kept: disk full", evidence: full }),
    shown({ state: "ContinuousExecution", detail: "line.yaml was not loaded", evidence: null }),
    shown({ state: "Error", detail: "the self-test fails", evidence: full }),
    shown({ state: "ContinuousExecution", detail: null, journal: full }),
    shown({ state: "ContinuousExecution", detail: null, cameras: { top: { state: "lost", last_error: "no route" }, side } }),
    shown({ state: "Ready", detail: "paused: every part is UNKNOWN", cameras: { top: { ...side, pause } } }),
    shown({ state: "ContinuousExecution", detail: null, cameras: { top: { ...side, pause: { ...pause, why: "" } }, side } }),
  ];
})()"""


def test_banners_say_what_the_station_wants_known(start_view: StartView, browser: Browser) -> None:
    """Failing evidence and the station's detail have banners of their own, each fact once."""
    browser.open(f"{start_view().url}?lang=en")
    browser.wait_for("document.querySelector('#theme') !== null")
    evidence = ["Pictures of parts are not kept", "disk full"]
    until = browser.evaluate("new Intl.DateTimeFormat('en', { timeStyle: 'medium' }).format(new Date('2026-11-28T10:30:00Z'))")
    assert browser.evaluate(BANNERS) == [
        [],
        [evidence],
        [["Message from the station", "line.yaml was not loaded"]],
        [["The station reports an error", "the self-test fails"], evidence],
        [["Verdicts cannot be stored", "disk full"]],
        [["Camera top is lost", "no route"]],
        [["The inspection is paused", f"Every part is UNKNOWN. 29 min left, until {until}. Paused by Anna. Reason: new lens"]],
        [["Paused: top", f"Every part is UNKNOWN. 29 min left, until {until}. Paused by Anna."]],
    ]


STREAM = """(async () => {
  const { Stream } = await import("./stream.js");
  const heard = [];
  window.hide = (hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  };
  window.stream = new Stream({ hello: () => heard.push("hello"), state: () => {}, check: () => {} });
  window.heard = heard;
})()"""


@pytest.mark.long
def test_a_hidden_tab_gives_its_connection_back(line: Line, config: Path, start_view: StartView, browser: Browser) -> None:
    """A browser opens six connections to one address. Tabs that nobody sees must not use them up."""
    view = start_view()
    line.run(config)
    browser.open(f"{view.url}?lang=en")
    browser.evaluate(STREAM)
    browser.wait_for("window.heard?.length === 1 && stream.alive")
    browser.evaluate("hide(true)")
    browser.wait_for("stream.source.readyState === EventSource.CLOSED && !stream.alive")
    browser.evaluate("hide(false)")
    browser.wait_for("heard.length === 2 && stream.alive")


DETAIL = """(async () => {
  const { Detail } = await import("./detail.js");
  const dialog = document.createElement("dialog");
  document.body.append(dialog);
  const verdict = {
    journal_id: "j", seq: 1, camera: "top", part_id: "p", captured_at: "2026-11-28T10:00:00Z",
    outcome: "FAIL", score: 0.75, threshold: 0.25, total_ms: 20, source: null,
  };
  new Detail(dialog, () => {}).open("j/1", { verdict, pictures: null });
  const bar = dialog.querySelector(".bar").getBoundingClientRect();
  const mark = dialog.querySelector(".bar-mark").getBoundingClientRect();
  return (mark.left + mark.width / 2 - bar.left) / bar.width;
})()"""


def test_the_bar_of_a_part_shows_its_threshold(start_view: StartView, browser: Browser) -> None:
    """The mark on the bar of the score is where the threshold is: a quarter of the bar's width for 0.25."""
    browser.open(f"{start_view().url}?lang=en")
    browser.wait_for("document.querySelector('#theme') !== null")
    assert browser.evaluate(DETAIL) == pytest.approx(0.25, abs=0.02)


def test_marks_are_seen_at_other_screens(line: Line, start_view: StartView, browser: Browser) -> None:
    """The window of a reject shows a mark that was given elsewhere meanwhile, and so does the strip after a reload."""
    control = line.endpoint.replace("pub", "control")
    more = f"control: {{endpoint: '{control}'}}\njournal: {{path: '{line.folder}/verdicts.db'}}"
    view = start_view()
    browser.open(f"{view.url}?lang=en")
    browser.wait_for("document.querySelector('#theme') !== null")
    line.run(line.config("top: {source: {kind: demo, parts: 40, fps: 40}, policy: wait}", more=more))
    failed = [one for one in line.listener.wait_for_verdicts(40) if one["outcome"] == "FAIL"][-1]
    reject = f"[...document.querySelectorAll('.reject')].find((one) => one.innerText.includes('{failed['part_id']}'))"
    browser.wait_for(f"{reject} !== undefined")
    with Client(line.endpoint, control) as client:
        client.feedback(failed["journal_id"], [failed["seq"]], "false_reject", who="Ada")

    browser.evaluate(f"{reject}.click()")
    browser.wait_for("document.querySelector('#detail[open] p.mark')?.innerText.startsWith('False reject · Ada')")
    back = "[...document.querySelectorAll('#detail .buttons button')].at(-1)"
    assert browser.evaluate(f"[{back}.textContent, {back}.disabled]") == ["Take back", False]

    browser.open(f"{view.url}?lang=en")
    browser.wait_for(f"{reject}?.querySelector('.reject-mark').textContent === 'False reject'")
    assert browser.messages == []


CLOCK = """(async () => {
  const clock = await import("./clock.js?of-its-own");
  const real = performance.now;
  let browser = 0, server = 0;
  performance.now = () => browser;
  try {
    clock.restart(server);
    const hear = (delay) => {
      browser = server * RATE + delay;
      clock.heard(server);
      return clock.age(server);
    };
    let oldest = 0;
    for (; server < 3 * 86400e3; server += 1000) oldest = Math.max(oldest, hear(server % 7000 / 1000));
    let youngest = Infinity;
    for (const end = server + 60e3; server < end; server += 1000) youngest = Math.min(youngest, hear(5000));
    return [oldest, youngest];
  } finally {
    performance.now = real;
  }
})()"""


@pytest.mark.parametrize("rate", [1 - 100e-6, 1.0, 1 + 100e-6])
def test_ages_stay_right_for_days(rate: float, start_view: StartView, browser: Browser) -> None:
    """A browser's clock that is slower or faster than the server's: after days, fresh events look fresh, and late ones late."""
    browser.open(f"{start_view().url}?lang=en")
    browser.wait_for("document.querySelector('#theme') !== null")
    oldest, youngest = browser.evaluate(CLOCK.replace("RATE", repr(rate)))
    assert oldest < 50
    assert youngest > 4900


PANEL = """(async () => {
  const { Panel } = await import("./panel.js");
  const panel = new Panel("top", 10000);
  panel.setVerdict({
    journal_id: "j", seq: 1, camera: "top", part_id: "p", outcome: "PASS", reason: null, score: 0.1, threshold: 0.5, at: null,
  });
  panel.health = { state: "running" };
  return [panel.render(true), panel.age.textContent];
})()"""


def test_a_verdict_of_unknown_age_is_not_new(start_view: StartView, browser: Browser) -> None:
    """The panel shows it as an old one, and no age."""
    browser.open(f"{start_view().url}?lang=en")
    browser.wait_for("document.querySelector('#theme') !== null")
    assert browser.evaluate(PANEL) == ["old", ""]
