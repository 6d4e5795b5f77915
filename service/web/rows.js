// The list beside the picture. Everything from the service is inserted as text, never as HTML.

import { colour, css } from "/assets/colours.js";
import { make } from "/assets/dom.js";

function name(label) {
  const [first, ...also] = label.split(", ");
  const title = make("span", "name", first);
  if (also.length) title.append(" ", make("span", "also", also.join(", ")));
  return title;
}

function track(fraction) {
  const made = make("div", "track");
  made.setAttribute("aria-hidden", "true");
  const fill = make("div", "");
  fill.style.width = `${100 * fraction}%`;
  made.append(fill);
  return made;
}

function swatch(index) {
  const made = make("span", "swatch");
  made.style.background = css(colour(index));
  made.setAttribute("aria-hidden", "true");
  return made;
}

function parts({ label, index, value, about, fraction }, isAlone) {
  const made = [name(label), make("span", "score", value)];
  if (about) made.unshift(swatch(index));
  const notes = [about, isAlone && "only here"].filter(Boolean).join(" · ");
  if (notes) made.push(make("span", "also", notes));
  if (fraction !== undefined) made.push(track(fraction));
  return made;
}

// pressed(id or null): called when a row is chosen or left; without it, rows are no buttons.
// alone: the ids of what the other model does not say, or null where there is no other model.
export function fillRows(list, entries, { pressed = null, alone = null }) {
  list.replaceChildren(
    ...entries.map((entry) => {
      const row = make("li", "");
      const made = parts(entry, alone?.has(entry.id));
      if (pressed) row.append(button(entry, made, pressed));
      else row.append(...made);
      return row;
    }),
  );
}

function button({ id, about }, made, pressed) {
  const choice = make("button", about ? "choice" : "choice plain");
  choice.type = "button";
  choice.dataset.id = id;
  choice.setAttribute("aria-pressed", "false");
  choice.append(...made);
  choice.addEventListener("click", () =>
    pressed(choice.getAttribute("aria-pressed") === "true" ? null : id),
  );
  return choice;
}

export function press(list, id) {
  for (const choice of list.querySelectorAll(".choice")) {
    const isPressed = choice.dataset.id === String(id);
    choice.setAttribute("aria-pressed", String(isPressed));
    if (isPressed) choice.scrollIntoView({ block: "nearest" });
  }
}
