// The line about the station: name, state, bundle, counts since its start, journal.

import { element, setText, short } from "./elements.js";
import { duration, has, milliseconds, number, percent, t, timeOfDay } from "./texts.js";

const title = document.getElementById("station");
const stateLine = document.getElementById("station-state");
const line = document.getElementById("facts");
const shift = element("div", "counts");
const start = element("div", "counts");
line?.append(shift, start);
let shownState = "";

export function show(state) {
  document.title = `${state.station} – AnoSeg Edge`;
  setText(title, short(state.station, 40));
  const key = `state.${state.state}`;
  shownState = has(key) ? t(key) : state.state;
  if (!line) return;
  const counts = state.counts;
  const sum = (name) => Object.values(state.cameras).reduce((total, camera) => total + camera[name], 0);
  showPairs(start, t("station.since", { age: duration(state.uptime_s * 1000) }), [
    ...outcomes(counts),
    [t("station.late"), number(counts.late)],
    [t("station.overruns"), number(sum("overruns"))],
    [t("station.repeated"), number(sum("repeated"))],
    [t("station.restarts"), number(sum("restarts"))],
    [t("fact.bundle"), `${state.engine.name}/${state.engine.version} · ${state.engine.runtime}`],
    [t("station.journal"), state.journal ? t(state.journal.working ? "journal.works" : "journal.fails") : t("journal.none")],
  ]);
}

// The counts of the present shift, all cameras together.
export function showShift(data) {
  const all = { passed: 0, failed: 0, unknown: 0 };
  let time = 0;
  let slowest = 0;
  for (const camera of Object.values(data.cameras)) {
    for (const name of Object.keys(all)) all[name] += camera[name];
    time += camera.mean_ms * (camera.passed + camera.failed + camera.unknown);
    slowest = Math.max(slowest, camera.slowest_ms);
  }
  const parts = all.passed + all.failed + all.unknown;
  const times = parts ? [[t("shift.mean"), milliseconds(time / parts)], [t("shift.slowest"), milliseconds(slowest)]] : [];
  showPairs(shift, t("shift.since", { time: timeOfDay(data.since) }), [...outcomes(all), ...times]);
}

function outcomes(counts) {
  const judged = counts.passed + counts.failed;
  return [
    [t("outcome.PASS"), number(counts.passed)],
    [t("outcome.FAIL"), number(counts.failed)],
    [t("outcome.UNKNOWN"), number(counts.unknown)],
    [t("fact.share"), judged ? percent(counts.failed / judged) : "–"],
  ];
}

function showPairs(root, title, pairs) {
  root.replaceChildren(element("b", "title", title), ...pairs.map(([name, value]) => {
    const pair = element("span", "pair");
    pair.append(element("span", "name", name), " ", element("b", "", value));
    return pair;
  }));
}

// Whether the station's last words still hold.
export function setTrust(trust) {
  setText(stateLine, trust ? shownState : t("state.unknown"));
  if (line) line.dataset.trust = trust ? "yes" : "no";
}
