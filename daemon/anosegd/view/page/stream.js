// The one stream of events of a page. It connects again without end, and says when it was last alive.

import * as clock from "./clock.js";
import { checkLogin } from "./settings.js";

const SILENT_MS = 3000;  // the server sends something every second
const RETRY_MS = 1000;
const HIDDEN_MS = 5000;  // a tab that nobody sees gives its connection back after this: browsers open only six to one address

export class Stream {
  constructor(handlers) {
    this.handlers = handlers;
    this.lastId = null;
    this.heardAt = performance.now();
    this.connected = false;
    this.source = null;
    this.openedAt = 0;
    this.hiddenAt = document.hidden ? performance.now() : null;
    document.addEventListener("visibilitychange", () => {
      this.hiddenAt = document.hidden ? performance.now() : null;
      if (!document.hidden && this.source.readyState === EventSource.CLOSED) this.open();
    });
    setInterval(() => this.check(), 250);
    this.open();
  }

  // Whether what the page shows can be current.
  get alive() {
    return this.connected && performance.now() - this.heardAt < SILENT_MS;
  }

  // Milliseconds since the last sign of life.
  get silence() {
    return performance.now() - this.heardAt;
  }

  open() {
    this.source?.close();
    this.openedAt = performance.now();
    // A new EventSource sends no Last-Event-ID; the address carries it instead.
    const source = new EventSource(this.lastId === null ? "events" : `events?after=${encodeURIComponent(this.lastId)}`);
    this.source = source;
    const on = (kind, handle) => source.addEventListener(kind, (event) => {
      if (event.lastEventId) this.lastId = event.lastEventId;
      this.heardAt = performance.now();
      handle(JSON.parse(event.data));
    });
    on("hello", (data) => {
      clock.restart(data.now);
      this.connected = true;
      this.handlers.hello(data);
    });
    on("tick", (data) => clock.heard(data.now));
    on("state", (data) => {
      clock.heard(data.at);
      this.handlers.state(data);
    });
    for (const kind of ["verdict", "picture", "rejects", "shift", "missed"]) on(kind, (data) => this.handlers[kind]?.(data));
    source.onerror = () => {
      this.connected = false;
      if (source.readyState === EventSource.CLOSED) checkLogin();
    };
  }

  check() {
    if (this.hiddenAt !== null && performance.now() - this.hiddenAt > HIDDEN_MS) {
      this.source.close();
      this.connected = false;
      return;
    }
    const waiting = performance.now() - this.openedAt;
    const dead = this.source.readyState === EventSource.CLOSED ? waiting > RETRY_MS : this.silence > 5000 && waiting > 5000;
    if (dead) this.open();
    this.handlers.check();
  }
}
