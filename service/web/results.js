// What the page asks of a model of each task, and how it reads the answer.

import { counted, percent, pixels } from "/assets/dom.js";
import { decoded, map, things } from "/assets/layers.js";

function readClasses({ predictions }) {
  const entries = predictions.map(({ label, index, score }, id) => {
    return { id, label, index, value: percent(score), fraction: score };
  });
  return { entries, layer: null, count: "" };
}

function readThings({ detections }, { leastScore }) {
  const found = detections.filter(({ score }) => score >= leastScore);
  const entries = found.map(({ label, index, score, box }, id) => {
    const size = `${Math.round(box.right - box.left)} × ${Math.round(box.bottom - box.top)}`;
    const at = `${Math.round(box.left)}, ${Math.round(box.top)}`;
    return { id, label, index, box, value: percent(score), about: `${size} pixels at ${at}` };
  });
  const count = found.length ? counted(found.length, "thing") : "no things";
  return { entries, layer: things(found), count };
}

async function readAreas({ classes, class_map, unseen_px, image }) {
  const picture = await decoded(class_map);
  const entries = classes.map(({ label, index, share, area_px }) => {
    return { id: index, label, index, value: percent(share), about: pixels(area_px) };
  });
  const unseen = unseen_px ? `, ${percent(unseen_px / (image.width * image.height))} not seen` : "";
  const count = `${counted(classes.length, "class", "classes")}${unseen}`;
  return { entries, layer: map(picture), picture, count };
}

// In the order in which the models are listed. An entry is { id, label, index, value } and what
// its task adds; the id is what a layer takes as chosen. `count` says in words how much there is.
export const TASKS = {
  classify: { title: "Classify", query: () => ({}), read: readClasses },
  detect: {
    title: "Detect",
    query: ({ masks }, lowestScore) => ({
      // The page leaves out more by itself, without asking again.
      min_score: lowestScore,
      masks: masks ? "polygons" : "none",
    }),
    read: readThings,
  },
  segment: { title: "Segment", query: () => ({}), read: readAreas },
};
