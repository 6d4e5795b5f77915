// The page: send a picture to a model, show what it found and where the time went.
// Everything that comes from the service is inserted as text, never as HTML.

import { element, make, milliseconds, percent } from "/assets/dom.js";
import { Overlay } from "/assets/overlay.js";
import { TASKS } from "/assets/results.js";

const STAGES = {
  read: "Receive",
  decode: "Decode",
  preprocess: "Scale and frame",
  queue: "Wait",
  infer: "Network",
  postprocess: "Answer",
  rest: "Browser and transport",
};

// Shorter pictures are shown enlarged.
const SMALL_PX = 160;
const FORMATS = "choose a JPEG, PNG or WebP";

const RUNTIMES = { openvino: "OpenVINO", onnxruntime: "ONNX Runtime", tensorrt: "TensorRT" };

const METRICS = {
  top1: "right",
  mean_iou: "mean IoU",
  pixel_accuracy: "of pixels right",
  box_ap: "box AP",
  mask_ap: "mask AP",
};

const models = new Map();
const overlay = new Overlay(element("overlay"), element("preview"));
let picture = null;
let shown = null;
let maxBytes = Infinity;
let pending = null;

const chosen = () => models.get(element("model").value);

async function loadModels() {
  const answer = await fetch("/v1/models");
  if (!answer.ok) throw new Error(`The list of models could not be read (${answer.status}).`);
  const { models: listed, limits } = await answer.json();
  for (const model of listed) models.set(model.name, model);
  const groups = Object.entries(TASKS).map(([task, { title }]) =>
    group(title, listed.filter((model) => model.task === task)),
  );
  groups.push(group("Unavailable", listed.filter((model) => !(model.task in TASKS))));
  element("model").replaceChildren(...groups.filter((made) => made.children.length));
  const first = Object.keys(TASKS)
    .map((task) => listed.find((model) => model.task === task && model.default))
    .find(Boolean);
  if (first) element("model").value = first.name;
  element("model").disabled = false;
  maxBytes = limits.max_body_bytes;
  const megabytes = Math.floor(maxBytes / 1e6);
  if (megabytes) element("limits").textContent =
    `JPEG, PNG or WebP, up to ${megabytes} MB. It stays on the machine that runs this service.`;
  showAbout();
}

function group(title, listed) {
  const made = make("optgroup", "");
  made.label = title;
  for (const { name, state } of listed) {
    const option = make("option", "", name);
    option.value = name;
    if (state !== "ready") {
      option.disabled = true;
      option.textContent += " (unavailable)";
    }
    made.append(option);
  }
  return made;
}

function showAbout() {
  const model = chosen();
  element("least").hidden = model?.task !== "detect";
  if (!model || model.state !== "ready") return;
  const { precision, sparsity, classes, accuracy, executor } = model;
  const weights = precision.weights.toUpperCase();
  const activations = precision.activations.toUpperCase();
  const facts = [
    `${classes.toLocaleString("en")} classes`,
    weights === activations ? weights : `${weights} weights, ${activations} activations`,
    sparsity === "dense" ? "dense" : `${sparsity} sparse`,
    ...accuracy.slice(0, 1).map((a) => `${percent(a.quantized)} ${METRICS[a.metric]} on ${a.data}`),
    `run by ${RUNTIMES[executor] ?? executor}`,
  ];
  element("description").textContent = model.description;
  element("facts").textContent = facts.join(" · ");
}

