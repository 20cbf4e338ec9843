// The person in front of the screen: the user, or without login the name that the person gives once and the browser keeps.

import { element, short } from "./elements.js";
import { settings } from "./settings.js";
import { t } from "./texts.js";

const KEPT = "who";

export function setUp() {
  if (!settings.person) return;  // the page of login
  if (settings.person.name) showUser();
  else show();
}

function showUser() {
  const place = element("p", "", `${short(settings.person.name, 24)} `);
  place.title = `${settings.person.name}: ${t(`role.${settings.person.role}`)}`;
  const out = element("button", "", t("login.out"));
  out.type = "button";
  out.addEventListener("click", async () => {
    await fetch("logout", { method: "POST" });
    location.assign("login");
  });
  place.append(out);
  document.querySelector(".choices").append(place);
}

// The name that goes with a change: "" with login, where the server knows it; null if the person gives none.
export async function nameToSend() {
  if (settings.person?.name) return "";
  return localStorage.getItem(KEPT) ?? await askName();
}

function show() {
  const name = localStorage.getItem(KEPT);
  document.getElementById("person")?.remove();
  if (settings.person?.name || !name) return;
  const other = element("button", "", t("person.name", { name: short(name, 24) }));
  other.id = "person";
  other.type = "button";
  other.title = t("person.other");
  other.addEventListener("click", askName);
  document.querySelector(".choices").append(other);
}

// Asks for the name in a dialog.
function askName() {
  const dialog = element("dialog", "ask");
  const title = element("h2", "", t("person.ask"));
  title.id = "ask-title";
  dialog.setAttribute("aria-labelledby", title.id);
  const form = element("form");
  form.method = "dialog";
  const label = element("label", "", t("person.label"));
  const field = element("input");
  Object.assign(field, { name: "who", required: true, maxLength: 200, pattern: ".*\\S.*", autocomplete: "name" });
  field.value = localStorage.getItem(KEPT) ?? "";
  label.append(field);
  const buttons = element("p", "buttons");
  const cancel = element("button", "", t("cancel"));
  cancel.type = "button";
  cancel.addEventListener("click", () => dialog.close());
  const ok = element("button", "", t("person.keep"));
  ok.value = "ok";
  buttons.append(ok, cancel);
  form.append(title, element("p", "", t("person.why")), label, buttons);
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  field.select();
  return new Promise((done) => dialog.addEventListener("close", () => {
    const name = dialog.returnValue === "ok" ? field.value.trim() : "";
    dialog.remove();
    if (name) localStorage.setItem(KEPT, name);
    show();
    done(name || null);
  }));
}
