// The page "Live": one panel a camera, the alarms, the last rejects.

import { Alarms } from "./alarms.js";
import * as choices from "./choices.js";
import { setText, short } from "./elements.js";
import { keyOf, reasonText } from "./outcome.js";
import * as pause from "./pause.js";
import { Panel } from "./panel.js";
import { Rejects } from "./rejects.js";
import { settings } from "./settings.js";
import { Stream } from "./stream.js";
import * as station from "./station.js";
import * as texts from "./texts.js";
import { t } from "./texts.js";

const SPEAK_EVERY_MS = 4000;
const PICTURES_KNOWN = 200;

await texts.load();
choices.setUp();
const cameras = document.getElementById("cameras");
const alarms = new Alarms(document.getElementById("alarms"));
const rejects = new Rejects(document.getElementById("strip"), document.getElementById("no-rejects"), document.getElementById("detail"));
const spoken = document.getElementById("spoken");
pause.setUp(document.querySelector(".choices"), document.getElementById("said"));
const panels = new Map();
const pictures = new Map();  // announcements by key
const verdicts = new Map();  // newest verdicts by key, for pictures that come later
let heartbeat = null;
let said = new Map();
let saidAt = 0;

function panel(name) {
  if (!panels.has(name)) {
    const made = new Panel(name, settings.stale_after_ms);
    panels.set(name, made);
    cameras.append(made.root);
    countPanels();
  }
  return panels.get(name);
}

// The layout depends on how many there are.
function countPanels() {
  cameras.dataset.count = panels.size > 4 ? "many" : String(panels.size);
}

function remember(map, key, value) {
  map.set(key, value);
  if (map.size > PICTURES_KNOWN) map.delete(map.keys().next().value);
}

const handlers = {
  hello(data) {
    if (!data.resumed) {
      rejects.clear();
      for (const one of panels.values()) one.verdict = one.announced = null;
    }
    for (const one of data.pictures) remember(pictures, keyOf(one), one);
    handlers.state(data.heartbeat);
    if (data.shift) handlers.shift(data.shift);
    for (const verdict of data.last) take(verdict);
    for (const verdict of data.rejects) rejects.add(verdict, pictures.get(keyOf(verdict)));
    rejects.readMarks();
    rejects.findPictures();
  },
  state(data) {
    heartbeat = data;
    if (!data.state) return;
    for (const [name, health] of Object.entries(data.state.cameras)) panel(name).health = health;
    for (const [name, one] of panels) {
      if (name in data.state.cameras) continue;
      one.root.remove();
      panels.delete(name);
      countPanels();
    }
    station.show(data.state);
    pause.show(data.state.cameras);
  },
  shift(data) {
    station.showShift(data);
    for (const [name, one] of panels) one.shift = data.cameras[name] ?? null;
  },
  verdict(data) {
    take(data);
    rejects.add(data, pictures.get(keyOf(data)));
    render();
  },
  // The rejects from before the screen was started, too.
  rejects(data) {
    rejects.clear();
    for (const verdict of data) rejects.add(verdict, pictures.get(keyOf(verdict)));
    rejects.readMarks();
    rejects.findPictures();
  },
  picture(data) {
    const key = keyOf(data);
    remember(pictures, key, data);
    rejects.announce(key, data);
    const verdict = verdicts.get(key);
    if (verdict) panel(data.camera).announce(verdict, data);
  },
  check: () => render(),
};

function take(verdict) {
  const key = keyOf(verdict);
  remember(verdicts, key, verdict);
  panel(verdict.camera).setVerdict(verdict, pictures.get(key));
}

function render() {
  const trust = alarms.render(stream, heartbeat);
  document.body.dataset.connection = stream.alive ? "alive" : "lost";
  station.setTrust(trust);
  for (const [name, one] of panels) speak(name, one.render(trust), one.verdict);
}

// Say changes to a screen reader, at most every few seconds: a fast line would never let it finish.
function speak(name, look, verdict) {
  if (said.get(name) === look || performance.now() - saidAt < SPEAK_EVERY_MS) return;
  said.set(name, look);
  saidAt = performance.now();
  const word = ["pass", "fail", "unknown"].includes(look) ? t(`outcome.${verdict.outcome}`) : t(`look.${look}`);
  setText(spoken, `${short(name, 40)}: ${word}. ${verdict && look === "unknown" ? reasonText(verdict) : ""}`);
}

const stream = new Stream(handlers);
