// The page "What if": what another threshold would have made of past parts; and setting it.

import { aboutText, ask, errorText } from "./answers.js";
import { change } from "./changes.js";
import { chart } from "./chart.js";
import * as choices from "./choices.js";
import { confirm, reasonField } from "./confirm.js";
import { Detail, fetchPart } from "./detail.js";
import { element, short } from "./elements.js";
import { follow } from "./navigation.js";
import { keyOf, scoreText, SIGNS } from "./outcome.js";
import { Period } from "./period.js";
import { may } from "./settings.js";
import * as texts from "./texts.js";
import { dateAndTime, number, percent, t } from "./texts.js";

const WAIT_MS = 150;
const READING_MS = 1500;

await texts.load();
choices.setUp();
const period = new Period(document.getElementById("filter"), { allCameras: false });
const form = document.getElementById("try");
const said = document.getElementById("said");
const done = document.getElementById("done");
const notes = document.getElementById("notes");
const setButton = document.getElementById("set");
const items = new Map();
const detail = new Detail(document.getElementById("detail"), step);
let state = null;
let waiting = null;
let asked = 0;
let marked = null;  // what the threshold that was tried last makes of the marked parts

const camera = () => period.form.elements.camera.value;
const inUse = () => state?.cameras[camera()]?.threshold ?? null;
const tried = () => Number(form.elements.value.value);
const digits = (value) => number(value, 3);

function originText(threshold) {
  return t("whatif.origin", { value: digits(threshold.value), origin: t(`origin.${threshold.origin}`) });
}

// Offer the threshold that decides now as the first one to try.
function begin() {
  const threshold = inUse();
  const byRules = state.cameras[camera()] && !threshold;
  for (const field of form.elements) field.disabled = byRules;
  setButton.hidden = !may("change") || byRules;
  document.getElementById("chart").hidden = byRules;
  if (byRules) {
    said.textContent = t("whatif.rules", { camera: camera() });
    notes.replaceChildren();
    return;
  }
  const first = period.query.get("threshold") ?? threshold?.value;
  if (first) show(Number(first));
  load(true);
}

function show(value) {
  form.elements.value.value = String(Number(value.toFixed(4)));
  form.elements.slider.value = String(value);
}

async function load(withParts) {
  const turn = ++asked;
  const threshold = inUse();
  if (!threshold || !(tried() > 0)) return;
  const query = period.asked();
  query.set("camera", camera());
  query.set("threshold", tried());
  query.set("bundle", state.engine.digest);
  if (withParts) query.set("parts", "yes");
  const answer = await ask("what-if.json", query);
  if (turn !== asked) return;
  if (answer.error) {
    said.textContent = errorText(answer);
    return;
  }
  said.textContent = `${resultText(answer)} ${aboutText(answer)}`;
  notes.replaceChildren(...noteTexts(answer, threshold).map((text) => element("li", "", text)));
  drawHistogram(answer, threshold);
  if (answer.listed) list(answer);
  if (!answer.complete) setTimeout(() => load(withParts), READING_MS);
}

function resultText(answer) {
  if (!answer.parts) return t("whatif.none");
  const after = answer.failed + answer.would_fail - answer.would_pass;
  const share = (count) => percent(count / answer.parts);
  return t("whatif.result", {
    parts: number(answer.parts), failed: number(answer.failed), share: share(answer.failed),
    more: number(answer.would_fail), fewer: number(answer.would_pass), after: number(after), share_after: share(after),
  });
}

function noteTexts(answer, threshold) {
  const lines = [];
  if (threshold.value !== threshold.calibrated || tried() !== threshold.calibrated) lines.push(t(threshold.promised ? "whatif.promise" : "whatif.nopromise", { value: digits(threshold.calibrated) }));
  if (answer.other_bundle) lines.push(t("whatif.bundle", { n: number(answer.other_bundle) }));
  if (answer.by_rules) lines.push(t("whatif.byrules", { n: number(answer.by_rules) }));
  if (answer.marked) marked = answer.marked;
  if (marked?.good) lines.push(t("whatif.good", { n: number(marked.good), now: number(marked.good_failed), then: number(marked.good_would_fail) }));
  if (marked?.defective) lines.push(t("whatif.defective", { n: number(marked.defective), now: number(marked.defective_passed), then: number(marked.defective_would_pass) }));
  if (answer.review) lines.push(t("whatif.review", { n: number(answer.review) }));
  return lines;
}

