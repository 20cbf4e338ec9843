// The strip of the last rejects.

import { Detail, fetchPart } from "./detail.js";
import { element, short } from "./elements.js";
import { markText } from "./feedback.js";
import { keyOf, SIGNS } from "./outcome.js";
import { t, timeOfDay } from "./texts.js";

const SHOWN = 40;
const LOOKED_FOR = 10;  // so many of the newest get a picture from the evidence at once, the others when they are opened

export class Rejects {
  constructor(strip, none, dialog) {
    this.strip = strip;
    this.none = none;
    this.items = new Map();  // by key, the oldest first
    this.detail = new Detail(dialog, (step) => this.step(step), (verdict) => this.showMark(verdict));
    strip.addEventListener("keydown", (event) => this.move(event));
  }

  clear() {
    this.items.clear();
    this.strip.replaceChildren();
    this.none.hidden = false;
  }

  add(verdict, pictures) {
    const key = keyOf(verdict);
    if (verdict.outcome === "PASS" || verdict.reason === "paused" || this.items.has(key)) return;
    const entry = element("li");
    const button = element("button", "reject");
    button.type = "button";
    button.dataset.outcome = verdict.outcome;
    const thumb = element("img");
    thumb.alt = "";
    thumb.hidden = true;
    const label = element("span", "reject-label", `${SIGNS[verdict.outcome]} ${t(`outcome.${verdict.outcome}`)}`);
    const name = element("span", "reject-part", short(verdict.part_id, 24));
    const when = element("span", "reject-time", `${timeOfDay(verdict.captured_at ?? verdict.committed_at)} · ${short(verdict.camera, 16)}`);
    const mark = element("span", "reject-mark", markText(verdict.mark));
    button.append(thumb, label, name, when, mark);
    button.addEventListener("click", () => this.open(key));
    entry.append(button);
    this.strip.prepend(entry);
    this.none.hidden = true;
    this.items.set(key, { verdict, pictures: null, entry, button, thumb });
    if (pictures) this.announce(key, pictures);
    while (this.items.size > SHOWN) {
      const [oldest, item] = this.items.entries().next().value;
      item.entry.remove();
      this.items.delete(oldest);
    }
  }

  announce(key, pictures) {
    const item = this.items.get(key);
    if (!item) return;
    item.pictures = pictures;
    const kind = pictures.kinds.includes("image") ? "image" : "map";
    item.thumb.src = `pictures/${encodeURIComponent(item.verdict.journal_id)}/${item.verdict.seq}/${kind}`;
    item.thumb.hidden = false;
    if (this.detail.key === key) this.detail.showPicture(item);
  }

  showMark(verdict) {
    const mark = this.items.get(keyOf(verdict))?.button.querySelector(".reject-mark");
    if (mark) mark.textContent = markText(verdict.mark);
  }

  // The marks that the station has now. One answer holds more marked rejects than the strip shows.
  async readMarks() {
    let answer;
    try {
      answer = await (await fetch("journal?outcome=REJECT&feedback=marked")).json();
    } catch {
      return;
    }
    if (answer.error) return;
    const marks = new Map(answer.parts.map((part) => [keyOf(part), part.mark]));
    for (const [key, { verdict }] of this.items) {
      if (!marks.has(key) && answer.before !== null && verdict.seq < answer.before) continue;  // the answer ends before this part
      verdict.mark = marks.get(key) ?? null;
      this.showMark(verdict);
    }
  }

  open(key) {
    const item = this.items.get(key);
    if (item) this.detail.open(key, item);
    if (item) this.findPicture(key, item);
  }

  async findPictures() {
    for (const [key, item] of [...this.items].reverse().slice(0, LOOKED_FOR)) {
      await this.findPicture(key, item);
    }
  }

  // The evidence may have what the screen's server does not remember.
  async findPicture(key, item) {
    if (item.pictures?.kinds.includes("image")) return;
    const part = await fetchPart(item.verdict);
    if (part?.pictures && part.pictures.kinds.length > (item.pictures?.kinds.length ?? 0)) this.announce(key, part.pictures);
  }

  // The next older (-1) or newer (+1) reject in the dialog.
  step(by) {
    const keys = [...this.items.keys()];
    const at = keys.indexOf(this.detail.key);
    const next = at < 0 ? keys.at(-1) : keys[at + by];
    if (next) this.open(next);
  }

  move(event) {
    const by = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (!by) return;
    document.activeElement.closest("li")?.[by]?.querySelector("button").focus();
    event.preventDefault();
  }
}
