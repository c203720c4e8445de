// The keyboard. Everything here is a short cut to a link that works without it.
"use strict";

const search = document.getElementById("q");
const keys = document.getElementById("keys");

function step(by) {
  const items = [...document.querySelectorAll("[data-item]")];
  const now = items.indexOf(document.activeElement);
  const next = now < 0 ? (by > 0 ? 0 : items.length - 1) : Math.min(Math.max(now + by, 0), items.length - 1);
  items[next]?.focus();
}

function follow(selector) {
  document.querySelector(selector)?.click();
}

const actions = {
  j: () => step(1),
  k: () => step(-1),
  n: () => follow("[rel=next]"),
  p: () => follow("[rel=prev]"),
  "/": () => {
    search?.focus();
    search?.select();
  },
  "?": () => keys?.showModal(),
  Escape: () => follow("[data-up]"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || keys?.open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const action = actions[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});

const shown = document.getElementById("show-keys");
if (shown) {
  shown.hidden = false;
  shown.addEventListener("click", () => keys.showModal());
}
