// A dialog that asks before something is changed. It says what is now and what would be.

import { element } from "./elements.js";
import { t } from "./texts.js";

// Returns the values of the dialog's fields, or null if the person does not want the change.
//   title, texts: what is asked; yes: the button's text; fields: labels with form elements that have names
export function confirm({ title, texts = [], yes, fields = [] }) {
  const dialog = element("dialog", "ask");
  const head = element("h2", "", title);
  head.id = "confirm-title";
  dialog.setAttribute("aria-labelledby", head.id);
  const form = element("form");
  form.method = "dialog";
  const cancel = element("button", "", t("cancel"));
  cancel.type = "button";
  cancel.addEventListener("click", () => dialog.close());
  const ok = element("button", "", yes);
  ok.value = "ok";
  const buttons = element("p", "buttons");
  buttons.append(ok, cancel);
  form.append(head, ...texts.filter(Boolean).map((text) => element("p", "", text)), ...fields, buttons);
  dialog.append(form);
  document.body.append(dialog);
  const opener = document.activeElement;
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => {
    const values = dialog.returnValue === "ok" ? Object.fromEntries(new FormData(form)) : null;
    dialog.remove();
    opener?.focus();
    done(values);
  }));
}

export function labelled(text, field) {
  const label = element("label", "", text);
  label.append(field);
  return label;
}

export function reasonField(required) {
  const field = element("input");
  Object.assign(field, { name: "why", maxLength: 200, required, autocomplete: "off" });
  if (required) field.pattern = ".*\\S.*";
  return labelled(t(required ? "confirm.why" : "confirm.why.optional"), field);
}
