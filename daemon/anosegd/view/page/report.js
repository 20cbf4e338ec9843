// The page "Report": one shift on paper. Counts, reasons, trend, last rejects with pictures, thresholds, changes.

import { aboutText, ask, errorText } from "./answers.js";
import { changesTable } from "./changes_table.js";
import { redrawAll, table } from "./chart.js";
import * as choices from "./choices.js";
import { fetchPart } from "./detail.js";
import { element, facts, short } from "./elements.js";
import { follow } from "./navigation.js";
import { reasonText, scoreText, SIGNS } from "./outcome.js";
import { Period } from "./period.js";
import * as texts from "./texts.js";
import { dateAndTime, has, number, percent, t } from "./texts.js";
import { trendCharts } from "./trend_charts.js";

const REJECTS = 12;
const READING_MS = 1500;

await texts.load();
choices.setUp();
const period = new Period(document.getElementById("filter"));
const said = document.getElementById("said");
const content = document.getElementById("content");
let state = null;
let loaded = false;

async function load() {
  const answer = await ask("report.json", period.asked());
  if (answer.error) {
    said.textContent = errorText(answer);
    return;
  }
  if (!answer.complete) {
    said.textContent = aboutText(answer);
    setTimeout(load, READING_MS);
    return;
  }
  const asked = new URLSearchParams({ since: iso(answer.since), until: iso(answer.until) });
  document.getElementById("csv").href = `parts.csv?${asked}`;
  asked.set("outcome", "REJECT");
  const [found, noted] = [await ask("journal", asked), await ask("changes.json")];
  const changes = (noted.changes ?? []).filter((one) => between(Date.parse(one.at) / 1000, answer));
  content.replaceChildren(
    ...head(answer), ...counts(answer), ...reasons(answer),
    element("h2", "", t("report.thresholds")), thresholds(),
    element("h2", "", t("report.changes")), noted.error ? element("p", "", errorText(noted)) : changesTable(changes),
    ...Object.entries(answer.trend).flatMap(([name, data]) => trendCharts(short(name, 40), data, { ...answer, tables: false })),
    element("h2", "", t("report.rejects")), await rejects((found.parts ?? []).filter((one) => one.reason !== "paused").slice(0, REJECTS)),
  );
  said.textContent = aboutText(answer);
  document.body.dataset.report = "ready";
}

const iso = (seconds) => new Date(seconds * 1000).toISOString();
const between = (at, answer) => at >= answer.since && at < answer.until;

function head(answer) {
  const list = element("dl", "facts");
  facts(list, [
    [t("report.period"), t("period.shown", { since: dateAndTime(answer.since * 1000), until: dateAndTime(answer.until * 1000) })],
    [t("report.made"), dateAndTime(Date.now())],
    [t("report.bundles"), answer.bundles.map((one) => `${one.split(" ")[0]} (${one.split(" ")[1].slice(0, 12)})`).join(", ")],
    [t("bundle.settings"), state.settings?.slice(0, 12)],
  ]);
  return [element("h2", "", t("report.title", { station: short(state.station, 60) })), list];
}

function counts(answer) {
  const cells = (name, one) => {
    const judged = one.passed + one.failed;
    return [name, number(judged + one.unknown), number(one.passed), number(one.failed), number(one.unknown), judged ? percent(one.failed / judged) : "–"];
  };
  const all = Object.values(answer.cameras).reduce((sum, one) => ({ passed: sum.passed + one.passed, failed: sum.failed + one.failed, unknown: sum.unknown + one.unknown }), { passed: 0, failed: 0, unknown: 0 });
  const rows = Object.entries(answer.cameras).map(([name, one]) => cells(short(name, 40), one));
  if (rows.length !== 1) rows.push(cells(t("report.all"), all));
  return [element("h2", "", t("report.counts")), table([t("fact.camera"), t("trend.parts"), t("outcome.PASS"), t("outcome.FAIL"), t("outcome.UNKNOWN"), t("fact.share")], rows, { open: true })];
}

function reasons(answer) {
  const rows = Object.entries(answer.cameras).flatMap(([name, one]) => Object.entries(one.reasons).sort((a, b) => b[1] - a[1]).map(([reason, count]) => [short(name, 40), has(`reason.${reason}`) ? t(`reason.${reason}`) : reason, number(count)]));
  return rows.length ? [element("h2", "", t("report.reasons")), table([t("fact.camera"), t("report.reason"), t("trend.parts")], rows, { open: true })] : [];
}

function thresholds() {
  const rows = Object.entries(state.cameras).map(([name, camera]) => {
    const one = camera.threshold;
    if (!one) return [short(name, 40), t("bundle.rules"), "", "", ""];
    const details = one.at ? [dateAndTime(one.at), short(one.why ?? "", 120)].filter(Boolean).join(": ") : "";
    return [short(name, 40), number(one.value, 4), t(`setter.${one.origin}`, { who: short(one.who ?? "", 60) }), number(one.calibrated, 4), details];
  });
  return table([t("fact.camera"), t("fact.threshold"), t("report.origin"), t("report.calibrated"), t("report.details")], rows, { open: true });
}

async function rejects(parts) {
  if (!parts.length) return element("p", "", t("report.norejects"));
  const list = element("ul", "report-rejects");
  for (const part of parts) {
    const item = element("li");
    const found = await fetchPart(part);
    if (found?.pictures) {
      const picture = element("img");
      picture.alt = t("picture.of", { part: short(part.part_id, 40), n: number(part.defects) });
      picture.src = `pictures/${encodeURIComponent(part.journal_id)}/${part.seq}/${found.pictures.kinds.includes("image") ? "image" : "map"}`;
      await picture.decode().catch(() => {});
      item.append(picture);
    }
    item.append(element("b", "", `${SIGNS[part.outcome]} ${t(`outcome.${part.outcome}`)} `), [reasonText(part), scoreText(part), short(part.part_id, 40), short(part.camera, 40), dateAndTime(part.part_time)].filter(Boolean).join(" · "));
    list.append(item);
  }
  return list;
}

// Paper is white, also for somebody who works in the dark.
let theme = "";
addEventListener("beforeprint", () => {
  theme = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  redrawAll();
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = theme;
  redrawAll();
});
document.getElementById("print").addEventListener("click", () => print());
// The shift before the one that is shown ends where it begins.
document.querySelector("[data-shift=before]").addEventListener("click", async () => {
  const shown = await ask("report.json", period.asked());
  if (shown.error) return;
  const before = await ask("report.json", new URLSearchParams({ until: iso(shown.since) }));
  if (!before.error) period.set(new Date(before.since * 1000), new Date(before.until * 1000));
});

follow((found) => {
  state = found;
  if (loaded) return;
  loaded = true;
  load();
});
