// The page "Parts": past parts from the station's journal. The filter is in the address, so that it can be sent to somebody.

import { Alarms } from "./alarms.js";
import { errorText } from "./answers.js";
import * as choices from "./choices.js";
import { Detail, fetchPart } from "./detail.js";
import { cell, element, short } from "./elements.js";
import { Feedback, markDetails, MARKS, markText, sensible } from "./feedback.js";
import { keyOf, reasonText, scoreText, SIGNS } from "./outcome.js";
import { Stream } from "./stream.js";
import * as station from "./station.js";
import * as texts from "./texts.js";
import { dateAndTime, number, t } from "./texts.js";

const FILTERS = ["since", "until", "camera", "outcome", "part", "feedback"];
const COLUMNS = ["fact.captured", "fact.camera", "fact.part", "filter.outcome", "fact.score", "fact.defects", "fact.bundle", "fact.number", "filter.feedback"];

await texts.load();
choices.setUp();
const query = new URLSearchParams(location.search);
const form = document.getElementById("filter");
const rows = document.getElementById("rows");
const said = document.getElementById("said");
const alarms = new Alarms(document.getElementById("alarms"));
const items = new Map();
const cells = new Map();  // by the same keys: the boxes for choosing parts, and the cells of their marks
const detail = new Detail(document.getElementById("detail"), step, showMark);
const feedback = new Feedback({
  parts: () => [...items.values()].filter((part) => cells.get(keyOf(part)).box.checked),
  last: () => items.size ? { journal_id: items.values().next().value.journal_id, change: null } : null,
  done: readMarks,
});
let heartbeat = null;

// A moment of the address as the field wants it: local time without an offset.
function asField(iso) {
  const moment = new Date(iso);
  if (Number.isNaN(moment.getTime())) return "";
  return new Date(moment.getTime() - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

function asked() {
  const found = new URLSearchParams();
  for (const name of FILTERS) {
    const value = form.elements[name].value.trim();
    if (value) found.set(name, name === "since" || name === "until" ? new Date(value).toISOString() : value);
  }
  return found;
}

function address(path, values, more = {}) {
  const made = new URLSearchParams(values);
  for (const [name, value] of Object.entries(more)) made.set(name, value);
  return made.size ? `${path}?${made}` : path;
}

function present() {
  return new URLSearchParams(FILTERS.filter((name) => query.get(name)).map((name) => [name, query.get(name)]));
}

function setUpForm() {
  const outcomes = [["", t("filter.all")], ["REJECT", t("filter.rejects")], ...["FAIL", "UNKNOWN", "PASS"].map((one) => [one, t(`outcome.${one}`)])];
  form.elements.outcome.replaceChildren(...outcomes.map(([value, text]) => new Option(text, value)));
  const marks = [["", t("filter.all")], ["marked", t("filter.marked")], ["unmarked", t("filter.unmarked")], ...MARKS.map((one) => [one, t(`mark.${one}`)])];
  form.elements.feedback.replaceChildren(...marks.map(([value, text]) => new Option(text, value)));
  setCameras(query.get("camera") ? [query.get("camera")] : []);
  for (const name of ["outcome", "part", "camera", "feedback"]) form.elements[name].value = query.get(name) ?? "";
  for (const name of ["since", "until"]) if (query.get(name)) form.elements[name].value = asField(query.get(name));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.assign(address("parts", asked()));
  });
  const recent = (id, hours) => document.getElementById(id).addEventListener("click", () => {
    form.elements.since.value = asField(new Date(Date.now() - hours * 3600000).toISOString());
    form.elements.until.value = "";
    form.requestSubmit();
  });
  recent("last-hour", 1);
  recent("last-shift", 8);
  document.getElementById("csv").href = address("parts.csv", present());
  document.getElementById("head").replaceChildren(...COLUMNS.map((key) => {
    const cell = element("th", "", t(key));
    cell.scope = "col";
    return cell;
  }));
  const all = box(t("feedback.all"));
  all.addEventListener("change", () => {
    for (const { box: one } of cells.values()) one.checked = all.checked && !one.disabled;
    feedback.refresh();
  });
  const first = element("th");
  first.append(all);
  document.getElementById("head").prepend(first);
  document.getElementById("mark").append(feedback.root);
}

function box(label) {
  const made = element("input");
  made.type = "checkbox";
  made.setAttribute("aria-label", label);
  return made;
}

