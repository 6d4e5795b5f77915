// Wires the page: what is chosen, what is given, and what is shown of it.

import { Album, ASKING, DONE, FAILED } from "/assets/album.js";
import { call, Refusal } from "/assets/api.js";
import { Asking } from "/assets/asking.js";
import { partner, showComparison } from "/assets/compare.js";
import { counted, element, percent } from "/assets/dom.js";
import { askForKey, reconsider } from "/assets/key.js";
import * as cards from "/assets/models.js";
import { TASKS } from "/assets/results.js";
import { NONE, Side } from "/assets/side.js";
import { Strip } from "/assets/strip.js";
import { showTimes } from "/assets/times.js";
import { onFiles } from "/assets/giving.js";

let hint = "What is found will appear here.";
let models = [];
let shown = { url: null, picture: null, pairs: null };
let turn = 0;

const album = new Album();
const sides = [new Side("", (id) => choose(0, id)), new Side("-b", (id) => choose(1, id))];
const strip = new Strip(album, { models: chosen, selected: select, removed: remove });
const asking = new Asking(album, {
  models: chosen,
  query: (model) => TASKS[model.task].query(model, element("min-score").min),
  changed: (picture) => {
    strip.updateOne(picture);
    showProgress();
    if (picture === album.selected) render();
  },
  waiting: showWaiting,
});

// One model, or two to compare.
function chosen() {
  const names = [element("model").value, element("compare").value].filter(Boolean);
  return names.map((name) => models.find((model) => model.name === name)).filter(Boolean);
}

const leastScore = () => Number(element("min-score").value);

async function start() {
  const { body } = await call("/v1/models");
  models = body.models;
  asking.maxBytes = body.limits.max_body_bytes;
  const megabytes = Math.floor(asking.maxBytes / 1e6);
  if (megabytes)
    element("limits").textContent = `JPEG, PNG or WebP, up to ${megabytes} MB each. They stay on the machine that runs this service.`;
  const asked = cards.fromAddress();
  cards.fillModels(element("model"), models);
  const named = models.find((model) => model.name === asked.model && cards.isReady(model));
  const first = named ?? cards.firstOf(models);
  if (first) element("model").value = first.name;
  showModel();
  element("compare").value = asked.compare ?? "";
  if (element("compare").selectedIndex < 0) element("compare").value = "";
  const absent = [asked.model, asked.compare].filter(
    (name) => name && !chosen().some((model) => model.name === name),
  );
  if (absent.length) hint = `The address names ${absent.join(" and ")}, which cannot be asked here.`;
  showModels();
}

function showModel() {
  const [model] = chosen();
  cards.fillOthers(element("compare"), models, model);
  element("least").hidden = model?.task !== "detect";
}

// After another model was chosen: all pictures are asked about anew where they were not yet.
function showModels() {
  const asked = chosen();
  asked.forEach((model, i) => sides[i].about(model, asked.length > 1));
  document.body.classList.toggle("comparing", asked.length > 1);
  strip.update();
  showProgress();
  asking.go();
  render();
}

// Only what the service accepted is shown: a browser may choke on a picture of any size.
function showPicture(picture) {
  const isShown = Boolean(picture?.accepted);
  if (shown.picture !== (isShown ? picture : null)) {
    if (shown.url) URL.revokeObjectURL(shown.url);
    shown.picture = isShown ? picture : null;
    shown.url = isShown ? URL.createObjectURL(picture.file) : null;
  }
  const used = chosen().length;
  sides.forEach((side, i) => side.picture(i < used || !i ? shown.url : null, picture?.file.name));
  const file = element("file");
  const hadFocus = document.activeElement === file;
  element("add").hidden = !album.pictures.length;
  element("clear").hidden = !album.pictures.length;
  element("remove").hidden = album.pictures.length < 2;
  element("drop").hidden = isShown;
  element("limits").hidden = isShown;
  element("shown").hidden = !isShown;
  if (isShown && hadFocus) element("add").focus();
}

