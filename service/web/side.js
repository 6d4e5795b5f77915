// One model's side of the page: its picture with what is drawn over it, its list, its words.

import { element } from "/assets/dom.js";
import { NONE, Overlay } from "/assets/overlay.js";
import { fillRows, press } from "/assets/rows.js";
import { facts } from "/assets/models.js";

// Shorter pictures are shown enlarged.
const SMALL_PX = 160;
const FORMATS = "choose a JPEG, PNG or WebP";

export class Side {
  // suffix: of the ids of its elements. chosen(id or null): called when a row is pressed.
  constructor(suffix, chosen) {
    this.at = (id) => element(`${id}${suffix}`);
    this.chosen = chosen;
    this.overlay = new Overlay(this.at("overlay"), this.at("preview"));
    this.at("preview").addEventListener("load", ({ target }) => {
      const { naturalWidth, naturalHeight, classList } = target;
      classList.toggle("small", Math.max(naturalWidth, naturalHeight) < SMALL_PX);
      this.overlay.draw();
    });
    // What the service reads and this browser does not is answered without being shown.
    this.at("preview").addEventListener("error", () => {
      this.at("preview").hidden = true;
      this.overlay.clear();
    });
  }

  about(model, isOneOfTwo) {
    this.at("picture-title").textContent = isOneOfTwo ? model.name : "Picture";
    this.at("side-title").textContent = `What ${isOneOfTwo ? model.name : "it"} shows`;
    this.at("description").textContent = model.description;
    this.at("facts").textContent = facts(model);
    // The table of both has them.
    this.at("facts").hidden = isOneOfTwo;
  }

  // url: of the picture, or null.
  picture(url, name) {
    const preview = this.at("preview");
    if (url && preview.getAttribute("src") !== url) preview.src = url;
    if (!url) preview.removeAttribute("src");
    preview.alt = url ? `The picture ${name}` : "";
    preview.hidden = !url;
  }

  // What is shown of the same picture stays, dimmed, until the answer is there.
  pending(words, isSame) {
    if (!isSame) this.empty(words);
    this.at("problem").hidden = true;
    this.at("status").textContent = words;
    this.at("found").classList.toggle("busy", isSame);
  }

  empty(words) {
    this.at("problem").hidden = true;
    this.at("found").classList.remove("busy");
    this.at("status").textContent = words;
    this.at("labels").replaceChildren();
    this.overlay.clear();
  }

  // read: { entries, layer, count } of the answer. alone: as for the rows.
  answer({ model, version, image }, read, { alone, isOneOfTwo }) {
    this.empty("");
    const who = `${model}, version ${version}, on ${image.width} × ${image.height} pixels:`;
    this.at("status").textContent = `${who} ${read.count}`.trim();
    if (read.layer) this.overlay.show(read.layer, image);
    const pressed = read.layer || isOneOfTwo ? this.chosen : null;
    fillRows(this.at("labels"), read.entries, { pressed, alone });
  }

  // id: of an entry, null for all, NONE for none of them.
  choose(id) {
    press(this.at("labels"), id);
    this.overlay.choose(id);
  }

  refusal({ code, title, detail }, file) {
    this.empty("");
    const [said, why] = code === "unsupported_media" ? otherwise(file, detail) : [title, detail];
    this.at("problem-title").textContent = said;
    this.at("problem-detail").textContent = why;
    this.at("problem").hidden = false;
  }
}

// What the service says of a request, said of a file to whoever chose it.
function otherwise(file, detail) {
  return file.type && !file.type.startsWith("image/")
    ? [`This is not a picture: ${FORMATS}`, file.name]
    : [`This kind of file is not read: ${FORMATS}`, detail];
}

export { NONE };
