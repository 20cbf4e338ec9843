// The page of login: takes a token, and goes on to the page that was asked for.

import * as choices from "./choices.js";
import * as texts from "./texts.js";
import { has, t } from "./texts.js";

await texts.load();
choices.setUp();
const form = document.getElementById("login");
const said = document.getElementById("said");

// The page to go to. Only one of this screen: the address may come from anybody.
function next() {
  const found = new URL(new URLSearchParams(location.search).get("to") ?? "", `${location.origin}/`);
  return found.origin === location.origin ? found.href : "./";
}

// Before this, the browser would send the form itself, and not as the server takes it.
form.querySelector("fieldset").disabled = false;
form.elements.token.focus();
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  said.textContent = "";
  let answer;
  try {
    const response = await fetch("login", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token: form.elements.token.value }),
    });
    answer = await response.json();
  } catch {
    answer = { error: "no_screen" };
  }
  if (!answer.error) {
    location.replace(next());
    return;
  }
  said.textContent = has(`error.${answer.error}`) ? t(`error.${answer.error}`) : answer.message;
  form.elements.token.select();
});
