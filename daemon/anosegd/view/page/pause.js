// The button with which somebody pauses the inspection, and ends a pause.

import { change } from "./changes.js";
import { confirm, labelled, reasonField } from "./confirm.js";
import { element, setText, short } from "./elements.js";
import { may } from "./settings.js";
import { duration, t } from "./texts.js";

const MINUTES = [5, 15, 30, 60, 120, 240, 480];
let cameras = {};
let button = null;

export function setUp(place, said) {
  if (!may("change")) return;
  button = element("button");
  button.id = "pause";
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await (isPaused() ? resume() : pause());
      setText(said, "");
    } catch (error) {
      setText(said, error.message);
    }
  });
  place.prepend(button);
  show({});
}

export function show(found) {
  cameras = found;
  if (button) setText(button, t(isPaused() ? "pause.end" : "pause.begin"));
}

function isPaused() {
  return Object.values(cameras).some((camera) => camera.pause);
}

function select(name, options) {
  const made = element("select");
  made.name = name;
  made.append(...options.map(([value, text]) => new Option(text, value)));
  return made;
}

async function pause() {
  const names = Object.keys(cameras);
  const minutes = select("minutes", MINUTES.map((one) => [one, duration(one * 60000)]));
  minutes.value = "15";
  const which = select("camera", [["", t("pause.all")], ...names.map((name) => [name, short(name, 40)])]);
  const fields = [labelled(t("pause.minutes"), minutes), labelled(t("fact.camera"), which), reasonField(false)];
  const values = await confirm({ title: t("pause.title"), texts: [t("pause.effect")], yes: t("pause.yes"), fields });
  if (values) await change("pause", { minutes: Number(values.minutes), camera: values.camera || null, why: values.why.trim() });
}

async function resume() {
  const paused = Object.keys(cameras).filter((name) => cameras[name].pause);
  const texts = [t("pause.end.effect", { name: paused.map((name) => short(name, 40)).join(", ") })];
  if (await confirm({ title: t("pause.end.title"), texts, yes: t("pause.end.yes") })) await change("resume", { camera: null, why: "" });
}
