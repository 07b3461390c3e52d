// What script adds to pages that work without: they keep themselves up to date
// (htmx does that, by the attributes in the pages), and text can be copied.
"use strict";

const state = document.getElementById("live-state");

// A page is not taken from under somebody who reads a selection or uses it with
// the keyboard inside a form, nor fetched where nobody looks.
document.addEventListener("htmx:beforeRequest", (event) => {
  const page = event.detail.elt;
  if (page.id !== "page") return;
  const selection = getSelection();
  const reading = !selection.isCollapsed && page.contains(selection.anchorNode);
  const typing = page.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
  if (document.hidden || reading || typing) event.preventDefault();
});

// Details that were opened stay open.
let opened = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  // An answer that is no page (the console was closed, the relay stops) leaves what is there.
  if (!event.detail.xhr.responseText.includes('id="page"')) event.detail.shouldSwap = false;
  opened = [...document.querySelectorAll("#page details")].map((details) => details.open);
});
document.addEventListener("htmx:afterSwap", () => {
  document.querySelectorAll("#page details").forEach((details, i) => (details.open = opened[i] ?? details.open));
  enhance();
});

// Coming back to a page shows what is true now.
document.addEventListener("visibilitychange", () => {
  const page = document.getElementById("page");
  if (!document.hidden && page?.hasAttribute("hx-get")) htmx.trigger(page, "sse:lost");
});

document.addEventListener("htmx:sseOpen", () => (state.hidden = false));
document.addEventListener("htmx:sseError", () => (state.hidden = true));

// Buttons that need script appear with it.
function enhance() {
  for (const button of document.querySelectorAll("[data-copy][hidden]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      await navigator.clipboard.writeText(source.value ?? source.textContent);
      button.textContent = "Copied";
    });
  }
}
enhance();
