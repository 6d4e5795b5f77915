// The strip of thumbnails: one option a picture, moved through with the arrow keys.

import { DONE, FAILED, stateOf } from "/assets/album.js";
import { element, make } from "/assets/dom.js";

const THUMBNAIL_PX = 64;
const MOVES = {
  ArrowLeft: (at) => at - 1,
  ArrowUp: (at) => at - 1,
  ArrowRight: (at) => at + 1,
  ArrowDown: (at) => at + 1,
  Home: () => 0,
  End: (_at, count) => count - 1,
};

export class Strip {
  // selected(picture) and removed(picture): what the user chose.
  constructor(album, { models, selected, removed }) {
    Object.assign(this, { album, models, selected, removed });
    this.list = element("strip");
    this.options = new Map();
    this.list.addEventListener("click", ({ target }) => this.pick(target.closest("[role=option]")));
    this.list.addEventListener("keydown", (event) => this.move(event));
  }

  // After pictures came or went.
  build() {
    const old = this.options;
    this.options = new Map(
      this.album.pictures.map((picture) => [picture, old.get(picture) ?? option()]),
    );
    this.list.replaceChildren(...this.options.values());
    this.update();
  }

  update() {
    for (const picture of this.options.keys()) this.updateOne(picture);
  }

  updateOne(picture) {
    const made = this.options.get(picture);
    if (!made) return;
    const state = stateOf(picture, this.models());
    const isSelected = picture === this.album.selected;
    made.dataset.state = state;
    made.title = picture.file.name;
    made.setAttribute("aria-label", `${picture.file.name}: ${state}`);
    made.setAttribute("aria-selected", String(isSelected));
    made.tabIndex = isSelected ? 0 : -1;
    made.querySelector(".mark").textContent = { [FAILED]: "!", [DONE]: "✓" }[state] ?? "…";
    if (picture.accepted) draw(picture, made.querySelector("canvas"));
  }

  show() {
    this.options.get(this.album.selected)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  focus() {
    this.options.get(this.album.selected)?.focus();
  }

  pick(made) {
    const found = [...this.options].find(([, other]) => other === made);
    if (found) this.selected(found[0]);
  }

  move(event) {
    const { pictures, selected } = this.album;
    if (event.key === "Delete") {
      this.removed(selected);
    } else if (event.key in MOVES) {
      const at = MOVES[event.key](pictures.indexOf(selected), pictures.length);
      const next = pictures[at];
      if (next) this.selected(next);
    } else return;
    event.preventDefault();
    this.focus();
  }
}

function option() {
  const made = make("li", "thumbnail");
  made.setAttribute("role", "option");
  const canvas = make("canvas", "");
  canvas.hidden = true;
  canvas.setAttribute("aria-hidden", "true");
  const mark = make("span", "mark");
  mark.setAttribute("aria-hidden", "true");
  made.append(canvas, mark);
  return made;
}

// Once, and small: two hundred photos of 12 megapixels would not fit into memory.
async function draw({ file }, canvas) {
  if (!canvas.hidden) return;
  canvas.hidden = false;
  const side = THUMBNAIL_PX * Math.ceil(window.devicePixelRatio);
  canvas.width = side;
  canvas.height = side;
  const bitmap = await createImageBitmap(file).catch(() => null);
  // What the service reads and this browser does not has no thumbnail.
  if (!bitmap) return;
  const scale = side / Math.min(bitmap.width, bitmap.height);
  const [width, height] = [scale * bitmap.width, scale * bitmap.height];
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, (side - width) / 2, (side - height) / 2, width, height);
  bitmap.close();
}