async function render() {
  const current = (turn += 1);
  const [picture, asked] = [album.selected, chosen()];
  const isSame = Boolean(picture) && shown.picture === picture;
  showPicture(picture);
  const results = asked.map(({ name }) => picture?.results.get(name));
  const answers = await Promise.all(results.map(readOf));
  // Another picture or model may have been chosen meanwhile.
  if (current !== turn) return;
  const found = showComparison(asked, answers, percent(leastScore()));
  shown.pairs = found?.pairs ?? null;
  results.forEach((result, i) => showSide(i, result, answers[i], { found, isSame, asked }));
  const times = answers.map((answer) => {
    return answer && { model: answer.body.model, timings: answer.body.timings_ms, totalMs: answer.totalMs };
  });
  showTimes(times);
}

async function readOf(result) {
  if (result?.state !== DONE) return null;
  const { body, totalMs, task } = result;
  return { body, totalMs, read: await TASKS[task].read(body, { leastScore: leastScore() }) };
}

function showSide(i, result, answer, { found, isSame, asked }) {
  const side = sides[i];
  if (answer) {
    const alone = found?.alone[i] ?? null;
    side.answer(answer.body, answer.read, { alone, isOneOfTwo: asked.length > 1 });
  } else if (result?.state === FAILED) side.refusal(result.refusal, album.selected.file);
  else if (result?.state === ASKING) side.pending("Looking at it …", isSame);
  else if (album.selected) side.pending("Waiting for its turn …", isSame);
  else side.empty(hint);
}

function choose(i, id) {
  sides[i].choose(id);
  const other = id === null || !shown.pairs ? id : partner(shown.pairs, i, id) ?? NONE;
  if (chosen().length > 1) sides[1 - i].choose(other);
}

function showProgress() {
  const asked = chosen();
  const { length } = album.pictures;
  const [done, failed] = [DONE, FAILED].map((state) => album.count(asked, state));
  element("several").hidden = length < 2;
  element("progress").textContent =
    `${done} of ${counted(length, "picture")} answered${failed ? `, ${failed} failed` : ""}`;
  // Said once: every single picture would be too much to listen to.
  element("through").textContent =
    length > 1 && done + failed === length
      ? `All ${length} pictures are through: ${done} answered, ${failed} failed.`
      : "";
  const again = album.failures(asked);
  element("again").hidden = !again;
  element("again").textContent = length > 1 ? `Ask the ${again} failed again` : "Ask again";
}

function showWaiting(wait) {
  element("waiting").textContent = wait
    ? `The service is busy and asked to wait ${counted(wait.waitS, "second")}. ${wait.detail}`
    : "";
}

function select(picture) {
  album.selected = picture;
  strip.update();
  strip.show();
  asking.go();
  render();
}

function remove(picture) {
  album.remove(picture);
  showAlbum();
  // The button and the strip go away with the last but one.
  if (album.pictures.length < 2) element("add").focus();
}

function showAlbum() {
  strip.build();
  strip.show();
  showProgress();
  asking.go();
  render();
}

function askAgain() {
  reconsider();
  album.failures(chosen(), { forget: true });
  asking.afresh();
  showAlbum();
  element("add").focus();
}

onFiles((files) => {
  if (!album.add(files).length) return;
  showAlbum();
});
element("remove").addEventListener("click", () => remove(album.selected));
element("clear").addEventListener("click", () => {
  album.clear();
  showAlbum();
  element("file").focus();
});
element("again").addEventListener("click", askAgain);
element("model").addEventListener("change", () => {
  showModel();
  cards.toAddress(element("model").value, element("compare").value);
  showModels();
});
element("compare").addEventListener("change", () => {
  cards.toAddress(element("model").value, element("compare").value);
  showModels();
});
element("min-score").addEventListener("input", () => {
  element("min-score-shown").textContent = percent(leastScore());
  render();
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && !element("key-dialog").open) choose(0, null);
});
element("key").addEventListener("click", async () => {
  if (await askForKey("Every request carries it until this tab is closed."))
    models.length ? askAgain() : begin();
});

function begin() {
  start().catch((error) => {
    if (!(error instanceof Refusal)) throw error;
    sides[0].refusal(error);
  });
}

begin();
