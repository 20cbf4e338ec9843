// Makes elements. Text from the line (part ids, file names, camera names) goes on the page as text only, never as HTML.

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// Changes the text only if it differs, so that a screen reader is not disturbed.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function setData(target, name, value) {
  if (target.dataset[name] !== value) target.dataset[name] = value;
}

// A very long name from the line must not push everything else off the screen.
export function short(text, longest = 60) {
  return text.length > longest ? `${text.slice(0, longest - 20)}…${text.slice(-18)}` : text;
}

const LONG_WORD = /\S{20}/;

// A cell of a table. One that holds a very long word may break it.
export function cell(...content) {
  const made = element("td");
  made.append(...content);
  if (LONG_WORD.test(made.textContent)) made.className = "long";
  return made;
}

// Pairs of name and value as a description list.
export function facts(list, pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  list.replaceChildren(...rows.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]));
}
