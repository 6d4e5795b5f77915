// The page: send a picture to /v1/classify, show its labels and where the time went.
// Everything that comes from the service is inserted as text, never as HTML.

const STAGES = {
  read: "Receive",
  decode: "Decode",
  preprocess: "Scale and cut",
  queue: "Wait",
  infer: "Network",
  postprocess: "Labels",
  rest: "Browser and transport",
};

// Shorter pictures are shown enlarged.
const SMALL_PX = 160;
const FORMATS = "choose a JPEG, PNG or WebP";

const RUNTIMES = { openvino: "OpenVINO", onnxruntime: "ONNX Runtime" };

const element = (id) => document.getElementById(id);
const models = new Map();
let picture = null;
let maxBytes = Infinity;
let pending = null;

function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;
const milliseconds = (ms) => `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;

async function loadModels() {
  const answer = await fetch("/v1/models");
  if (!answer.ok) throw new Error(`The list of models could not be read (${answer.status}).`);
  const { models: listed, limits } = await answer.json();
  const options = listed.map((model) => {
    models.set(model.name, model);
    const option = make("option", "", model.name);
    option.value = model.name;
    option.selected = model.default;
    if (model.state !== "ready") {
      option.disabled = true;
      option.textContent += " (unavailable)";
    }
    return option;
  });
  element("model").replaceChildren(...options);
  element("model").disabled = false;
  maxBytes = limits.max_body_bytes;
  const megabytes = Math.floor(maxBytes / 1e6);
  if (megabytes) element("limits").textContent =
    `JPEG, PNG or WebP, up to ${megabytes} MB. It stays on the machine that runs this service.`;
  showAbout();
}

function showAbout() {
  const model = models.get(element("model").value);
  if (!model || model.state !== "ready") return;
  const { precision, sparsity, classes, accuracy, executor } = model;
  const weights = precision.weights.toUpperCase();
  const activations = precision.activations.toUpperCase();
  const facts = [
    `${classes.toLocaleString("en")} classes`,
    weights === activations ? weights : `${weights} weights, ${activations} activations`,
    sparsity === "dense" ? "dense" : `${sparsity} sparse`,
    ...accuracy.slice(0, 1).map((a) => `${percent(a.quantized)} right on ${a.data}`),
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

function enlargeSmall({ target: { naturalWidth, naturalHeight, classList } }) {
  classList.toggle("small", Math.max(naturalWidth, naturalHeight) < SMALL_PX);
}

function showLabels(answer) {
  const rows = answer.predictions.map(({ label, score }) => {
    const [name, ...also] = label.split(", ");
    const row = make("li", "");
    const title = make("span", "name", name);
    if (also.length) title.append(" ", make("span", "also", also.join(", ")));
    const track = make("div", "track");
    track.setAttribute("aria-hidden", "true");
    const fill = make("div", "");
    fill.style.width = percent(score).replace(" ", "");
    track.append(fill);
    row.append(title, make("span", "score", percent(score)), track);
    return row;
  });
  element("labels").replaceChildren(...rows);
  const { width, height } = answer.image;
  element("status").textContent =
    `${answer.model}, version ${answer.version}, on ${width} × ${height} pixels:`;
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
}

// What the service says of a request, said of a file to whoever chose it.
function showRefusal(file, { code, title, detail }) {
  if (code !== "unsupported_media") showProblem(title, detail);
  else if (file.type && !file.type.startsWith("image/"))
    showProblem(`This is not a picture: ${FORMATS}`, file.name);
  else showProblem(`This kind of file is not read: ${FORMATS}`, detail);
}

async function classify() {
  const file = picture;
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
    const answer = await fetch(`/v1/classify?model=${encodeURIComponent(element("model").value)}`, {
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
    showLabels(body);
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
  classify();
}

const drop = element("drop");
element("file").addEventListener("change", (event) => {
  take(event.target.files);
  // Choosing the same file again shall send it again.
  event.target.value = "";
});
element("preview").addEventListener("error", () => fill(false));
element("preview").addEventListener("load", enlargeSmall);
element("model").addEventListener("change", () => {
  showAbout();
  if (picture) classify();
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
