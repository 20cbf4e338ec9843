// The texts of the page in the chosen language, and numbers and times as that language writes them.

const LANGUAGES = ["en", "de"];
const DAY_S = 86400;
let texts = {};
export let language = "en";

function chosen() {
  const asked = new URLSearchParams(location.search).get("lang") ?? localStorage.getItem("language") ?? navigator.language.slice(0, 2);
  return LANGUAGES.includes(asked) ? asked : "en";
}

export async function load() {
  language = chosen();
  texts = await (await fetch(`${language}.json`)).json();
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
}

export function choose(code) {
  localStorage.setItem("language", code);
  const address = new URL(location.href);
  address.searchParams.delete("lang");
  location.replace(address);
}

// The text of a key, with {name} replaced. An unknown key shows itself: better than nothing on a screen.
export function t(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export function has(key) {
  return key in texts;
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function percent(share) {
  return new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(share);
}

function unit(value, name, digits = 0) {
  return new Intl.NumberFormat(language, { style: "unit", unit: name, unitDisplay: "short", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

export function milliseconds(value) {
  return unit(value, "millisecond");
}

// A duration as "4 s", "3 min", "2 h", "5 days".
export function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return unit(seconds, "second");
  if (seconds < 3600) return unit(Math.floor(seconds / 60), "minute");
  if (seconds < 48 * 3600) return unit(Math.floor(seconds / 3600), "hour");
  return unit(Math.floor(seconds / 86400), "day");
}

export function timeOfDay(iso) {
  return new Intl.DateTimeFormat(language, { timeStyle: "medium" }).format(new Date(iso));
}

export function dateAndTime(iso) {
  return new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "medium" }).format(new Date(iso));
}

// One of several times that are `stepS` seconds apart, in a period of `lengthS`: so precise that two of them differ.
export function axisTime(ms, stepS, lengthS) {
  const form = { hour: "2-digit", minute: "2-digit" };
  if (lengthS > 6 * DAY_S) Object.assign(form, { day: "numeric", month: "numeric" });
  else if (lengthS > 1.5 * DAY_S) form.weekday = "short";
  if (stepS < 60) form.second = "2-digit";
  if (stepS < 1) form.fractionalSecondDigits = 1;
  return new Intl.DateTimeFormat(language, form).format(new Date(ms));
}
