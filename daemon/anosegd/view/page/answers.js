// Asks the server, and puts into words what it says about its own answer.

import { dateAndTime, has, number, t } from "./texts.js";

// Returns the answer; one that failed has the field `error`.
export async function ask(path, query = "") {
  try {
    return await (await fetch(`${path}?${query}`)).json();
  } catch {
    return { error: "no_answer", message: "" };
  }
}

export function errorText(answer) {
  const known = has(`error.${answer.error}`) ? `error.${answer.error}` : "error.other";
  return t(known, { reason: answer.message });
}

// Says which period an answer is about, and what is missing in it.
export function aboutText(answer) {
  const texts = [t("period.shown", { since: dateAndTime(answer.since * 1000), until: dateAndTime(answer.until * 1000) })];
  if (!answer.complete) texts.push(t("period.reading", { n: number(answer.read) }));
  else if (answer.oldest !== null && answer.oldest > answer.since + 1) texts.push(t("period.oldest", { time: dateAndTime(answer.oldest * 1000) }));
  return texts.join(" ");
}
