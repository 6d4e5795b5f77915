// The API key, where the service wants one: asked for once, kept while this tab is open.

import { element } from "/assets/dom.js";

const NAME = "gpusq-key";
// The browser would send nothing at all with another.
const HEADER = /^[!-~]+$/;
let asking = null;
let declined = false;

export const storedKey = () => sessionStorage.getItem(NAME);

// Whether there is a key that the service has not refused yet. used: the one that it refused.
export async function anotherKey(used, why) {
  element("key").hidden = false;
  if (storedKey() !== used) return true;
  if (declined) return false;
  return askForKey(why);
}

// Several requests that are refused at once share one question.
export function askForKey(why) {
  asking ??= question(why).finally(() => {
    asking = null;
  });
  return asking;
}

function question(why) {
  const dialog = element("key-dialog");
  const field = element("key-field");
  element("key-why").textContent = why;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(keep(dialog.returnValue, field)), { once: true });
  });
}

function keep(answer, field) {
  const key = field.value.trim();
  field.value = "";
  declined = !(answer === "use" && key);
  if (!declined) sessionStorage.setItem(NAME, key);
  return !declined;
}

// After a question that was declined, the next refusal may ask again.
export function reconsider() {
  declined = false;
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = element("key-field");
  if (HEADER.test(field.value.trim())) element("key-dialog").close("use");
  else {
    element("key-why").textContent = "This is no API key: one has letters, digits and no spaces.";
    field.select();
  }
});
element("key-cancel").addEventListener("click", () => element("key-dialog").close());
