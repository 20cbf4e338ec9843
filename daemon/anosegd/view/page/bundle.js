// The page "Bundle": what inspects, which versions the store has; swap, rollback and release.

import { ask, errorText } from "./answers.js";
import { change } from "./changes.js";
import { changesTable } from "./changes_table.js";
import { table } from "./chart.js";
import * as choices from "./choices.js";
import { confirm, reasonField } from "./confirm.js";
import { element, facts } from "./elements.js";
import { follow } from "./navigation.js";
import { may } from "./settings.js";
import * as texts from "./texts.js";
import { dateAndTime, number, t } from "./texts.js";

const SHORT = 12;

await texts.load();
choices.setUp();
const said = document.getElementById("said");
const done = document.getElementById("done");
const howToRelease = document.getElementById("how-to-release");
const rollback = document.getElementById("rollback");
rollback.hidden = true;
let state = null;
let shown = "";
let current = null;  // the version that is released
let mayRelease = false;  // whether this screen can write to the store

function showRunning() {
  const engine = state.engine;
  const recipes = [...new Set(Object.values(state.cameras).map((camera) => camera.recipe))].filter(Boolean).join(", ");
  facts(document.getElementById("running"), [
    [t("fact.bundle"), label(engine)],
    [t("bundle.digest"), engine.digest],
    [t("bundle.runtime"), engine.runtime],
    [t("fact.recipe"), recipes],
    [t("bundle.settings"), state.settings],
    ...Object.entries(state.cameras).map(([name, camera]) => [t("bundle.threshold", { name }), camera.threshold ? `${number(camera.threshold.value, 4)} (${t(`origin.${camera.threshold.origin}`)})` : t("bundle.rules")]),
  ]);
}

const inForce = () => state.recipe ?? "";
const label = (engine) => `${engine.name}/${engine.version}`;

async function load() {
  const [store, changes] = [await ask("bundles.json", new URLSearchParams({ recipe: inForce() })), await ask("changes.json")];
  document.getElementById("changes").replaceChildren(changes.error ? errorText(changes) : changesTable(changes.changes.slice(-20).reverse()));
  if (store.error) {
    said.textContent = errorText(store);
    howToRelease.hidden = true;
    document.getElementById("versions").replaceChildren();
    return;
  }
  current = store.current && `${state.engine.name}/${store.current}`;
  mayRelease = store.may_release;
  howToRelease.hidden = mayRelease || !may("change") || store.versions.every((version) => version.current);
  howToRelease.textContent = t("bundle.release.how", { folder: store.folder });
  said.textContent = t("bundle.folder", { folder: store.folder });
  const head = ["bundle.version", "bundle.state", "fact.threshold", "bundle.made", "bundle.digest"].map((key) => t(key));
  const rows = [...store.versions].reverse().map((version) => [number(version.version), stateOf(version), number(version.score_threshold, 4), version.created ? dateAndTime(version.created) : "", version.digest.slice(0, SHORT), buttons(version)]);
  document.getElementById("versions").replaceChildren(table([...head, t("bundle.actions")], rows, { open: true }));
}

function stateOf(version) {
  const words = [version.digest === state?.engine.digest ? t("bundle.inspects") : "", t(version.current ? "bundle.current" : version.released ? "bundle.released" : "bundle.candidate")];
  return words.filter(Boolean).join(", ");
}

function buttons(version) {
  const place = element("span", "buttons");
  if (!may("change")) return place;
  const add = (key, act) => {
    const button = element("button", "", t(key));
    button.type = "button";
    button.setAttribute("aria-label", `${t(key)}: ${number(version.version)}`);
    button.addEventListener("click", act);
    place.append(button);
  };
  if (version.digest !== state?.engine.digest) add("bundle.swap", () => swap(version));
  if (!version.current && mayRelease) add("bundle.release", () => release(version));
  return place;
}

async function make(name, values, texts, yes) {
  const answer = await confirm({ title: yes, texts, yes, fields: [reasonField(false)] });
  if (!answer) return;
  const now = label(state.engine);
  done.textContent = t(name === "release" ? "bundle.wait.release" : "bundle.wait");
  done.focus();  // the buttons of the table are made again
  let result;
  try {
    result = doneText(name, await change(name, { ...values, why: answer.why.trim() }));
  } catch (error) {
    result = refusedText(name, now, error);
  }
  await load();
  done.textContent = result;
}

// What the station says about a bundle that it refuses is in English, and names files: it comes after what matters.
function refusedText(name, now, error) {
  if (!["refused", "not_released"].includes(error.code)) return error.message;
  return t(name === "release" ? "bundle.refused.release" : "bundle.refused", { now, reason: error.reason });
}

function doneText(name, answer) {
  return name === "release" ? t("bundle.done.release", { version: number(answer.version) }) : t("bundle.done", { bundle: label(answer.engine) });
}

const names = (version) => ({ now: label(state.engine), then: `${state.engine.name}/${version.version}` });
const swap = (version) => make("swap", { version: version.version, recipe: inForce() }, [t("bundle.ask.swap", names(version)), version.current ? "" : t("bundle.ask.start")], t("bundle.swap"));
const release = (version) => make("release", { version: version.version, recipe: inForce() }, [t("bundle.ask.release", { ...names(version), current: current ?? "–" }), t("bundle.ask.reload")], t("bundle.release"));

rollback.addEventListener("click", () => make("rollback", {}, [t("bundle.ask.swap", { now: label(state.engine), then: state.rollback_to })], t("bundle.rollback")));

follow((found) => {
  state = found;
  showRunning();
  rollback.hidden = !may("change") || !found.rollback_to;
  const now = `${found.engine.digest} ${inForce()}`;
  if (now === shown) return;
  shown = now;
  load();
});
