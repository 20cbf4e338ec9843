// Feedback: buttons by which a person says whether verdicts are right, and takes that back.

import { change } from "./changes.js";
import { element } from "./elements.js";
import { may } from "./settings.js";
import { dateAndTime, number, t } from "./texts.js";

export const MARKS = ["right", "false_reject", "missed_defect", "unsure"];
const SENSIBLE = {
  PASS: ["right", "missed_defect", "unsure"],
  FAIL: ["right", "false_reject", "unsure"],
  review: ["right", "false_reject", "unsure"],
};

// The marks that make sense for a part. One that was not inspected takes none.
export function sensible(verdict) {
  return verdict.durable === false ? [] : SENSIBLE[verdict.reason ?? verdict.outcome] ?? [];
}

export function markText(mark) {
  return mark ? t(`mark.${mark.mark}`) : "";
}

// What is known of a mark: who said it, when, and in which words.
export function markDetails(mark) {
  return mark ? [markText(mark), mark.who, dateAndTime(mark.at), mark.comment].filter(Boolean).join(" · ") : "";
}

export class Feedback {
  // `parts` returns the verdicts that are meant, `last` the change to take back (null: the person's last one). `done` is called
  // when the station has noted something.
  constructor({ parts, last, done }) {
    this.parts = parts;
    this.last = last;
    this.done = done;
    this.root = element("form", "feedback");
    this.root.setAttribute("aria-label", t("feedback.label"));
    this.root.hidden = !may("mark");
    const label = element("label", "", `${t("feedback.comment")} `);
    this.comment = element("input");
    Object.assign(this.comment, { maxLength: 500, autocomplete: "off", name: "comment" });
    label.append(this.comment);
    this.buttons = MARKS.map((mark) => this.button(t(`mark.${mark}`), () => this.mark(mark)));
    this.back = this.button(t("feedback.undo"), () => this.undo());
    this.said = element("p", "feedback-said");
    this.said.setAttribute("role", "status");
    const row = element("p", "buttons");
    row.append(...this.buttons, this.back);
    this.root.append(label, row, this.said);
    this.root.addEventListener("submit", (event) => event.preventDefault());
    this.refresh();
  }

  button(text, action) {
    const made = element("button", "", text);
    made.type = "button";
    made.addEventListener("click", action);
    return made;
  }

  // The buttons of the marks that make sense for all of the parts.
  refresh() {
    const parts = this.parts();
    MARKS.forEach((mark, at) => {
      this.buttons[at].disabled = !parts.length || !parts.every((part) => sensible(part).includes(mark));
    });
  }

  clear() {
    this.comment.value = "";
    this.said.textContent = "";
  }

  mark(mark) {
    const parts = this.parts();
    const values = { journal_id: parts[0].journal_id, seqs: parts.map((part) => part.seq), mark, comment: this.comment.value.trim() };
    return this.ask("feedback", values, (n) => t("feedback.done", { n, mark: t(`mark.${mark}`) }));
  }

  undo() {
    const last = this.last();
    if (last) return this.ask("undo_feedback", last, (n) => t("feedback.undone", { n }));
  }

  async ask(name, values, words) {
    this.said.textContent = t("feedback.wait");
    const focused = document.activeElement;
    try {
      const answer = await change(name, values);
      this.said.textContent = words(number(answer.seqs.length));
      this.comment.value = "";
      await this.done(answer);
    } catch (error) {
      if (error.code === undefined) throw error;
      this.said.textContent = error.message;
    }
    this.refresh();
    if (focused.disabled) this.comment.focus();  // a disabled button takes no keys
  }
}
