// The page of `anosegd collect --view`: the camera's picture, and what becomes of it.

import * as choices from "./choices.js";
import { element, facts, setData, setText } from "./elements.js";
import * as texts from "./texts.js";
import { duration, number, percent, t } from "./texts.js";

const ASK_MS = 400;
const OLD_MS = 4000;  // a picture that is older is not shown as the present one
const LOST_MS = 3000;
const REASONS = ["unchanged", "dark", "bright", "blurred", "empty", "unreadable"];
const SIGNS = { saved: "✓", compared: "…", skipped: "–" };

await texts.load();
choices.setUp();
const place = (id) => document.getElementById(id);
const picture = place("picture");
const figure = document.querySelector("figure");
let shown = 0;         // the number of the picture that is shown
let newAt = performance.now();
let heardAt = performance.now();
let ended = false;

async function ask() {
  try {
    const answer = await fetch("collection.json", { signal: AbortSignal.timeout(LOST_MS) });
    const found = await answer.json();
    heardAt = performance.now();
    show(found);
    if (found.look && found.look.number !== shown) await showPicture(found.look.number);
  } catch {
    // The command has ended, or does not answer: `check` says so.
  }
  check();
  if (!ended) setTimeout(ask, ASK_MS);
}

async function showPicture(number) {
  const next = new Image();
  next.src = `collection/${number}`;
  await next.decode();
  picture.src = next.src;
  picture.hidden = false;
  shown = number;
  newAt = performance.now();
}

function show(found) {
  document.title = t("collect.title", { camera: found.camera });
  setText(place("title"), document.title);
  setText(place("saved"), t("collect.saved", { n: number(found.saved), count: number(found.count) }));
  place("progress").value = found.saved / found.count;
  if (found.look) {
    const fate = found.look.fate;
    const text = t(`fate.${fate}`, { every: number(found.every) });
    setText(place("fate"), `${SIGNS[fate] ?? "✕"} ${text}`);
    setData(place("fate"), "look", REASONS.includes(fate) ? "left" : "");
    picture.alt = t("collect.picture", { fate: text });
    measured(found);
  }
  facts(place("left"), REASONS.filter((reason) => found.left[reason]).map((reason) => [t(`left.${reason}`), number(found.left[reason])]));
  if (!place("left").children.length) place("left").replaceChildren(element("dt", "", t("collect.left.none")));
  facts(place("collection"), [[t("collect.seen"), number(found.seen)], [t("collect.folder"), found.folder], [t("collect.camera"), found.news]]);
  if (found.ended) end(found);
}

// Sharpness and brightness, compared with the median of the pictures so far. The mark is the limit below which one counts as blurred.
function measured({ look, usual, limits }) {
  if (!usual) return;
  const share = usual.sharpness > 0 ? look.sharpness / usual.sharpness : 1;
  place("sharpness").style.width = `${Math.min(100, share * 50)}%`;
  place("sharpness-limit").style.left = `${limits.blurred * 50}%`;
  setText(place("sharpness-text"), t("collect.sharpness.text", { share: percent(share), limit: percent(limits.blurred) }));
  const light = usual.brightness > 0 ? look.brightness / usual.brightness : 1;
  setText(place("brightness-text"), t("collect.brightness.text", { grey: number(look.brightness), share: percent(light) }));
}

function end(found) {
  ended = true;
  const text = t(`ended.${found.ended}`, { n: number(found.saved), folder: found.folder });
  alarm("notice", "i", text, found.next ? t("collect.next", { command: found.next }) : "");
}

// A picture that stands still, and an answer that does not come, must not look as if all were well.
function check() {
  if (ended) return;
  const silence = performance.now() - heardAt;
  const age = performance.now() - newAt;
  const lost = silence > LOST_MS;
  if (lost) alarm("connection", "≠", t("collect.lost"), t("collect.lost.do", { age: duration(silence) }));
  else place("alarms").replaceChildren();
  const old = lost || age > OLD_MS;
  setData(figure, "picture", !shown ? "none" : old ? "old" : "current");
  setText(place("stamp"), !shown ? t("picture.none") : old ? t("picture.old") : "");
  setText(place("caption"), shown && old ? t("collect.old", { age: duration(age) }) : "");
}

function alarm(kind, sign, title, text) {
  const known = place("alarms").querySelector(`.alarm.${kind}`);
  if (known) {
    setText(known.querySelector("strong"), title);
    setText(known.querySelector(".alarm-text"), text);
    return;
  }
  const root = element("div", `alarm ${kind}`);
  const mark = element("span", "alarm-sign", sign);
  mark.setAttribute("aria-hidden", "true");
  const detail = element("span", "alarm-text", text);
  detail.setAttribute("aria-live", "off");
  const words = element("div");
  words.append(element("strong", "", title), detail);
  root.append(mark, words);
  place("alarms").replaceChildren(root);
}

setInterval(check, 500);
ask();
