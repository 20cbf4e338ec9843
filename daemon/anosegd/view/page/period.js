// The form of a period and a camera. What it asks for is in the address, so that a view can be sent to somebody.

import { t } from "./texts.js";

const NAMES = ["since", "until", "camera"];

// A moment as a field wants it: local time without an offset.
export function asField(moment) {
  if (Number.isNaN(moment.getTime())) return "";
  return new Date(moment.getTime() - moment.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

export class Period {
  constructor(form, { allCameras = true } = {}) {
    this.form = form;
    this.query = new URLSearchParams(location.search);
    this.fields = NAMES.filter((name) => form.elements[name]);
    for (const name of ["since", "until"]) {
      if (this.query.get(name)) form.elements[name].value = asField(new Date(this.query.get(name)));
    }
    if (form.elements.camera) {
      if (allCameras) form.elements.camera.append(new Option(t("filter.all"), ""));
      this.setCameras(this.query.get("camera") ? [this.query.get("camera")] : []);
      form.elements.camera.value = this.query.get("camera") ?? "";
    }
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go();
    });
    for (const button of form.querySelectorAll("[data-hours]")) button.addEventListener("click", () => this.last(button.dataset.hours));
  }

  // The last hours; with "" the present shift.
  last(hours) {
    this.set(hours ? new Date(Date.now() - Number(hours) * 3600000) : null, null);
  }

  set(since, until) {
    this.form.elements.since.value = since ? asField(since) : "";
    this.form.elements.until.value = until ? asField(until) : "";
    this.go();
  }

  go() {
    const asked = this.asked();
    location.assign(asked.size ? `?${asked}` : location.pathname);
  }

  // What the form asks for, as the server wants it. Language and light stay in the address.
  asked() {
    const found = new URLSearchParams([...this.query].filter(([name]) => !NAMES.includes(name)));
    for (const name of this.fields) {
      const value = this.form.elements[name].value;
      if (value) found.set(name, name === "camera" ? value : new Date(value).toISOString());
    }
    return found;
  }

  setCameras(names) {
    const select = this.form.elements.camera;
    if (!select) return;
    const known = new Set([...select.options].map((option) => option.value));
    for (const name of names) if (!known.has(name)) select.append(new Option(name, name));
  }
}
