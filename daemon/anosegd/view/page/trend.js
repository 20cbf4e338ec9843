// The page "Trend": scores and reject share of each camera over a period.

import { aboutText, ask, errorText } from "./answers.js";
import * as choices from "./choices.js";
import { element, short } from "./elements.js";
import { follow } from "./navigation.js";
import { Period } from "./period.js";
import * as texts from "./texts.js";
import { t } from "./texts.js";
import { trendCharts } from "./trend_charts.js";

const READING_MS = 1500;
const NEW_MS = 60000;

await texts.load();
choices.setUp();
const period = new Period(document.getElementById("filter"));
const said = document.getElementById("said");
const content = document.getElementById("content");

async function load() {
  const answer = await ask("trend.json", period.asked());
  if (answer.error) {
    said.textContent = errorText(answer);
    return;
  }
  period.setCameras(answer.all_cameras);
  said.textContent = aboutText(answer);
  const cameras = Object.entries(answer.cameras);
  content.replaceChildren(...cameras.map(([name, data]) => {
    const section = element("section", "camera-trend");
    section.setAttribute("aria-label", t("camera.label", { name }));
    section.append(element("h2", "", short(name, 40)), ...trendCharts(short(name, 40), data, answer));
    return section;
  }));
  if (!cameras.length) content.replaceChildren(element("p", "", t("trend.none")));
  if (!answer.complete) setTimeout(load, READING_MS);
  else if (!period.query.get("until")) setTimeout(load, NEW_MS);
}

follow((state) => period.setCameras(Object.keys(state.cameras)));
load();