function showMark(part) {
  const cell = cells.get(keyOf(part))?.mark;
  if (!cell) return;
  items.get(keyOf(part)).mark = part.mark;
  cell.textContent = markText(part.mark);
  cell.title = markDetails(part.mark);
}

// The marks of the parts on this page, after a change.
async function readMarks() {
  const query = new URLSearchParams({ feedback: "marked" });
  const [newest] = items.values();
  if (!newest) return;
  for (let before = newest.seq + 1, found = new Map(); before; ) {
    query.set("before", before);
    let answer;
    try {
      answer = await (await fetch(`journal?${query}`)).json();
    } catch {
      return;
    }
    if (answer.error) return;
    for (const part of answer.parts) found.set(keyOf(part), part.mark);
    const oldest = [...items.values()].at(-1).seq;
    before = answer.before > oldest ? answer.before : 0;
    if (!before) for (const [key, part] of items) showMark({ ...part, mark: found.get(key) ?? null });
  }
  for (const { box: one } of cells.values()) one.checked = false;
}

function setCameras(names) {
  const select = form.elements.camera;
  const before = select.value;
  const known = new Set([...select.options].map((option) => option.value));
  if (!known.has("")) select.append(new Option(t("filter.all"), ""));
  for (const name of names) if (!known.has(name)) select.append(new Option(name, name));
  select.value = before;
}

async function load() {
  said.textContent = t("parts.loading");
  let answer;
  try {
    const more = query.get("before") ? { before: query.get("before") } : {};
    answer = await (await fetch(address("journal", present(), more))).json();
  } catch {
    said.textContent = t("error.no_answer");
    return;
  }
  if (answer.error) {
    said.textContent = errorText(answer);
    return;
  }
  for (const part of answer.parts) addRow(part);
  const range = answer.parts.length ? t("parts.range", { first: dateAndTime(answer.parts.at(-1).part_time), last: dateAndTime(answer.parts[0].part_time) }) : "";
  said.textContent = [t("parts.found", { n: number(answer.parts.length) }), range, answer.before ? t("parts.more") : ""].filter(Boolean).join(" ");
  show("older", answer.before !== null, { before: answer.before });
  show("newest", query.has("before"), {});
}

function show(id, visible, more) {
  const link = document.getElementById(id);
  link.hidden = !visible;
  if (visible) link.href = address("parts", present(), more);
}

function addRow(part) {
  const row = element("tr");
  row.dataset.outcome = part.outcome;
  const key = keyOf(part);
  const open = element("button", "link", short(part.part_id, 40));
  open.type = "button";
  open.addEventListener("click", () => openPart(key));
  const badge = element("span", "badge", `${SIGNS[part.outcome]} ${t(`outcome.${part.outcome}`)}`);
  const chosen = box(t("feedback.choose", { part: short(part.part_id, 40) }));
  chosen.disabled = !sensible(part).length;
  chosen.addEventListener("change", () => feedback.refresh());
  const mark = element("td", "mark");
  cells.set(key, { box: chosen, mark });
  row.append(
    cell(chosen), cell(dateAndTime(part.part_time)), cell(short(part.camera, 40)), cell(thumbnail(part), open), cell(badge, " ", part.outcome === "UNKNOWN" ? reasonText(part) : ""),
    cell(scoreText(part)), cell(part.score === null ? "" : number(part.defects)), cell(part.bundle), cell(number(part.seq)), mark,
  );
  rows.append(row);
  items.set(key, part);
  showMark(part);
}

// A small picture, if the evidence has one. The browser asks for it when the row comes into sight.
function thumbnail(part) {
  const picture = element("img", "thumbnail");
  Object.assign(picture, { alt: "", loading: "lazy", width: 64, height: 48 });
  picture.addEventListener("error", () => picture.remove());
  picture.src = `thumbnail?${new URLSearchParams({ journal: part.journal_id, seq: part.seq, at: part.part_time })}`;
  return picture;
}

async function openPart(key) {
  const part = items.get(key);
  const found = await fetchPart(part);
  if (found) detail.open(key, found);
}

function step(by) {
  const keys = [...items.keys()].reverse();
  const next = keys[keys.indexOf(detail.key) + by];
  if (next) openPart(next);
}

setUpForm();
load();
const stream = new Stream({
  hello(data) {
    this.state(data.heartbeat);
  },
  state(data) {
    heartbeat = data;
    if (!data.state) return;
    station.show(data.state);
    setCameras(Object.keys(data.state.cameras));
  },
  check() {
    station.setTrust(alarms.render(stream, heartbeat));
  },
});
