// What the person in front of this screen has chosen: language, light or dark, how strongly the map covers the picture.

import * as navigation from "./navigation.js";
import * as person from "./person.js";
import * as texts from "./texts.js";

export function setUp() {
  person.setUp();
  navigation.setUp();
  const language = document.getElementById("language");
  language.value = texts.language;
  language.addEventListener("change", () => texts.choose(language.value));
  const theme = document.getElementById("theme");
  theme.replaceChildren(...["auto", "light", "dark"].map((name) => new Option(texts.t(`theme.${name}`), name)));
  theme.value = new URLSearchParams(location.search).get("theme") ?? localStorage.getItem("theme") ?? "auto";
  const showTheme = () => {
    document.documentElement.dataset.theme = theme.value;
  };
  theme.addEventListener("change", () => {
    localStorage.setItem("theme", theme.value);
    showTheme();
  });
  showTheme();
  const opacity = document.getElementById("opacity");
  if (!opacity) return;
  opacity.value = localStorage.getItem("opacity") ?? "60";
  const showOpacity = () => {
    document.documentElement.style.setProperty("--map-opacity", String(opacity.value / 100));
    localStorage.setItem("opacity", opacity.value);
  };
  opacity.addEventListener("input", showOpacity);
  showOpacity();
}
