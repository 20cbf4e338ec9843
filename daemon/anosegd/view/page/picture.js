// Shows a part: image, anomaly map over it, boxes of the defects. All three fill the same frame, scaled in the same way.

import { element } from "./elements.js";
import { t } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";

export class Picture {
  constructor() {
    this.root = element("div", "frame");
    this.image = element("img", "layer photo");
    this.image.alt = "";
    this.map = element("canvas", "layer map");
    this.boxes = document.createElementNS(SVG, "svg");
    this.boxes.setAttribute("class", "layer boxes");
    this.root.setAttribute("role", "img");
    this.root.append(this.image, this.map, this.boxes);
    this.shown = null;   // the verdict whose picture is shown
    this.loading = false;
    this.clear();
  }

  clear() {
    this.shown = null;
    this.image.hidden = this.map.hidden = true;
    this.boxes.replaceChildren();
    this.root.setAttribute("aria-label", t("picture.none"));
  }

  // Load and show the pictures of a verdict; return whether that worked. What was shown before stays until all is loaded.
  async show(verdict, pictures) {
    if (this.loading) return false;
    this.loading = true;
    try {
      const folder = `pictures/${encodeURIComponent(verdict.journal_id)}/${verdict.seq}`;
      const [photo, map] = await Promise.all([
        pictures.kinds.includes("image") ? loaded(`${folder}/image`) : null,
        pictures.kinds.includes("map") ? bitmap(`${folder}/map`) : null,
      ]);
      this.image.hidden = photo === null;
      if (photo) this.image.src = photo;
      this.map.hidden = map === null;
      if (map) drawMap(this.map, map);
      this.root.classList.toggle("map-only", photo === null);
      this.drawBoxes(verdict.boxes ?? [], pictures.region);
      this.root.setAttribute("aria-label", t("picture.of", { part: verdict.part_id, n: String(verdict.boxes?.length ?? 0) }));
      this.shown = verdict;
      return true;
    } catch {
      return false;
    } finally {
      this.loading = false;
    }
  }

  drawBoxes(boxes, region) {
    this.boxes.setAttribute("viewBox", `${region.x} ${region.y} ${region.width} ${region.height}`);
    const letter = Math.max(region.width, region.height) / 22;
    this.boxes.replaceChildren(...boxes.flatMap((box, index) => {
      const rects = ["under", "over"].map((name) => {
        const rect = document.createElementNS(SVG, "rect");
        rect.setAttribute("class", name);
        for (const side of ["x", "y", "width", "height"]) rect.setAttribute(side, box[side]);
        return rect;
      });
      const label = document.createElementNS(SVG, "text");
      label.setAttribute("x", box.x);
      label.setAttribute("y", box.y - region.y > 1.2 * letter ? box.y - letter * 0.3 : box.y + box.height + letter);
      label.setAttribute("font-size", letter);
      label.textContent = String(index + 1);
      return [...rects, label];
    }));
  }
}

async function bitmap(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(address);
  return createImageBitmap(await answer.blob());
}

async function loaded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return address;
}

// Grey 0 (normal) … 255 (anomalous) becomes transparent … magenta … yellow.
function drawMap(canvas, map) {
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(map, 0, 0);
  map.close();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const data = pixels.data;
  for (let i = 0; i < data.length; i += 4) {
    const value = data[i];
    data[i] = 190 + (value >> 2);
    data[i + 1] = value > 127 ? (value - 128) * 1.8 : 0;
    data[i + 2] = 200 - value * 0.75;
    data[i + 3] = Math.min(255, value * 1.4);
  }
  context.putImageData(pixels, 0, 0);
}