function drawHistogram(answer, threshold) {
  const x = answer.passed_scores.map((count, i) => (i + 0.5) / answer.bins);
  const shown = (counts) => counts.map((count) => count || null);  // a logarithmic axis has no 0
  const rows = x.map((at, i) => [`${digits(i / answer.bins)} – ${digits((i + 1) / answer.bins)}`, number(answer.passed_scores[i]), number(answer.failed_scores[i])]);
  document.getElementById("chart").replaceChildren(chart({
    title: t("whatif.histogram"), x: [0, ...x, 1], xText: (value) => number(value, 2), log: true, valueText: (value) => number(value),
    series: [
      { label: t("outcome.PASS"), values: [null, ...shown(answer.passed_scores), null], look: "bars", color: "quiet" },
      { label: t("outcome.FAIL"), values: [null, ...shown(answer.failed_scores), null], look: "bars", color: "fail" },
    ],
    marks: [
      { at: threshold.value, label: t("whatif.present", { value: digits(threshold.value) }), look: "solid", color: "ink" },
      { at: tried(), label: t("whatif.trying", { value: digits(tried()) }), look: "dashed", color: "focus" },
    ],
    head: [t("fact.score"), t("outcome.PASS"), t("outcome.FAIL")],
    rows: rows.filter((cells, i) => answer.passed_scores[i] + answer.failed_scores[i] > 0),
  }));
}

function list(answer) {
  items.clear();
  const groups = [["whatif.list.fail", answer.fail_seqs, answer.would_fail], ["whatif.list.pass", answer.pass_seqs, answer.would_pass]];
  const made = [];
  for (const [key, seqs, count] of groups) {
    const listed = answer.listed.filter((part) => seqs.includes(part.seq));
    if (!count) continue;
    const entries = element("ul", "flipped");
    for (const part of listed) entries.append(entry(part));
    made.push(element("h2", "", t(key, { n: number(count), listed: number(listed.length) })), entries);
  }
  document.getElementById("changed").replaceChildren(...made);
  showPictures([...items.values()]);
}

function entry(part) {
  const item = element("li");
  const button = element("button", "reject");
  button.type = "button";
  button.dataset.outcome = part.outcome;
  const thumb = element("img");
  thumb.alt = "";
  thumb.hidden = true;
  button.append(thumb, element("span", "reject-label", `${SIGNS[part.outcome]} ${t(`outcome.${part.outcome}`)}`), element("span", "", scoreText(part)), element("span", "reject-part", short(part.part_id, 24)), element("span", "reject-time", dateAndTime(part.part_time)));
  button.addEventListener("click", () => open(keyOf(part)));
  item.append(button);
  items.set(keyOf(part), { part, thumb });
  return item;
}

// Pictures that are kept, one after the other: the newest list counts.
async function showPictures(wanted) {
  const turn = asked;
  for (const item of wanted) {
    const found = await fetchPart(item.part);
    if (turn !== asked) return;
    if (!found?.pictures) continue;
    const kind = found.pictures.kinds.includes("image") ? "image" : "map";
    item.thumb.src = `pictures/${encodeURIComponent(item.part.journal_id)}/${item.part.seq}/${kind}`;
    item.thumb.hidden = false;
  }
}

async function open(key) {
  const found = await fetchPart(items.get(key).part);
  if (found) detail.open(key, found);
}

function step(by) {
  const keys = [...items.keys()].reverse();
  const next = keys[keys.indexOf(detail.key) + by];
  if (next) open(next);
}

async function set() {
  const old = inUse();
  const value = tried();
  const names = { camera: camera(), old: originText(old), value: number(value, 4) };
  const lines = [t("whatif.ask", names), said.textContent, ...[...notes.children].map((line) => line.textContent)];
  const values = await confirm({ title: t("whatif.ask.title"), texts: lines, yes: t("whatif.ask.yes", names), fields: [reasonField(true)] });
  if (!values) return;
  try {
    const found = await change("set_threshold", { camera: camera(), value, why: values.why.trim() });
    done.textContent = t("whatif.done", { camera: camera(), old: digits(found.old.value), value: digits(found.new.value) });
  } catch (error) {
    done.textContent = error.message;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (tried() > 0 && inUse()) set();
});
form.elements.slider.addEventListener("input", () => tryValue(Number(form.elements.slider.value), form.elements.value));
form.elements.value.addEventListener("input", () => {
  form.elements.slider.value = form.elements.value.value;
  tryValue(tried(), null);
});
period.form.elements.camera.addEventListener("change", () => period.go());

function tryValue(value, field) {
  marked = null;
  if (field) field.value = String(value);
  clearTimeout(waiting);
  load(false);
  waiting = setTimeout(() => load(true), 4 * WAIT_MS);
}

follow((found) => {
  const first = state === null;
  const before = inUse()?.value;
  state = found;
  period.setCameras(Object.keys(found.cameras));
  if (first && !camera()) period.form.elements.camera.value = Object.keys(found.cameras)[0] ?? "";
  if (first) begin();
  else if (before !== inUse()?.value) load(false);
});
