// Whether two models say the same of one picture. Classes are the same where their names are.

import { counted, percent } from "/assets/dom.js";

const LEAST_IOU = 0.5;
// Beyond it, every so-manieth pixel is compared: two maps of a photo would be 100 MB.
const MOST_PX = 4_000_000;
const UNSEEN = 255;

export function iou(a, b) {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (width <= 0 || height <= 0) return 0;
  const area = ({ left, top, right, bottom }) => (right - left) * (bottom - top);
  return (width * height) / (area(a) + area(b) - width * height);
}

function pairsByLabel(a, b) {
  const ofB = new Map(b.map(({ label, id }) => [label, id]));
  return a.filter(({ label }) => ofB.has(label)).map(({ label, id }) => [id, ofB.get(label)]);
}

const short = (label) => label.split(", ")[0];

function ofClasses({ entries: a }, { entries: b }, names) {
  const [first, second] = [a[0], b[0]];
  const pairs = pairsByLabel(a, b);
  const shared = `${pairs.length} of the first ${a.length} classes are in both lists.`;
  const text =
    first.label === second.label
      ? `They agree: both say ${short(first.label)} (${first.value} and ${second.value}).`
      : `They differ: ${names[0]} says ${short(first.label)} (${first.value}), ` +
        `${names[1]} says ${short(second.label)} (${second.value}).`;
  return { same: first.label === second.label, text: `${text} ${shared}`, pairs };
}

// In the order of scores, each box takes the free one of its class that overlaps it most.
export function matches(a, b) {
  const free = new Set(b);
  const found = [];
  for (const one of a) {
    let [best, most] = [null, LEAST_IOU];
    for (const other of free) {
      const overlap = one.label === other.label ? iou(one.box, other.box) : 0;
      if (overlap >= most) [best, most] = [other, overlap];
    }
    if (best) {
      free.delete(best);
      found.push([one.id, best.id, most]);
    }
  }
  return found;
}

function ofThings({ entries: a }, { entries: b }, names) {
  const found = matches(a, b);
  const pairs = found.map(([one, other]) => [one, other]);
  const alone = [a.length - found.length, b.length - found.length];
  const same = !alone[0] && !alone[1];
  if (!a.length && !b.length) return { same, text: "They agree: neither finds a thing.", pairs };
  const mean = found.reduce((sum, [, , overlap]) => sum + overlap, 0) / found.length;
  const close = found.length ? `, on average ${mean.toFixed(2)}` : "";
  const text =
    `${same ? "They agree" : "They differ"}: ${counted(found.length, "box", "boxes")} of the same ` +
    `class match at an IoU of ${LEAST_IOU} or more${close}; ${alone[0]} only in ${names[0]}, ` +
    `${alone[1]} only in ${names[1]}.`;
  return { same, text, pairs };
}

function levels(picture, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// The share of the pixels that both saw on which both name the same class; null where there are none.
function equalShare(a, b, { width, height }) {
  const scale = Math.min(1, Math.sqrt(MOST_PX / (width * height)));
  const size = [width, height].map((length) => Math.max(1, Math.round(scale * length)));
  const [left, right] = [a, b].map(({ picture }) => levels(picture, ...size));
  const [ofA, ofB] = [a, b].map(({ entries }) => {
    return new Map(entries.map(({ index, label }) => [index, label]));
  });
  let [seen, equal] = [0, 0];
  for (let i = 0; i < left.length; i += 4) {
    if (left[i] === UNSEEN || right[i] === UNSEEN) continue;
    seen += 1;
    if (ofA.get(left[i]) === ofB.get(right[i])) equal += 1;
  }
  return { share: seen ? equal / seen : null, sampled: scale < 1 };
}

function ofAreas(a, b, _names, size) {
  const pairs = pairsByLabel(a.entries, b.entries);
  const { share, sampled } = equalShare(a, b, size);
  if (share === null) return { same: false, text: "They saw no pixel in common.", pairs };
  // All but a few pixels are not all.
  const said = percent(share === 1 ? 1 : Math.min(share, 0.999));
  const text = `${sampled ? "About " : ""}${said} of the pixels have the same class in both.`;
  return { same: share === 1, text, pairs };
}

const BY_TASK = { classify: ofClasses, detect: ofThings, segment: ofAreas };

// a, b: what the answers were read to. Gives whether all is the same, a sentence, and the pairs of
// ids that belong together.
export function agreement(task, [a, b], names, size) {
  return BY_TASK[task](a, b, names, size);
}
