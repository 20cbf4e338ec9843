// How an outcome looks and reads. A sign and a word go with every colour.

import { has, number, t } from "./texts.js";

export const SIGNS = { PASS: "✓", FAIL: "✕", UNKNOWN: "?" };

export function reasonText(verdict) {
  if (verdict.outcome !== "UNKNOWN") return verdict.outcome === "FAIL" ? t("defects", { n: number(verdict.defects) }) : "";
  const key = `reason.${verdict.reason}`;
  return has(key) ? t(key) : verdict.reason ?? "";
}

export function scoreText(verdict) {
  if (verdict.score === null) return "";
  if (verdict.threshold === null) return number(verdict.score, 3);
  const sign = verdict.score >= verdict.threshold ? "≥" : "<";
  return `${number(verdict.score, 3)} ${sign} ${number(verdict.threshold, 3)}`;
}

export function keyOf(item) {
  return `${item.journal_id}/${item.seq}`;
}
