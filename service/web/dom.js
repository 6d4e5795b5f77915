// Small things that every part of the page uses.

export const element = (id) => document.getElementById(id);

export function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// A number and its unit stand on one line, so no-break spaces.
export const percent = (fraction) => `${(100 * fraction).toFixed(1)}\u00a0%`;
export const milliseconds = (ms) => `${ms.toFixed(ms < 10 ? 2 : 1)}\u00a0ms`;
export const pixels = (count) => `${count.toLocaleString("en")} pixels`;
export const counted = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
