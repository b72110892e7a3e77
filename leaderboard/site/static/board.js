// The leaderboard: shows the texts of the view that is chosen. No number is computed here.
"use strict";
(() => {
  const site = JSON.parse(document.getElementById("site-data").textContent);
  const loaded = new Map();
  const waiting = new Map();
  const byId = (id) => document.getElementById(id);
  const SWITCHES = ["suite", "state", "horizon", "recipe", "type", "metric"];
  const STATES = ["transient", "mixed", "stable", "crossing"];
  const select = Object.fromEntries(SWITCHES.map((id) => [id, byId(id)]));
  const board = () => site.boards.find((one) => one.name === select.suite.value);
  let table = null;
  let asked = 0;

  loaded.set(`${site.boards[0].name} ${site.primary}`, site.metric);
  window.moeload = {
    add(suite, metric, content) {
      loaded.set(`${suite} ${metric}`, content);
      const done = waiting.get(`${suite} ${metric}`);
      if (done) done(content);
    },
  };

  // The data of one metric: a script of its own, since a page opened from disk may not fetch.
  function load(suite, metric) {
    const key = `${suite} ${metric}`;
    if (loaded.has(key)) return Promise.resolve(loaded.get(key));
    return new Promise((resolve, reject) => {
      waiting.set(key, resolve);
      const script = document.createElement("script");
      script.src = board().metrics.find((one) => one.name === metric).file;
      script.onerror = () => reject(new Error(`${script.src} cannot be read`));
      document.head.append(script);
    });
  }

  function fill(element, options) {
    const before = element.value;
    element.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    if (options.some(([value]) => value === before)) element.value = before;
  }

  function fillSwitches() {
    const one = board();
    fill(select.state, one.states.map((state) => [state, state === "all" ? "all states" : state]));
    fill(select.horizon, [["all", "all horizons"], ...one.horizons.map((h) => [String(h), h.toLocaleString("en-US")])]);
    fill(select.recipe, one.choices);
    fill(select.type, [["all", "all types"], ...one.types.map((type) => [type, type])]);
    fill(select.metric, one.metrics.map((metric) => [metric.name, metric.named]));
  }

  // ---------------------------------------------------------------- the table of standings

  const { number, element } = window.moeloadCharts;

  function nameCell(row) {
    const box = document.createElement("span");
    box.append(element("a", row.name, { href: row.page }));
    if (row.elsewhere) box.append(" ", element("small", "learned from other data", { class: "elsewhere", title: `learned from other data: ${row.elsewhere}` }));
    if (row.failed) box.append(" ", element("small", row.failed, { class: "bad" }));
    return box;
  }

  const TEXT = { name: nameCell, standing: (row) => element("span", row.standing, { class: `badge ${row.standing}` }) };

  const WORDS = ["name", "type", "level", "standing"];

  // DataTables would take text for HTML: what is shown are text nodes.
  const column = (key) => ({
    data: null,
    type: WORDS.includes(key) ? "string" : "num",
    className: WORDS.includes(key) ? "" : "n",
    cellType: key === "name" ? "th" : "td",
    createdCell: (cell) => key === "name" && cell.setAttribute("scope", "row"),
    orderSequence: ["skill", "win_rate"].includes(key) ? ["desc", "asc"] : ["asc", "desc"],
    render: (row, kind) => {
      if (kind === "display") return TEXT[key] ? TEXT[key](row) : element("span", row[key]);
      if (kind === "filter") return WORDS.includes(key) ? row[key].replace(/[<>&]/g, " ") : ""; // it reads entities as HTML
      if (WORDS.includes(key)) return row[key];
      const value = number(row[key]);
      return value === null ? (["skill", "win_rate"].includes(key) ? -1e99 : 1e99) : value;
    },
  });

  function makeTable() {
    table = new window.DataTable("#board", {
      data: [], columns: site.columns.map(column), paging: false, info: false, autoWidth: false,
      layout: { topStart: { search: { placeholder: "name, type, level or status" } }, topEnd: null, bottomStart: null, bottomEnd: null },
      language: { search: "Search ", zeroRecords: "No forecaster matches." },
      search: { smart: true },
    });
    const more = element("label", "", { class: "more-columns" });
    more.append(element("input", "", { type: "checkbox", id: "all-columns", autocomplete: "off" }), " all columns");
    document.querySelector(".dt-search").append(more);
    byId("all-columns").addEventListener("change", show);
    const box = byId("board").parentElement;
    box.classList.add("scroll");
    box.setAttribute("tabindex", "0");
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Standings");
    window.moeloadScroll.watch(box);
  }

  const isChosen = (chosen) => (forecaster) => chosen.type === "all" || forecaster.type === chosen.type;

  function rowsOf(one, view, recipe) {
    return one.forecasters.map((forecaster, i) => ({
      ...forecaster,
      ...Object.fromEntries(site.fields.map((field, at) => [field, view.rows[i][at]])),
      ms: one.cost[recipe][i][0],
      training: one.cost[recipe][i][1],
      cpu: one.cost[recipe][i][2],
    }));
  }

  function showTable(one, metric, view, chosen) {
    table.clear().rows.add(rowsOf(one, view, chosen.recipe).filter(isChosen(chosen)));
    const valueHead = table.column(site.columns.indexOf("value")).header().querySelector(".dt-column-title");
    valueHead.textContent = chosen.metric;
    const key = metric.skill ? "skill" : "value";
    if (table.moeloadKey !== `${key} ${metric.lower}`) {
      table.order([site.columns.indexOf(key), metric.skill || metric.lower === false ? "desc" : "asc"]);
      table.moeloadKey = `${key} ${metric.lower}`;
    }
    for (const name of ["skill", "new_recipe", "new_seeds", "ranks"]) {
      table.column(site.columns.indexOf(name)).visible(metric.skill, false);
    }
    const all = byId("all-columns").checked;
    for (const name of site.few) table.column(site.columns.indexOf(name)).visible(all, false);
    if (all) table.column(site.columns.indexOf("excess")).visible(view.rows.some((row) => row[1] !== "–"), false);
    table.draw();
  }

  // ---------------------------------------------------------------- the picture, and skill by recipe

  const titleOf = (one, choice) => one.choices.find(([id]) => id === choice)[1];
  const cellsOf = (metric, state, recipe, horizon) => metric.views[`${state} ${recipe} ${horizon}`].rows.map((row) =>
    ({ skill: row[site.fields.indexOf("skill")], recipe: row[site.fields.indexOf("new_recipe")], seeds: row[site.fields.indexOf("new_seeds")] }));

  // Forecasters that are shown, the most skill first.
  function bySkill(one, metric, view, chosen) {
    const skill = (i) => number(view.rows[i][site.fields.indexOf("skill")]) ?? -1e9;
    return one.forecasters.map((forecaster, i) => ({ ...forecaster, i })).filter(isChosen(chosen))
      .sort((a, b) => skill(b.i) - skill(a.i));
  }

  function showPicture(one, metric, view, chosen) {
    byId("picture").hidden = !metric.skill;
    byId("by-recipe-part").hidden = !metric.skill || one.recipes.length < 2;
    if (!metric.skill) return;
    const rows = bySkill(one, metric, view, chosen);
    const states = chosen.state === "all" ? ["transient", "stable"].filter((state) => one.states.includes(state)) : [chosen.state];
    const groups = chosen.recipe === "all" && one.strata.length ? one.strata : [chosen.recipe];
    const parts = groups.map((group) => ({
      title: titleOf(one, group),
      panels: states.map((state) => {
        const cells = cellsOf(metric, state, group, chosen.horizon);
        return { title: state, cells: rows.map(({ i }) => cells[i]) };
      }),
    }));
    const extent = window.moeloadCharts.extent(parts.flatMap(({ panels }) => panels));
    byId("forests").replaceChildren(...parts.map(({ title, panels }) => {
      const made = element("table", "", { class: "forest" });
      window.moeloadCharts.forest(made, title, rows, panels, extent);
      return made;
    }));
    showRecipes(one, metric, rows, chosen);
  }

  function showRecipes(one, metric, rows, chosen) {
    const head = document.createElement("tr");
    head.append(element("th", "forecaster", { scope: "col" }), ...one.recipes.map((recipe) => {
      const cell = element("th", "", { scope: "col", class: "up" });
      cell.append(element("span", recipe));
      return cell;
    }));
    const cells = Object.fromEntries(one.recipes.map((recipe) => [recipe, cellsOf(metric, chosen.state, recipe, chosen.horizon)]));
    const body = rows.map((row) => {
      const line = document.createElement("tr");
      line.append(element("th", row.name, { scope: "row" }), ...one.recipes.map((recipe) => {
        const text = cells[recipe][row.i].skill.split(" ")[0];
        const level = Math.min(4, Math.ceil(Math.abs(number(text) || 0) * 8));
        return element("td", text, { class: `n ${level ? (number(text) > 0 ? "win" : "loss") : ""}${level || ""}` });
      }));
      return line;
    });
    byId("recipes").tHead.replaceChildren(head);
    byId("recipes").tBodies[0].replaceChildren(...body);
    byId("recipes-caption").textContent = `A row is a forecaster, a column a recipe, a cell its skill there, ${chosen.state === "all" ? "all states" : chosen.state}, ` +
      `${chosen.horizon === "all" ? "all horizons" : `horizon ${chosen.horizon}`}: above 0 (blue) it errs less than the reference, below 0 (orange) more. More is better.`;
  }

  // ---------------------------------------------------------------- errors by horizon

  const statesShown = (one, chosen) =>
    chosen.state === "all" ? STATES.filter((state) => one.states.includes(state)) : [chosen.state];

  function showHorizons(one, metric, chosen) {
    const body = [];
    for (const state of statesShown(one, chosen)) {
      const head = element("tr", "", { class: "group" });
      const size = metric.views[`${state} ${chosen.recipe} all`].size;
      head.append(element("th", `${state}: ${size}`, { scope: "rowgroup", colspan: 1 + one.horizons.length }));
      body.push(head);
      one.forecasters.forEach((forecaster, i) => {
        if (!isChosen(chosen)(forecaster)) return;
        const values = one.horizons.map((h) => metric.views[`${state} ${chosen.recipe} ${h}`].rows[i][0]);
        body.push(valueRow(forecaster.name, values, "", state));
      });
      for (const [, floor, values] of floorsOf(metric, chosen, state)) body.push(valueRow(floor, values, "floor", state));
    }
    const head = document.createElement("tr");
    head.append(element("th", "forecaster", { scope: "col" }));
    for (const h of one.horizons) head.append(element("th", `h = ${h.toLocaleString("en-US")}`, { scope: "col", class: "n" }));
    byId("horizons").tHead.replaceChildren(head);
    byId("horizons").tBodies[0].replaceChildren(...body);
    byId("horizons-caption").textContent = `A row is a forecaster or a floor in one state, a column a horizon h in training steps${better(metric)}. ` +
      `${namedMetric(one, chosen)}: mean over runs of means over origins and layers; ${one.recipes.includes(chosen.recipe) ? "recipe " : ""}${titleOf(one, chosen.recipe)} of suite ${one.name}.`;
  }

  function valueRow(name, values, kind, state) {
    const row = element("tr", "", { class: kind, "data-state": state });
    row.append(element("th", name, { scope: "row" }), ...values.map((value) => element("td", value, { class: "n" })));
    return row;
  }

  const better = (metric) => metric.lower === null ? "" : `; ${metric.lower ? "less" : "more"} is better`;

  const namedMetric = (one, chosen) => one.metrics.find((metric) => metric.name === chosen.metric).named;

  const floorsOf = (metric, chosen, state) => metric.floors[`${state} ${chosen.recipe}`] || [];

  // ---------------------------------------------------------------- charts

  const looks = ({ place }) => ({ colour: window.moeloadCharts.colour(place), shape: window.moeloadCharts.shape(place) });
  const drawable = (rows) => rows.filter((row) => row.value !== null);

  function horizonData(one, metric, chosen, state) {
    const rows = one.horizons.flatMap((horizon) =>
      one.forecasters.map((forecaster, i) => {
        const text = metric.views[`${state} ${chosen.recipe} ${horizon}`].rows[i][0];
        return { forecaster: forecaster.name, type: forecaster.type, horizon, value: number(text), text, ...looks(forecaster) };
      }).filter(isChosen(chosen)));
    const floors = floorsOf(metric, chosen, state).flatMap(([floor, , values]) =>
      values.map((text, k) => ({ floor, horizon: one.horizons[k], value: number(text), text, dash: window.moeloadCharts.DASHES[floor] })));
    return { rows: drawable(rows), floors: drawable(floors) };
  }

  function showCharts(one, metric, view, chosen) {
    const panels = statesShown(one, chosen).map((state) => ({ state, data: horizonData(one, metric, chosen, state) }));
    // floors may lie hundreds of times below every line: the chart shows those near the lines, the table all of them
    const least = Math.min(...panels.flatMap(({ data }) => data.rows.map(({ value }) => value)));
    for (const { data } of panels) data.floors = data.floors.filter(({ value }) => value >= least / 2);
    const extent = panels.flatMap(({ data }) => [...data.rows, ...data.floors].map(({ value }) => ({ value })));
    const boxes = panels.map(({ state }) => {
      const figure = element("figure", "", { class: "chart" });
      figure.append(element("figcaption", state), element("div", "", { "data-state": state }));
      return figure;
    });
    byId("horizon-charts").replaceChildren(...boxes);
    panels.forEach(({ data }, i) => window.moeloadCharts.draw(boxes[i].lastChild, metric.charts.horizon, { ...data, extent }));
    const points = rowsOf(one, view, chosen.recipe).map((row) => ({
      forecaster: row.name, type: row.type, ms: number(row.cpu), ms_text: row.cpu, value: number(row.value), text: row.value,
      front: row.front, ...looks(row),
    })).filter(isChosen(chosen));
    const lowest = Math.min(...drawable(points).map(({ value }) => value));
    const floor = drawable([{ value: number(view.floor), text: view.floor }]).filter(({ value }) => value >= lowest / 2);
    window.moeloadCharts.draw(byId("cost-chart"), metric.charts.cost, { points: drawable(points).filter((row) => row.ms !== null), floor });
    const shown = one.forecasters.filter(isChosen(chosen));
    const floors = Object.keys(window.moeloadCharts.DASHES).filter((name) => panels.some(({ data }) => data.floors.some((row) => row.floor === name)));
    window.moeloadCharts.legend(byId("legend"), shown, floors);
    window.moeloadCharts.legend(byId("cost-legend"), shown, floor.length ? ["floor_batch"] : []);
  }

  // ---------------------------------------------------------------- the choice

  async function show() {
    const chosen = Object.fromEntries(SWITCHES.map((id) => [id, select[id].value]));
    const mine = ++asked;
    const metric = await load(chosen.suite, chosen.metric).catch((error) => {
      byId("over").textContent = error.message;
      throw error;
    });
    if (mine !== asked) return;
    const one = board();
    const view = metric.views[`${chosen.state} ${chosen.recipe} ${chosen.horizon}`];
    byId("which").textContent = `suite ${one.name}`;
    byId("suite-name").textContent = one.name;
    byId("suite-text").textContent = one.about;
    byId("about-name").textContent = namedMetric(one, chosen);
    byId("about-text").textContent = metric.about + better(metric);
    byId("over").textContent = view.over;
    byId("floor-note").textContent = view.floor === "–" ? "" : ` floor_batch is ${view.floor} here.`;
    byId("cost-over").textContent = `Values: ${view.over}. ${one.unmeasured}`;
    byId("claims").textContent = one.claims;
    byId("skill-note").textContent = metric.skill_note;
    byId("hindsight").textContent = one.hindsight;
    showPicture(one, metric, view, chosen);
    showTable(one, metric, view, chosen);
    showHorizons(one, metric, chosen);
    showCharts(one, metric, view, chosen);
    document.documentElement.dataset.shown = SWITCHES.map((id) => chosen[id]).join(" ");
  }

  function remember() {
    const words = new URLSearchParams(SWITCHES.map((id) => [id, select[id].value]));
    history.replaceState(null, "", `#${words}`);
  }

  function recall() {
    const words = new URLSearchParams(location.hash.slice(1));
    for (const id of SWITCHES) {
      if (id === "state") fillSwitches();
      const value = words.get(id);
      if (value !== null && [...select[id].options].some((option) => option.value === value)) select[id].value = value;
    }
  }

  makeTable();
  recall();
  for (const id of SWITCHES) {
    select[id].addEventListener("change", () => {
      if (id === "suite") fillSwitches();
      remember();
      show();
    });
  }
  window.addEventListener("hashchange", () => { recall(); show(); });
  window.moeloadCharts.onTheme(show);
  show();
})();
