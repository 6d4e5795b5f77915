// What is asked of the service, and how it refuses.

import { anotherKey, storedKey } from "/assets/key.js";

export class Refusal extends Error {
  // waitS: when the service says that trying again may help; null where it does not.
  constructor({ code, title, detail }, status, waitS) {
    super(detail);
    Object.assign(this, { code, title, detail, status, waitS });
  }

  // Whether the same request may be answered another time.
  get passes() {
    return [0, 401, 429].includes(this.status) || this.status >= 500;
  }
}

const UNREACHABLE = {
  code: "unreachable",
  title: "No answer",
  detail: "The service could not be reached. Is it still running?",
};

// Gives the answer and how long it took from here.
export async function call(path, options = {}) {
  for (;;) {
    const key = storedKey();
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const started = performance.now();
    const answer = await reached(path, { ...options, headers });
    const body = await answer.json().catch(() => ({}));
    if (answer.ok) return { body, totalMs: performance.now() - started };
    const refusal = refused(answer, body);
    if (refusal.code !== "unauthenticated" || !(await anotherKey(key, refusal.detail))) throw refusal;
  }
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(UNREACHABLE, 0, null);
  }
}

function refused(answer, { code = "", title, detail = "" }) {
  const after = Number.parseFloat(answer.headers.get("Retry-After"));
  const said = title ?? `The service answers with status ${answer.status}`;
  return new Refusal({ code, title: said, detail }, answer.status, after >= 0 ? after : null);
}

// model: as listed; query: of its task.
export function askOf(model, file, query, signal) {
  const parameters = new URLSearchParams({ model: model.name, ...query });
  return call(`/v1/${model.task}?${parameters}`, {
    method: "POST",
    // The content decides; a type that is none of a picture would be refused by its name.
    headers: { "Content-Type": "application/octet-stream" },
    body: file,
    signal,
  });
}
