// Small things that every part of the page uses.

export const element = (id) => document.getElementById(id);

export function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

export const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;
export const milliseconds = (ms) => `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;
export const pixels = (count) => `${count.toLocaleString("en")} pixels`;
