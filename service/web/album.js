// The pictures that were given, which of them is looked at, and what each model said of each.

export const WAITING = "waiting";
export const ASKING = "asking";
export const DONE = "done";
export const FAILED = "failed";

export class Album {
  constructor() {
    this.pictures = [];
    this.selected = null;
  }

  // Gives the new pictures; the first of them is looked at.
  add(files) {
    // accepted: whether the service read it, so that the browser may. results: by model.
    const added = [...files].map((file) => ({ file, accepted: false, size: null, results: new Map() }));
    this.pictures.push(...added);
    if (added.length) this.selected = added[0];
    return added;
  }

  remove(picture) {
    const at = this.pictures.indexOf(picture);
    this.pictures.splice(at, 1);
    if (this.selected === picture)
      this.selected = this.pictures[Math.min(at, this.pictures.length - 1)] ?? null;
  }

  clear() {
    this.pictures = [];
    this.selected = null;
  }

  // The next picture that a model of these has not been asked about: the one looked at first.
  next(models) {
    for (const picture of [this.selected, ...this.pictures]) {
      const model = models.find(({ name }) => picture && !picture.results.has(name));
      if (model) return { picture, model };
    }
    return null;
  }

  // Forgets the failures that may not happen again. Gives how many there are.
  failures(models, { forget = false } = {}) {
    let count = 0;
    for (const { results } of this.pictures)
      for (const { name } of models)
        if (results.get(name)?.refusal?.passes) {
          count += 1;
          if (forget) results.delete(name);
        }
    return count;
  }

  count(models, state) {
    return this.pictures.filter((picture) => stateOf(picture, models) === state).length;
  }
}

// What a picture is to all the models together.
export function stateOf({ results }, models) {
  const states = models.map(({ name }) => results.get(name)?.state ?? WAITING);
  return (
    [FAILED, ASKING].find((state) => states.includes(state)) ??
    (states.every((state) => state === DONE) && states.length ? DONE : WAITING)
  );
}
