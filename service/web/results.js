// What the page asks of a model of each task, and how it shows the answer beside the picture.
// Everything that comes from the service is inserted as text, never as HTML.

import { element, make, percent, pixels } from "/assets/dom.js";
import { colour, css, map, things } from "/assets/overlay.js";

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
  fill.style.width = percent(fraction).replace(" ", "");
  made.append(fill);
  return made;
}

// A row that shows, when pressed, only its own place in the picture.
function choice({ index, label }, value, about, pressed) {
  const row = make("li", "");
  const button = make("button", "choice");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const swatch = make("span", "swatch");
  swatch.style.background = css(colour(index));
  swatch.setAttribute("aria-hidden", "true");
  button.append(swatch, name(label), make("span", "score", value), make("span", "also", about));
  button.addEventListener("click", () => pressed(button));
  row.append(button);
  return row;
}

function choices(entries, overlay) {
  const list = element("labels");
  const press = (id) => (button) => {
    const on = button.getAttribute("aria-pressed") === "false";
    for (const other of list.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(on));
    overlay.choose(on ? id : null);
  };
  list.replaceChildren(
    ...entries.map(({ of, value, about, id }) => choice(of, value, about, press(id))),
  );
}

function showClasses({ predictions }, overlay) {
  overlay.clear();
  const rows = predictions.map(({ label, score }) => {
    const row = make("li", "");
    row.append(name(label), make("span", "score", percent(score)), track(score));
    return row;
  });
  element("labels").replaceChildren(...rows);
  return "";
}

function showThings({ detections, image }, overlay) {
  const least = Number(element("min-score").value);
  const found = detections.filter(({ score }) => score >= least);
  overlay.show(things(found), image);
  choices(
    found.map((of, id) => {
      const { left, top, right, bottom } = of.box;
      const size = `${Math.round(right - left)} × ${Math.round(bottom - top)}`;
      const at = `${Math.round(left)}, ${Math.round(top)}`;
      return { of, id, value: percent(of.score), about: `${size} pixels at ${at}` };
    }),
    overlay,
  );
  return `${found.length || "no"} ${found.length === 1 ? "thing" : "things"}`;
}

async function showAreas({ classes, class_map, unseen_px, image }, overlay, isCurrent) {
  const layer = await map(class_map);
  // Another picture may have been answered meanwhile.
  if (!isCurrent()) return "";
  overlay.show(layer, image);
  choices(
    classes.map((of) => {
      return { of, id: of.index, value: percent(of.share), about: pixels(of.area_px) };
    }),
    overlay,
  );
  const unseen = unseen_px ? `, ${percent(unseen_px / (image.width * image.height))} not seen` : "";
  return `${classes.length} ${classes.length === 1 ? "class" : "classes"}${unseen}`;
}

// In the order in which the models are listed. `show` says in words how much there is.
export const TASKS = {
  classify: { title: "Classify", query: () => ({}), show: showClasses },
  detect: {
    title: "Detect",
    query: ({ masks }) => ({
      // The page leaves out more by itself, without asking again.
      min_score: element("min-score").min,
      masks: masks ? "polygons" : "none",
    }),
    show: showThings,
  },
  segment: { title: "Segment", query: () => ({}), show: showAreas },
};
