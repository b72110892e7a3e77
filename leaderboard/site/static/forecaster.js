// A forecaster's page: its skill by size of batch and by recipe, from the page's data.
"use strict";
(() => {
  const { place, charts } = JSON.parse(document.getElementById("forecaster-data").textContent);

  function show() {
    for (const box of document.querySelectorAll(".forests")) {
      const parts = charts[Number(box.dataset.part)];
      const extent = window.moeloadCharts.extent(parts.flatMap(({ panels }) => panels));
      box.replaceChildren(...parts.map(({ caption, rows, panels }) => {
        const table = window.moeloadCharts.element("table", "", { class: "forest long" });
        window.moeloadCharts.forest(table, caption, rows.map((name) => ({ name, place })), panels, extent);
        return table;
      }));
    }
  }

  window.moeloadCharts.onTheme(show);
  show();
})();
