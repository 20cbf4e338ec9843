// The two charts of a camera's trend: scores with the threshold, and the share of rejects.

import { chart } from "./chart.js";
import { axisTime, number, percent, t } from "./texts.js";

const HOUR_S = 3600;
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, ...[1, 2, 3, 6, 12, 24, 48, 120, 240].map((hours) => hours * HOUR_S)];

export function trendCharts(name, data, { since, until, tables = true }) {
  const step = data.at[1] - data.at[0];
  const time = (at, apart) => axisTime(at * 1000, apart, until - since);
  const score = (value) => value === null ? "" : number(value, 3);
  const filled = data.at.map((at, i) => i).filter((i) => data.passed[i] + data.failed[i] + data.unknown[i] > 0);
  const rows = (cells) => tables ? filled.map((i) => [time(data.at[i], step), ...cells(i)]) : [];
  const count = (i) => number(data.passed[i] + data.failed[i] + data.unknown[i]);
  return [
    chart({
      title: t("trend.scores", { name }),
      x: data.at, xText: time, xSteps: STEPS_S, valueText: (value) => number(value, 2), range: [0, 0.1],
      series: [
        { label: t("trend.median"), values: data.median, look: "solid", color: "quiet" },
        { label: t("trend.high"), values: data.p95, look: "dotted", color: "ink" },
        { label: t("fact.threshold"), values: data.threshold, look: "dashed", color: "ink" },
      ],
      head: [t("trend.time"), t("trend.median"), t("trend.high"), t("fact.threshold"), t("trend.parts")],
      rows: rows((i) => [score(data.median[i]), score(data.p95[i]), score(data.threshold[i]), count(i)]),
    }),
    chart({
      title: t("trend.share", { name }),
      x: data.at, xText: time, xSteps: STEPS_S, valueText: percent, range: [0, 0.01], height: 160,
      series: [{ label: t("fact.share"), values: data.share, look: "bars", color: "fail" }],
      head: [t("trend.time"), t("fact.share"), t("outcome.FAIL"), t("outcome.UNKNOWN"), t("trend.parts")],
      rows: rows((i) => [data.share[i] === null ? "" : percent(data.share[i]), number(data.failed[i]), number(data.unknown[i]), count(i)]),
    }),
  ];
}
