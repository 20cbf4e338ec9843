// The line about the station: name, state, bundle, counts since its start, journal.

import { element, setText, short } from "./elements.js";
import { duration, has, number, percent, t } from "./texts.js";

const title = document.getElementById("station");
const stateLine = document.getElementById("station-state");
const line = document.getElementById("facts");
let shownState = "";

export function show(state) {
  document.title = `${state.station} – AnoSeg Edge`;
  setText(title, short(state.station, 40));
  const key = `state.${state.state}`;
  shownState = has(key) ? t(key) : state.state;
  if (!line) return;
  const counts = state.counts;
  const judged = counts.passed + counts.failed;
  const sum = (name) => Object.values(state.cameras).reduce((total, camera) => total + camera[name], 0);
  const pairs = [
    [t("station.since"), duration(state.uptime_s * 1000)],
    [t("outcome.PASS"), number(counts.passed)],
    [t("outcome.FAIL"), number(counts.failed)],
    [t("outcome.UNKNOWN"), number(counts.unknown)],
    [t("fact.share"), judged ? percent(counts.failed / judged) : "–"],
    [t("station.late"), number(counts.late)],
    [t("station.overruns"), number(sum("overruns"))],
    [t("station.restarts"), number(sum("restarts"))],
    [t("fact.bundle"), `${state.engine.name}/${state.engine.version} · ${state.engine.runtime}`],
    [t("station.journal"), state.journal ? t(state.journal.working ? "journal.works" : "journal.fails") : t("journal.none")],
  ];
  line.replaceChildren(...pairs.map(([name, value]) => {
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
