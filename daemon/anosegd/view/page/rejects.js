// The strip of the last rejects, and the dialog that shows one of them.

import { element, facts, short } from "./elements.js";
import { keyOf, reasonText, scoreText, SIGNS } from "./outcome.js";
import { Picture } from "./picture.js";
import { dateAndTime, milliseconds, number, t, timeOfDay } from "./texts.js";

const SHOWN = 40;

export class Rejects {
  constructor(strip, none, dialog) {
    this.strip = strip;
    this.none = none;
    this.items = new Map();  // by key, the oldest first
    this.detail = new Detail(dialog, (step) => this.step(step));
    strip.addEventListener("keydown", (event) => this.move(event));
  }

  clear() {
    this.items.clear();
    this.strip.replaceChildren();
    this.none.hidden = false;
  }

  add(verdict, pictures) {
    const key = keyOf(verdict);
    if (verdict.outcome === "PASS" || this.items.has(key)) return;
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
    button.append(thumb, label, name, when);
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

  open(key) {
    const item = this.items.get(key);
    if (item) this.detail.open(key, item);
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

// Shows one part: picture, score against the threshold, defects.
export class Detail {
  constructor(dialog, step) {
    this.dialog = dialog;
    this.key = null;
    this.opener = null;
    dialog.addEventListener("close", () => {
      this.key = null;
      this.opener?.focus();
    });
    dialog.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
      if (by && event.target.type !== "range") step(by);
    });
    this.build();
  }

  build() {
    const words = element("div", "words");
    this.title = element("h2");
    this.title.id = "detail-title";
    this.reason = element("p", "reason");
    this.bar = element("div", "bar");
    this.fill = element("div", "bar-fill");
    this.mark = element("div", "bar-mark");
    this.bar.append(this.fill, this.mark);
    this.facts = element("dl", "facts");
    this.defects = element("ol", "defects");
    const close = element("button", "close", t("close"));
    close.type = "button";
    close.addEventListener("click", () => this.dialog.close());
    words.append(this.title, this.reason, this.bar, this.facts, this.defects, close);
    this.picture = new Picture();
    this.missing = element("p", "missing", t("picture.gone"));
    const view = element("div", "view");
    view.append(this.picture.root, this.missing);
    this.dialog.replaceChildren(view, words);
  }

  open(key, item) {
    const verdict = item.verdict;
    if (!this.dialog.open) this.opener = document.activeElement;
    this.key = key;
    this.dialog.dataset.outcome = verdict.outcome;
    this.title.textContent = `${SIGNS[verdict.outcome]} ${t(`outcome.${verdict.outcome}`)}`;
    this.reason.textContent = [reasonText(verdict), short(verdict.detail ?? "", 300)].filter(Boolean).join(": ");
    const scored = verdict.score !== null && verdict.threshold !== null;
    this.bar.hidden = !scored;
    if (scored) {
      this.fill.style.width = `${100 * Math.min(1, verdict.score)}%`;
      this.mark.style.left = `${100 * Math.min(1, verdict.threshold)}%`;
    }
    facts(this.facts, [
      [t("fact.score"), scoreText(verdict)],
      [t("fact.part"), short(verdict.part_id, 200)],
      [t("fact.camera"), verdict.camera],
      [t("fact.captured"), dateAndTime(verdict.captured_at ?? verdict.committed_at)],
      [t("fact.source"), verdict.source && short(verdict.source, 200)],
      [t("fact.time"), milliseconds(verdict.total_ms)],
      [t("fact.bundle"), verdict.bundle],
      [t("fact.recipe"), verdict.recipe],
      [t("fact.number"), number(verdict.seq)],
    ]);
    this.defects.replaceChildren(...(verdict.boxes ?? []).map((box) => element("li", "", t("defect", {
      peak: number(box.peak, 2), width: number(box.width), height: number(box.height),
    }))));
    this.showPicture(item);
    if (!this.dialog.open) this.dialog.showModal();
  }

  async showPicture(item) {
    const key = this.key;
    this.picture.clear();
    this.missing.hidden = item.pictures !== null;
    if (!item.pictures) return;
    for (let tries = 0; this.picture.loading && tries < 20; tries++) await new Promise((done) => setTimeout(done, 50));
    const done = await this.picture.show(item.verdict, item.pictures);
    if (this.key !== key) return;
    this.missing.hidden = done;
  }
}
