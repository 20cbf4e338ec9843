// The one way in which a page changes anything: `await change(name, values)`.

import { nameToSend } from "./person.js";
import { checkLogin } from "./settings.js";
import { has, t } from "./texts.js";

// A change that was not made. `message` is in the language of the page; `code` is "cancelled" if the person gave no name.
export class ChangeError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// Returns the answer of the change, or throws a ChangeError.
export async function change(name, values) {
  const who = await nameToSend();
  if (who === null) throw new ChangeError("cancelled", t("error.no_name"));
  let answer;
  try {
    const response = await fetch(`changes/${encodeURIComponent(name)}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ who, values }),
    });
    answer = await response.json();
  } catch {
    throw new ChangeError("not_known", t("error.not_known"));
  }
  if (answer.error === "no_login") checkLogin();
  if (answer.error) throw new ChangeError(answer.error, has(`error.${answer.error}`) ? t(`error.${answer.error}`) : answer.message);
  return answer.answer;
}
