// Asks about one picture after the other, few at once, so that many pictures load nobody.

import { ASKING, DONE, FAILED } from "/assets/album.js";
import { askOf, Refusal } from "/assets/api.js";

const AT_ONCE = 2;
const LONGEST_WAIT_S = 60;
const SHORTEST_WAIT_S = 0.25;
const TRIES = 8;

export class Asking {
  // models(): those to ask; query(model); changed(picture, model) after every change.
  constructor(album, { models, query, changed, waiting }) {
    Object.assign(this, { album, models, query, changed, waiting });
    this.running = new Map();
    this.tries = new WeakMap();
    this.paused = null;
    this.maxBytes = Infinity;
  }

  go() {
    const models = this.models();
    this.drop(models);
    if (this.paused) return;
    // Two models are asked in turn: at once, each would slow down the other, and so its time.
    const most = models.length > 1 ? 1 : AT_ONCE;
    while (this.running.size < most) {
      const next = this.album.next(models);
      if (!next) return;
      this.begin(next);
    }
  }

  // What nobody waits for any more is cancelled.
  drop(models) {
    for (const [result, { picture, model, request }] of this.running) {
      if (models.includes(model) && this.album.pictures.includes(picture)) continue;
      this.running.delete(result);
      picture.results.delete(model.name);
      request.abort();
    }
  }

  begin({ picture, model }) {
    const result = { state: ASKING };
    const request = new AbortController();
    picture.results.set(model.name, result);
    this.running.set(result, { picture, model, request });
    this.changed(picture, model);
    this.ask(picture, model, request.signal)
      .then((answer) => this.end(result, answer))
      .catch((refusal) => this.fail(result, refusal));
  }

  async ask({ file }, model, signal) {
    if (file.size > this.maxBytes) throw tooLarge(file.size, this.maxBytes);
    try {
      return await askOf(model, file, this.query(model), signal);
    } catch (refusal) {
      if (refusal.status === 0 && !(await isReadable(file))) throw unreadable(file);
      throw refusal;
    }
  }

  end(result, { body, totalMs }) {
    const asked = this.running.get(result);
    if (!asked) return;
    const { picture, model } = asked;
    Object.assign(picture, { accepted: true, size: body.image });
    this.settle(result, { state: DONE, body, totalMs, task: model.task });
  }

  fail(result, refusal) {
    const asked = this.running.get(result);
    if (!asked) return;
    // A fault of the page itself shall be seen where such faults are looked for.
    if (!(refusal instanceof Refusal)) {
      this.running.delete(result);
      throw refusal;
    }
    if (this.mayWait(asked.picture, refusal)) this.wait(result, refusal);
    else this.settle(result, { state: FAILED, refusal });
  }

  settle(result, news) {
    const { picture, model } = this.running.get(result);
    this.running.delete(result);
    Object.assign(result, news);
    this.changed(picture, model);
    this.go();
  }

  mayWait(picture, { status, waitS }) {
    const tries = 1 + (this.tries.get(picture) ?? 0);
    this.tries.set(picture, tries);
    return status === 429 && waitS !== null && waitS <= LONGEST_WAIT_S && tries < TRIES;
  }

  // All wait, not this one alone: the next one would be refused as well.
  wait(result, { waitS, detail }) {
    const { picture, model } = this.running.get(result);
    this.running.delete(result);
    picture.results.delete(model.name);
    clearTimeout(this.paused);
    this.paused = setTimeout(() => {
      this.paused = null;
      this.waiting(null);
      this.go();
    }, 1000 * Math.max(waitS, SHORTEST_WAIT_S));
    this.waiting({ waitS, detail });
    this.changed(picture, model);
  }

  // Somebody asks again: no old count or wait holds it back.
  afresh() {
    this.tries = new WeakMap();
    clearTimeout(this.paused);
    this.paused = null;
    this.waiting(null);
    this.go();
  }
}

function tooLarge(size, most) {
  const [allowed, came] = [most, size].map((bytes) => `${(bytes / 1e6).toFixed(1)} MB`);
  const detail = `Choose one of up to ${allowed}; this one has ${came}.`;
  return new Refusal({ code: "too_many_bytes", title: "The picture is too large", detail }, 413, null);
}

function unreadable({ name }) {
  const title = "This file cannot be read: choose a picture that is still there";
  return new Refusal({ code: "unreadable", title, detail: name }, 400, null);
}

// A folder, or a file that was changed or deleted since, cannot be sent either.
async function isReadable(file) {
  try {
    await file.arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
