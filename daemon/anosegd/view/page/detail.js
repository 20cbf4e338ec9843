// The dialog that shows one part: picture, score against the threshold, defects.

import { element, facts, short } from "./elements.js";
import { Feedback, markDetails, sensible } from "./feedback.js";
import { reasonText, scoreText, SIGNS } from "./outcome.js";
import { Picture } from "./picture.js";
import { dateAndTime, milliseconds, number, t } from "./texts.js";

// A past part with its boxes, and which pictures of it there are; null if it cannot be had.
export async function fetchPart(verdict) {
  try {
    const query = new URLSearchParams({ journal: verdict.journal_id, seq: verdict.seq });
    const answer = await fetch(`part?${query}`);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

export class Detail {
  constructor(dialog, step, marked = () => {}) {
    this.marked = marked;
    this.dialog = dialog;
    this.key = null;
    this.opener = null;
    dialog.addEventListener("close", () => {
      this.key = null;
      this.opener?.focus();
    });
    dialog.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
      if (by && event.target.localName !== "input") step(by);
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
    this.limit = element("div", "bar-mark");
    this.bar.append(this.fill, this.limit);
    this.facts = element("dl", "facts");
    this.defects = element("ol", "defects");
    const close = element("button", "close", t("close"));
    close.type = "button";
    close.addEventListener("click", () => this.dialog.close());
    this.feedback = new Feedback({
      parts: () => (this.verdict ? [this.verdict] : []),
      last: () => this.verdict?.mark && { journal_id: this.verdict.journal_id, change: this.verdict.mark.change },
      done: () => this.readMark(),
    });
    this.mark = element("p", "mark");
    words.append(this.title, this.reason, this.bar, this.mark, this.feedback.root, this.facts, this.defects, close);
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
    this.verdict = verdict;
    this.feedback.clear();
    this.showMark();
    if (sensible(verdict).length) this.readMark();
    this.title.textContent = `${SIGNS[verdict.outcome]} ${t(`outcome.${verdict.outcome}`)}`;
    this.reason.textContent = [reasonText(verdict), short(verdict.detail ?? "", 300)].filter(Boolean).join(": ");
    const scored = verdict.score !== null && verdict.threshold !== null;
    this.bar.hidden = !scored;
    if (scored) {
      this.fill.style.width = `${100 * Math.min(1, verdict.score)}%`;
      this.limit.style.left = `${100 * Math.min(1, verdict.threshold)}%`;
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

  showMark() {
    const mark = this.verdict.mark;
    this.mark.textContent = markDetails(mark);
    this.mark.hidden = !mark;
    this.feedback.back.disabled = !mark;
    this.feedback.refresh();
  }

  // A live verdict comes before anybody can mark it, and somebody may have marked the part at another screen since.
  async readMark() {
    const verdict = this.verdict;
    const found = await fetchPart(verdict);
    if (!found) return;
    verdict.mark = found.verdict.mark;
    this.marked(verdict);
    if (this.verdict === verdict) this.showMark();
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
