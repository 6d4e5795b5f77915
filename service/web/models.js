// The models that can be chosen, what their cards say, and the choice in the page's address.

import { make, percent } from "/assets/dom.js";
import { TASKS } from "/assets/results.js";

const RUNTIMES = { openvino: "OpenVINO", onnxruntime: "ONNX Runtime", tensorrt: "TensorRT" };

const METRICS = {
  top1: "right",
  mean_iou: "mean IoU",
  pixel_accuracy: "of pixels right",
  box_ap: "box AP",
  mask_ap: "mask AP",
};

export const isReady = ({ state }) => state === "ready";

function option({ name, state }) {
  const made = make("option", "", name);
  made.value = name;
  if (state !== "ready") {
    made.disabled = true;
    made.textContent += " (unavailable)";
  }
  return made;
}

function group(title, listed) {
  const made = make("optgroup", "");
  made.label = title;
  made.append(...listed.map(option));
  return made;
}

// By task; those that cannot be asked last.
export function fillModels(select, listed) {
  const groups = Object.entries(TASKS).map(([task, { title }]) =>
    group(title, listed.filter((model) => model.task === task)),
  );
  groups.push(group("Unavailable", listed.filter((model) => !(model.task in TASKS))));
  select.replaceChildren(...groups.filter((made) => made.children.length));
  select.disabled = !listed.some(isReady);
}

// The others of the same task.
export function fillOthers(select, listed, model) {
  const others = listed.filter(
    (other) => isReady(other) && other.task === model?.task && other.name !== model.name,
  );
  const none = make("option", "", others.length ? "nothing" : "no other of its task");
  none.value = "";
  const was = select.value;
  select.replaceChildren(none, ...others.map(option));
  select.value = others.some(({ name }) => name === was) ? was : "";
  select.disabled = !others.length;
}

export function firstOf(listed) {
  return Object.keys(TASKS)
    .map((task) => listed.find((model) => model.task === task && model.default))
    .find(Boolean);
}

function precisionOf({ precision }) {
  const weights = precision.weights.toUpperCase();
  const activations = precision.activations.toUpperCase();
  return weights === activations ? weights : `${weights} weights, ${activations} activations`;
}

const sparsityOf = ({ sparsity }) => (sparsity === "dense" ? "dense" : `${sparsity} sparse`);
const runtimeOf = ({ executor }) => RUNTIMES[executor] ?? executor;
const accuracyOf = ({ quantized, metric, data }) =>
  `${percent(quantized)} ${METRICS[metric] ?? metric} on ${data}`;

const besideDense = (entry) => `${accuracyOf(entry)} (the dense network ${percent(entry.teacher)})`;

export function facts(model) {
  return [
    `${model.classes.toLocaleString("en")} classes`,
    precisionOf(model),
    sparsityOf(model),
    ...model.accuracy.slice(0, 1).map(accuracyOf),
    `run by ${runtimeOf(model)}`,
  ].join(" · ");
}

// The rows of a table in which two cards stand side by side.
export const CARD_ROWS = [
  ["Numbers", precisionOf],
  ["Sparsity", sparsityOf],
  ["File", ({ file_bytes }) => (file_bytes ? `${(file_bytes / 1e6).toFixed(1)} MB` : "not known here")],
  ["Accuracy", ({ accuracy }) => accuracy.map(besideDense).join("; ") || "not measured"],
  ["Input", ({ input }) => `${input.width} × ${input.height} pixels`],
  ["Classes", ({ classes }) => classes.toLocaleString("en")],
  ["Version", ({ version }) => String(version)],
];

// What the address asks for: { model, compare }, either null.
export function fromAddress() {
  const query = new URLSearchParams(location.search);
  return { model: query.get("model"), compare: query.get("compare") };
}

export function toAddress(model, compare) {
  const query = new URLSearchParams({ model, ...(compare && { compare }) });
  history.replaceState(null, "", `?${query}`);
}
