// The one way in which a page changes anything: `await change(name, values)`.

import { errorText } from "./answers.js";
import { nameToSend } from "./person.js";
import { checkLogin } from "./settings.js";
import { t } from "./texts.js";

// A change that was not made. `message` is in the language of the page; `code` is "cancelled" if the person gave no name.
// `reason` is what the station says, in English.
export class ChangeError extends Error {
  constructor(code, message, reason = "") {
    super(message);
    this.code = code;
    this.reason = reason;
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
  if (answer.error) throw new ChangeError(answer.error, errorText(answer), answer.message);
  return answer.answer;
}
