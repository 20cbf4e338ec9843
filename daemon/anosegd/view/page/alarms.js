// The banners above everything: connection lost, daemon silent, station in error, camera lost, messages of the station. Each has its own sign and words.

import * as clock from "./clock.js";
import { element, setText, short } from "./elements.js";
import { duration, t, timeOfDay } from "./texts.js";

export const HEARTBEAT_MS = 3000;  // the station sends a heartbeat every second

// One banner for each pause; one that holds for all cameras names none.
function pauses(cameras) {
  const groups = new Map();
  for (const [name, camera] of Object.entries(cameras)) {
    if (!camera.pause) continue;
    const key = `${camera.pause.since} ${camera.pause.until}`;
    groups.set(key, { names: [...(groups.get(key)?.names ?? []), name], pause: camera.pause });
  }
  const all = Object.keys(cameras).length;
  return [...groups].map(([key, { names, pause }]) => {
    const title = names.length === all ? t("alarm.paused") : t("alarm.paused.some", { name: names.map((name) => short(name, 40)).join(", ") });
    return [`paused ${key}`, title, pause];
  });
}

export function pauseText(pause) {
  const values = { left: duration(pause.left_s * 1000), until: timeOfDay(pause.until), who: short(pause.who, 60) };
  return t("alarm.paused.do", values) + (pause.why ? ` ${t("alarm.paused.why", { why: short(pause.why, 200) })}` : "");
}

export class Alarms {
  constructor(root) {
    this.root = root;
    this.banners = new Map();
  }

  // Show what is wrong; return whether what the station said last can be trusted.
  render(stream, heartbeat) {
    const found = [];
    const silence = heartbeat ? clock.age(heartbeat.at) : 0;
    const connected = stream.alive;
    const silent = connected && heartbeat !== null && silence > HEARTBEAT_MS;
    if (!connected && (stream.connected || stream.silence > 1500)) {
      found.push(["connection", "connection", t("alarm.connection"), t("alarm.connection.do", { age: duration(stream.silence) })]);
    } else if (silent) {
      const known = heartbeat.state !== null;
      found.push(["silent", "silent", t("alarm.silent"), t(known ? "alarm.silent.do" : "alarm.never.do", { age: duration(silence) })]);
    } else if (heartbeat?.state) {
      const state = heartbeat.state;
      if (state.state === "Error") found.push(["error", "error", t("alarm.error"), short(state.detail ?? "", 300)]);
      if (state.journal && !state.journal.working) found.push(["journal", "error", t("alarm.journal"), short(state.journal.last_error ?? "", 300)]);
      const kept = state.evidence;
      if (kept && !kept.working) found.push(["evidence", "notice", t("alarm.evidence"), short(kept.last_error ?? "", 300)]);
      // The detail repeats an error of the evidence in other words.
      const repeated = kept && !kept.working && kept.last_error && state.detail?.includes(kept.last_error);
      for (const [key, title, pause] of pauses(state.cameras)) found.push([key, "paused", title, pauseText(pause)]);
      const said = Object.values(state.cameras).some((camera) => camera.pause) && state.detail?.startsWith("paused");
      if (state.state !== "Error" && state.detail && !repeated && !said) found.push(["notice", "notice", t("alarm.notice"), short(state.detail, 300)]);
      const lost = Object.entries(state.cameras).filter(([, camera]) => camera.state === "lost");
      const names = lost.map(([name]) => short(name, 40)).join(", ");
      const errors = lost.map(([, camera]) => camera.last_error ?? "").filter(Boolean);
      if (lost.length) found.push(["cameras", "lost", t(lost.length > 1 ? "alarm.cameras" : "alarm.camera", { name: names }), short(errors[0] ?? "", 300)]);
    }
    this.show(found);
    return connected && !silent && heartbeat !== null && heartbeat.state !== null;
  }

  show(found) {
    const wanted = new Set(found.map(([key]) => key));
    for (const [key, banner] of this.banners) {
      if (wanted.has(key)) continue;
      banner.root.remove();
      this.banners.delete(key);
    }
    for (const [key, kind, title, text] of found) {
      let banner = this.banners.get(key);
      if (!banner) {
        const root = element("div", `alarm ${kind}`);
        const sign = element("span", "alarm-sign", { connection: "≠", silent: "?", error: "!", lost: "×", notice: "i", paused: "‖" }[kind]);
        sign.setAttribute("aria-hidden", "true");
        banner = { root, title: element("strong"), text: element("span", "alarm-text") };
        banner.text.setAttribute("aria-live", "off");  // it counts seconds
        const words = element("div");
        words.append(banner.title, banner.text);
        root.append(sign, words);
        this.banners.set(key, banner);
        this.root.append(root);
      }
      setText(banner.title, title);
      setText(banner.text, text);
    }
  }
}
