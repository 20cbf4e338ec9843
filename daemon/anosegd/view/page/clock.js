// The screen server's clock, as this page knows it. Ages are computed from it, never from the browser's time of day, which may be
// wrong. Every event carries the server's time when it was sent; the least delayed one counts.

let offset = Infinity;  // performance.now() minus the server's clock, ms

export function heard(now) {
  offset = Math.min(offset, performance.now() - now);
}

export function restart(now) {
  offset = performance.now() - now;
}

// Milliseconds since a moment of the server's clock.
export function age(at) {
  return Math.max(0, performance.now() - offset - at);
}
