// Tables that are sorted, searched and chosen; a hint below what is wider than the screen. No number is computed.
"use strict";
(() => {
  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // ---------------------------------------------------------------- a line below what scrolls sideways

  function watchScrolling(box) {
    const mark = () => box.classList.toggle("more", box.scrollLeft + box.clientWidth + 1 < box.scrollWidth);
    box.after(element("p", "scroll sideways for more \u2192", { class: "scroll-hint", "aria-hidden": "true" }));
    box.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(box);
    mark();
  }

  // ---------------------------------------------------------------- sorting

  // The first number in a text; null if it begins with none.
  function number(text) {
    const value = Number.parseFloat(text.replaceAll("\u2212", "-").replaceAll(",", ""));
    return Number.isNaN(value) ? null : value;
  }

  // Cells without a number come last, whatever the direction.
  function compare(one, other, sign) {
    const [left, right] = [number(one), number(other)];
    if (left === null || right === null) {
      if (left !== null || right !== null) return left === null ? 1 : -1;
      return sign * one.localeCompare(other);
    }
    return sign * (left - right);
  }

  function sortBy(table, column, head) {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const [floors, rows] = [[], []];
    for (const row of body.rows) (row.classList.contains("floor") ? floors : rows).push(row);
    rows.sort((a, b) => compare(a.cells[column].textContent, b.cells[column].textContent, sign));
    body.replaceChildren(...rows, ...floors);
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = element("button", head.textContent, { type: "button", class: "sort" });
      head.replaceChildren(button);
      button.addEventListener("click", () => sortBy(table, column, head));
    });
  }

  // ---------------------------------------------------------------- search

  function makeSearchable(box) {
    const table = box.querySelector("table");
    const label = element("label", "Search ", { class: "search" });
    const input = element("input", "", { type: "search", autocomplete: "off" });
    label.append(input);
    box.prepend(label);
    input.addEventListener("input", () => {
      const word = input.value.trim().toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(word);
    });
  }

  // ---------------------------------------------------------------- one of several tables

  function makeChoice(box) {
    const parts = [...box.children];
    const show = (chosen) => parts.forEach((part) => { part.hidden = part.dataset.title !== chosen; });
    const label = element("label", box.dataset.label, { class: "switch" });
    const select = element("select", "", { autocomplete: "off" });
    select.append(...parts.map((part) => new Option(part.dataset.title)));
    select.addEventListener("change", () => show(select.value));
    label.append(select);
    box.prepend(label);
    show(parts[0].dataset.title);
  }

  // A link to what is folded unfolds it.
  function openTarget() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }

  document.querySelectorAll("table.data:not(.doc, .heat)").forEach(makeSortable);
  document.querySelectorAll(".index").forEach(makeSearchable);
  document.querySelectorAll(".choice").forEach(makeChoice);
  document.querySelectorAll(".scroll").forEach(watchScrolling);
  window.addEventListener("hashchange", openTarget);
  openTarget();
})();
