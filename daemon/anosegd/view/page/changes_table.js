// What somebody changed at the station, as a table.

import { table } from "./chart.js";
import { element, short } from "./elements.js";
import { dateAndTime, has, number, t, timeOfDay } from "./texts.js";

const SHORT = 12;

export function changesTable(changes) {
  if (!changes.length) return element("p", "", t("changes.none"));
  const rows = changes.map((one) => [dateAndTime(one.at), kindText(one), valueText(one.kind, one.old), valueText(one.kind, one.new), short(one.who, 60), short(one.why, 200)]);
  return table(["trend.time", "changes.what", "changes.old", "changes.new", "changes.who", "changes.why"].map((key) => t(key)), rows, { open: true });
}

function kindText(one) {
  const key = `change.${one.kind}`;
  return [has(key) ? t(key) : one.kind, one.camera ? short(one.camera, 40) : ""].filter(Boolean).join(": ");
}

function valueText(kind, value) {
  const last = value.split(" ").at(-1);
  if (kind === "threshold") {
    const key = `origin.${last}`;
    return `${number(Number(value.split(" ")[0]), 4)} (${has(key) ? t(key) : last})`;
  }
  if (kind === "pause" || kind === "resume") return last.endsWith("Z") ? t("changes.until", { time: timeOfDay(last) }) : t("changes.inspecting");
  return /^[0-9a-f]{64}$/.test(last) ? `${value.slice(0, -65)} ${last.slice(0, SHORT)}` : short(value, 80);
}
