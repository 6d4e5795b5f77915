// Where the time went, as a bar of stages with its legend.

import { element, make, milliseconds } from "/assets/dom.js";

const STAGES = {
  read: "Receive",
  decode: "Decode",
  preprocess: "Scale and frame",
  queue: "Wait",
  infer: "Network",
  postprocess: "Answer",
  rest: "Browser and transport",
};

const titleOf = (stage) => STAGES[stage] ?? stage;

function stagesOf(timings, totalMs) {
  const stages = Object.entries(timings).filter(([stage]) => stage !== "total");
  const knownMs = stages.reduce((sum, [, ms]) => sum + ms, 0);
  return [...stages, ["rest", Math.max(0, totalMs - knownMs)]];
}

function part([stage, ms]) {
  const made = make("div", "");
  made.style.flexGrow = ms;
  made.style.background = `var(--${stage})`;
  made.title = `${titleOf(stage)}: ${milliseconds(ms)}`;
  return made;
}

function entry([stage, ms]) {
  const made = make("li", "");
  const swatch = make("span", "swatch");
  swatch.style.background = `var(--${stage})`;
  made.append(swatch, titleOf(stage), make("span", "ms", milliseconds(ms)));
  return made;
}

function showOne(suffix, { model, timings, totalMs }, longestMs) {
  const stages = stagesOf(timings, totalMs);
  const parts = stages.map(part);
  const bar = element(`bar${suffix}`);
  bar.replaceChildren(...parts);
  bar.style.width = `${(100 * totalMs) / longestMs}%`;
  bar.setAttribute("aria-label", [model, ...parts.map(({ title }) => title)].join(", "));
  element(`legend${suffix}`).replaceChildren(...stages.map(entry));
  element(`total${suffix}`).textContent =
    `${milliseconds(totalMs)} in all, ${milliseconds(timings.total)} in the service`;
}

// Of one answer or of two, then on one scale. times: { model, timings, totalMs }, or null.
export function showTimes(times) {
  const known = times.filter(Boolean);
  const longestMs = Math.max(...known.map(({ totalMs }) => totalMs));
  element("time").hidden = !known.length;
  ["", "-b"].forEach((suffix, i) => {
    const time = times[i];
    element(`clock${suffix}`).hidden = !time;
    element(`clock-name${suffix}`).textContent = times.length > 1 && time ? time.model : "";
    if (time) showOne(suffix, time, longestMs);
  });
}
