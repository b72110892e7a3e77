"use strict";
// A line below whatever is wider than the screen, until it is scrolled to its end: on a phone nothing else says so.
(() => {
  const mark = (box) => box.classList.toggle("more", box.scrollLeft + box.clientWidth + 1 < box.scrollWidth);
  const watch = (box) => {
    const hint = document.createElement("p");
    hint.className = "scroll-hint";
    hint.textContent = "scroll sideways for more \u2192";
    hint.setAttribute("aria-hidden", "true");
    box.after(hint);
    box.addEventListener("scroll", () => mark(box), { passive: true });
    new ResizeObserver(() => mark(box)).observe(box);
    new MutationObserver(() => mark(box)).observe(box, { childList: true, subtree: true });
    for (const image of box.querySelectorAll("img")) image.addEventListener("load", () => mark(box));
    mark(box);
  };
  document.querySelectorAll(".scroll").forEach(watch);
  window.moeloadScroll = { watch };
})();
