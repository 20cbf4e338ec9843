// One camera's panel: the newest verdict, its age, its picture. It never shows an old verdict as if it were new.

import * as clock from "./clock.js";
import { element, facts, setData, setText, short } from "./elements.js";
import { keyOf, reasonText, scoreText, SIGNS } from "./outcome.js";
import { Picture } from "./picture.js";
import { duration, milliseconds, number, percent, t } from "./texts.js";

const OTHER_PICTURE_MS = 400;  // image and map of a part come one after the other
const PICTURE_BEHIND_MS = 1500;  // a picture this much older than the verdict beside it is marked

// How old a verdict is; empty if that is not known.
function ageText(verdict) {
  return verdict.at === null ? "" : t("age", { age: duration(clock.age(verdict.at)) });
}

export class Panel {
  constructor(name, staleAfter) {
    this.name = name;
    this.staleAfter = staleAfter;
    this.verdict = null;
    this.health = null;
    this.shift = null;  // its counts in the present shift, once they are known
    this.hasImages = false;
    this.waiting = null;
    this.announced = null;  // the newest pictures there are
    this.root = element("section", "camera");
    this.root.setAttribute("aria-label", t("camera.label", { name }));
    const layout = element("div", "panel");
    const words = element("div", "words");
    const verdict = element("div", "verdict");
    this.title = element("h2", "", short(name, 40));
    this.sign = element("div", "sign");
    this.sign.setAttribute("aria-hidden", "true");
    this.word = element("div", "word");
    this.reason = element("div", "reason");
    this.age = element("div", "age");
    this.facts = element("dl", "facts");
    this.note = element("p", "note");
    const lines = element("div", "lines");
    lines.append(this.reason, this.age);
    verdict.append(this.sign, this.word, lines);
    words.append(this.title, verdict, this.facts, this.note);
    const figure = element("figure");
    this.picture = new Picture();
    this.stamp = element("div", "stamp");
    this.caption = element("figcaption");
    const view = element("div", "view");
    view.append(this.picture.root, this.stamp);
    figure.append(view, this.caption);
    layout.append(words, figure);
    this.root.append(layout);
    this.factsShown = "";
  }

  setVerdict(verdict, pictures) {
    this.verdict = verdict;
    if (pictures) this.announce(verdict, pictures);
  }

  // Pictures of a verdict have arrived.
  announce(verdict, pictures) {
    if (this.announced && this.announced.verdict.journal_id === verdict.journal_id && this.announced.verdict.seq > verdict.seq) return;
    this.announced = { verdict, pictures };
    this.hasImages ||= pictures.kinds.includes("image");
    const complete = pictures.kinds.includes("map") && (pictures.kinds.includes("image") || !this.hasImages);
    clearTimeout(this.waiting);
    if (complete) this.loadPicture();
    else this.waiting = setTimeout(() => this.loadPicture(), OTHER_PICTURE_MS);
  }

  async loadPicture() {
    const wanted = this.announced;
    if (!wanted || this.picture.loading) return;
    await this.picture.show(wanted.verdict, wanted.pictures);
    if (this.announced !== wanted) setTimeout(() => this.loadPicture(), 100);
  }

  // What the panel says: pass, fail, unknown; or why it cannot say anything: none, old, lost, paused, stopped, silent.
  look(trust) {
    if (!trust) return "silent";
    const state = this.health?.state;
    if (state === "lost") return "lost";
    if (this.health?.pause) return "paused";
    if (!this.verdict) return "none";
    if (state === "stopped" || state === "finished") return "stopped";
    return clock.age(this.verdict.at) > this.staleAfter ? "old" : this.verdict.outcome.toLowerCase();
  }

  render(trust) {
    const look = this.look(trust);
    const verdict = this.verdict;
    setData(this.root, "look", look);
    const fresh = look === "pass" || look === "fail" || look === "unknown";
    setText(this.sign, fresh ? SIGNS[verdict.outcome] : { lost: "×", silent: "–", old: "…", none: "…", stopped: "■", paused: "‖" }[look]);
    setText(this.word, fresh ? t(`outcome.${verdict.outcome}`) : t(`look.${look}`));
    const last = verdict ? t("last.part", { outcome: t(`outcome.${verdict.outcome}`) }) : "";
    const why = { lost: () => short(this.health.last_error ?? "", 160), paused: () => t("paused.left", { left: duration(this.health.pause.left_s * 1000) }) };
    setText(this.reason, fresh ? reasonText(verdict) : look in why ? why[look]() : last);
    setText(this.age, verdict && look !== "paused" ? ageText(verdict) : "");
    this.renderFacts(fresh && verdict);
    setText(this.note, trust && this.health?.note ? short(this.health.note, 200) : "");
    this.renderPicture(fresh);
    return look;
  }

  renderFacts(verdict) {
    const counts = this.shift ?? this.health?.counts;
    const judged = counts ? counts.passed + counts.failed : 0;
    const pairs = [
      [t("fact.part"), verdict ? short(verdict.part_id) : ""],
      [t("fact.score"), verdict ? scoreText(verdict) : ""],
      [t("fact.time"), verdict ? milliseconds(verdict.total_ms) : ""],
      [t(this.shift ? "fact.share.shift" : "fact.share"), judged ? `${percent(counts.failed / judged)} (${number(counts.failed)} / ${number(judged)})` : ""],
    ];
    const key = JSON.stringify(pairs);
    if (key !== this.factsShown) facts(this.facts, pairs);
    this.factsShown = key;
  }

  renderPicture(fresh) {
    const shown = this.picture.shown;
    const behind = shown && this.verdict && keyOf(shown) !== keyOf(this.verdict) && this.verdict.at - shown.at > PICTURE_BEHIND_MS;
    setData(this.root, "picture", !shown ? "none" : fresh && !behind ? "current" : "old");
    setText(this.stamp, !shown ? t("picture.none") : fresh && !behind ? "" : t("picture.old"));
    const outcome = shown ? `${SIGNS[shown.outcome]} ${t(`outcome.${shown.outcome}`)}` : "";
    setText(this.caption, shown ? [outcome, short(shown.part_id, 40), ageText(shown)].filter(Boolean).join(" · ") : "");
  }
}
