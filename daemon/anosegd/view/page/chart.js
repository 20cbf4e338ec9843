// Draws charts with uPlot. Each has its lines named below it, and its numbers as a table for those who cannot see it.

import { cell, element } from "./elements.js";
import { t } from "./texts.js";
import uPlot from "./uplot.js";

const DASHES = { solid: [], dashed: [8, 5], dotted: [2, 4] };
const TIME_WIDTH = 120;  // the place that a label with a day and seconds needs
const redraws = new Set();
for (const target of [document.getElementById("theme"), matchMedia("(prefers-color-scheme: dark)")]) {
  target?.addEventListener("change", () => setTimeout(redrawAll));
}

function color(name) {
  const probe = element("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

// Draws lines and bars.
//   x: places; xText(place, step): writes one of those that are `step` apart; xSteps: what `step` may be, if not every number
//   series: [{ label, values, look: solid | dashed | dotted | bars, color }]
//   valueText: writes a value; log: whether the axis of values is logarithmic
//   marks: [{ at, label, look }] upright lines
//   range: the least range of values; rows: cells of the table, with `head`
export function chart({ title, x, xText, xSteps = undefined, series, valueText, log = false, marks = [], range = null, head = [], rows = [], height = 210 }) {
  const root = element("figure", "chart");
  const place = element("div", "plot");
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", title);
  const legend = element("ul", "legend");
  legend.append(...[...series, ...marks].map((one) => {
    const entry = element("li");
    const swatch = element("span", `swatch ${one.look} ${one.color}`);
    swatch.setAttribute("aria-hidden", "true");
    entry.append(swatch, one.label);
    return entry;
  }));
  root.append(element("figcaption", "", title), place, legend);
  if (rows.length) root.append(table(head, rows));
  let plot = null;
  const draw = () => {
    if (!root.isConnected) return;
    plot?.destroy();
    const ink = color("ink");
    const axis = { stroke: ink, grid: { stroke: color("line"), width: 0.5 }, ticks: { stroke: color("line") }, font: "14px system-ui, sans-serif" };
    plot = new uPlot({
      width: place.clientWidth,
      height,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false }, y: log ? { distr: 3, range: (u, low, high) => [0.5, Math.max(10, high ?? 0) * 1.3] } : { range: (u, low, high) => range ? [Math.min(range[0], low ?? range[0]), Math.max(range[1], high ?? range[1])] : [low, high] } },
      axes: [{ ...axis, ...(xSteps ? { incrs: xSteps, space: TIME_WIDTH } : {}), values: (u, found, axis, space, step) => found.map((at) => xText(at, step)) }, { ...axis, size: 76, values: (u, found) => found.map((value) => value === null ? "" : valueText(value)) }],
      series: [{}, ...series.map((one) => ({
        stroke: color(one.color), fill: one.look === "bars" ? color(one.color) : undefined, width: one.look === "bars" ? 0 : 2, dash: DASHES[one.look],
        points: { show: one.look !== "bars", size: 5, fill: color(one.color), stroke: color(one.color), filter: () => alone(one.values) }, spanGaps: false, paths: one.look === "bars" ? uPlot.paths.bars({ size: [0.9, Infinity, 1] }) : undefined,
      }))],
      hooks: { draw: [(u) => marks.forEach((mark) => drawMark(u, mark, color(mark.color)))] },
    }, [x, ...series.map((one) => one.values)], place);
  };
  redraws.add(draw);
  new ResizeObserver(draw).observe(place);
  return root;
}

// Places of values whose neighbours are missing: no line would show them.
function alone(values) {
  return values.flatMap((value, i) => value !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null ? [i] : []);
}

export function redrawAll() {
  for (const redraw of redraws) redraw();
}

function drawMark(plot, mark, stroke) {
  const { ctx, bbox } = plot;
  const x = Math.round(plot.valToPos(mark.at, "x", true));
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = 3 * devicePixelRatio;
  ctx.setLineDash(DASHES[mark.look].map((length) => length * devicePixelRatio));
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

export function table(head, rows, { open = false } = {}) {
  const made = element("table");
  const first = element("tr");
  first.append(...head.map((text) => {
    const cell = element("th", "", text);
    cell.scope = "col";
    return cell;
  }));
  const thead = element("thead");
  thead.append(first);
  const tbody = element("tbody");
  tbody.append(...rows.map((cells) => {
    const row = element("tr");
    row.append(...cells.map((content) => cell(content instanceof Node ? content : String(content))));
    return row;
  }));
  made.append(thead, tbody);
  const around = element(open ? "div" : "details", "table");
  if (!open) around.append(element("summary", "", t("chart.table")));
  around.append(made);
  return around;
}
