// What is said of two sides together: whether they agree, and both cards beside each other.

import { agreement } from "/assets/agreement.js";
import { element, make, milliseconds } from "/assets/dom.js";
import { CARD_ROWS } from "/assets/models.js";

// models: two, or one, for which there is no such panel. answers: { body, read }, or null each.
// Gives what belongs together and what stands alone on each side; null while there is no answer.
export function showComparison(models, answers, leastScore) {
  for (const id of ["comparison", "both"]) element(id).hidden = models.length < 2;
  if (models.length < 2) return null;
  const known = answers.every(Boolean);
  showCards(models, answers);
  element("agreement").dataset.same = "";
  if (!known) {
    element("agreement").textContent = "Give a picture, and whether they agree stands here.";
    return null;
  }
  const names = models.map(({ name }) => name);
  const reads = answers.map(({ read }) => read);
  const found = agreement(models[0].task, reads, names, answers[0].body.image);
  const limit = models[0].task === "detect" ? ` Scores from ${leastScore} on count.` : "";
  element("agreement").textContent = found.text + limit;
  element("agreement").dataset.same = String(found.same);
  return { ...found, alone: [0, 1].map((side) => unpaired(reads[side].entries, found.pairs, side)) };
}

function unpaired(entries, pairs, side) {
  const paired = new Set(pairs.map((pair) => pair[side]));
  return new Set(entries.map(({ id }) => id).filter((id) => !paired.has(id)));
}

// Gives what belongs to an entry of one side on the other one, or undefined.
export const partner = (pairs, side, id) => pairs.find((pair) => pair[side] === id)?.[1 - side];

function row(title, values) {
  const made = make("tr", "");
  const head = make("th", "", title);
  head.scope = "row";
  made.append(head, ...values.map((value) => make("td", "", value)));
  // Equal values are what the eye may skip.
  made.classList.toggle("equal", values[0] === values[1]);
  return made;
}

function showCards(models, answers) {
  const head = make("tr", "");
  const titles = models.map(({ name }) => {
    const title = make("th", "", name);
    title.scope = "col";
    return title;
  });
  head.append(make("td", ""), ...titles);
  const rows = CARD_ROWS.map(([title, of]) => row(title, models.map(of)));
  const times = answers.map((answer) => answer?.body.timings_ms);
  for (const [title, stage] of [["Network", "infer"], ["Service", "total"]])
    if (times.every(Boolean))
      rows.push(row(title, times.map((time) => milliseconds(time[stage]))));
  element("cards").replaceChildren(head, ...rows);
}
