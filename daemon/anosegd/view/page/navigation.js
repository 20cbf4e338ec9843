// The links to the pages, and what all pages but "Live" have in common: name and state of the station, and the banners.

import { Alarms } from "./alarms.js";
import { element } from "./elements.js";
import { Stream } from "./stream.js";
import * as station from "./station.js";
import { t } from "./texts.js";

const PAGES = [
  ["./", "nav.live"], ["parts", "nav.parts"], ["what-if", "nav.whatif"], ["trend", "nav.trend"], ["report", "nav.report"],
  ["bundle", "nav.bundle"],
];

export function setUp() {
  const here = location.pathname.split("/").at(-1) || "./";
  document.querySelector("nav")?.replaceChildren(...PAGES.map(([address, key]) => {
    const link = element("a", "", t(key));
    link.href = address;
    if (address === here) link.setAttribute("aria-current", "page");
    return link;
  }));
}

// Follows the station. `take` gets its state with every heartbeat.
export function follow(take) {
  const alarms = new Alarms(document.getElementById("alarms"));
  let heartbeat = null;
  const handlers = {
    hello: (data) => handlers.state(data.heartbeat),
    state(data) {
      heartbeat = data;
      if (!data.state) return;
      station.show(data.state);
      take(data.state);
    },
    check: () => station.setTrust(alarms.render(stream, heartbeat)),
  };
  const stream = new Stream(handlers);
}