// Only what the service accepted is shown: a browser may choke on a picture of any size.
function showPreview(file) {
  const preview = element("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  fill(true);
}

function fill(filled) {
  element("preview").hidden = !filled;
  element("again").hidden = !filled;
  element("invitation").hidden = filled;
  element("drop").classList.toggle("filled", filled);
}

function showLoaded({ target: { naturalWidth, naturalHeight, classList } }) {
  classList.toggle("small", Math.max(naturalWidth, naturalHeight) < SMALL_PX);
  overlay.draw();
}

async function showResult(task, answer) {
  shown = { task, answer };
  const isCurrent = () => shown?.answer === answer;
  const count = await TASKS[task].show(answer, overlay, isCurrent);
  if (!isCurrent()) return;
  const { width, height } = answer.image;
  const who = `${answer.model}, version ${answer.version}, on ${width} × ${height} pixels:`;
  element("status").textContent = `${who} ${count}`.trim();
}

function showTime(timings, totalMs) {
  const stages = Object.entries(timings).filter(([stage]) => stage !== "total");
  const knownMs = stages.reduce((sum, [, ms]) => sum + ms, 0);
  stages.push(["rest", Math.max(0, totalMs - knownMs)]);

  const parts = stages.map(([stage, ms]) => {
    const part = make("div", "");
    part.style.flexGrow = ms;
    part.style.background = `var(--${stage})`;
    part.title = `${STAGES[stage] ?? stage}: ${milliseconds(ms)}`;
    return part;
  });
  const entries = stages.map(([stage, ms]) => {
    const entry = make("li", "");
    const swatch = make("span", "swatch");
    swatch.style.background = `var(--${stage})`;
    entry.append(swatch, STAGES[stage] ?? stage, make("span", "ms", milliseconds(ms)));
    return entry;
  });
  element("bar").replaceChildren(...parts);
  element("bar").setAttribute("aria-label", parts.map((part) => part.title).join(", "));
  element("legend").replaceChildren(...entries);
  element("total").textContent =
    `${milliseconds(totalMs)} in all, ${milliseconds(timings.total)} in the service`;
  element("time").hidden = false;
}

function showProblem(title, detail) {
  element("problem-title").textContent = title;
  element("problem-detail").textContent = detail;
  element("problem").hidden = false;
  fill(false);
  element("status").textContent = "";
  element("labels").replaceChildren();
  element("time").hidden = true;
  shown = null;
  overlay.clear();
}

// What the service says of a request, said of a file to whoever chose it.
function showRefusal(file, { code, title, detail }) {
  if (code !== "unsupported_media") showProblem(title, detail);
  else if (file.type && !file.type.startsWith("image/"))
    showProblem(`This is not a picture: ${FORMATS}`, file.name);
  else showProblem(`This kind of file is not read: ${FORMATS}`, detail);
}

async function ask() {
  const file = picture;
  const model = chosen();
  pending?.abort();
  if (file.size > maxBytes) {
    const [most, came] = [maxBytes, file.size].map((bytes) => `${(bytes / 1e6).toFixed(1)} MB`);
    showProblem("The picture is too large", `Choose one of up to ${most}; this one has ${came}.`);
    return;
  }
  const request = new AbortController();
  pending = request;
  element("problem").hidden = true;
  element("status").textContent = "Looking at it …";
  document.body.classList.add("busy");
  try {
    const started = performance.now();
    const query = new URLSearchParams({ model: model.name, ...TASKS[model.task].query(model) });
    const answer = await fetch(`/v1/${model.task}?${query}`, {
      method: "POST",
      // The content decides; a type that is none of a picture would be refused by its name.
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
      signal: request.signal,
    });
    const body = await answer.json();
    const totalMs = performance.now() - started;
    if (!answer.ok) {
      showRefusal(file, body);
      return;
    }
    showPreview(file);
    await showResult(model.task, body);
    showTime(body.timings_ms, totalMs);
  } catch (error) {
    if (error.name !== "AbortError")
      showProblem("No answer", "The service could not be reached. Is it still running?");
  } finally {
    if (pending === request) document.body.classList.remove("busy");
  }
}

function take(files) {
  if (!files?.length) return;
  picture = files[0];
  ask();
}

const drop = element("drop");
element("file").addEventListener("change", (event) => {
  take(event.target.files);
  // Choosing the same file again shall send it again.
  event.target.value = "";
});
element("preview").addEventListener("error", () => fill(false));
element("preview").addEventListener("load", showLoaded);
element("model").addEventListener("change", () => {
  showAbout();
  if (picture) ask();
});
element("min-score").addEventListener("input", ({ target }) => {
  element("min-score-shown").textContent = percent(Number(target.value));
  if (shown?.task === "detect") showResult(shown.task, shown.answer);
});
document.addEventListener("paste", (event) => take(event.clipboardData?.files));
// The whole window takes a drop, so that a near miss does not navigate away from the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer?.files);
});

loadModels().catch((error) => showProblem("The service does not answer", error.message));
