// The screen server's clock, as this page knows it. Ages are computed from it, never from the browser's time of day, which may be
// wrong. Every event carries the server's time when it was sent; the least delayed one counts.

// The two clocks run at slightly different rates. If the browser's is the faster one, an offset that could only fall would make fresh
// events look seconds old after a day. So the offset may rise slowly: faster than two clocks drift apart, which is about 0.0001 ms
// per ms, but so slowly that events which are late for a minute still count as late.
const MAX_RISE = 0.001;  // ms per ms

let offset = Infinity;  // performance.now() minus the server's clock, ms
let heardAt = 0;  // performance.now() at the last event

export function heard(now) {
  const at = performance.now();
  offset = Math.min(at - now, offset + (at - heardAt) * MAX_RISE);
  heardAt = at;
}

export function restart(now) {
  heardAt = performance.now();
  offset = heardAt - now;
}

// Milliseconds since a moment of the server's clock; Infinity if the moment is not known (null).
export function age(at) {
  return at === null ? Infinity : Math.max(0, performance.now() - offset - at);
}
