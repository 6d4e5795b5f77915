// How pictures are given: chosen, dropped anywhere on the page, or pasted.

import { element } from "/assets/dom.js";

// taken(files): called with at least one.
export function onFiles(taken) {
  const take = (files) => files?.length && taken(files);
  const body = document.body.classList;
  element("file").addEventListener("change", ({ target }) => {
    take(target.files);
    // Choosing the same file again shall send it again.
    target.value = "";
  });
  element("add").addEventListener("click", () => element("file").click());
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
  // The whole window takes a drop, so that a near miss does not navigate away from the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    body.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) body.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    body.remove("over");
    take(event.dataTransfer?.files);
  });
}
