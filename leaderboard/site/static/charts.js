// Charts: Vega-Lite specifications come from the page's data; here they get their rows, colours and shapes.
"use strict";
(() => {
  const LIGHT = ["#0072b2", "#d55e00", "#00855f", "#b4609a", "#a37200", "#3a94c8", "#222222", "#8a5a44", "#7f7f7f", "#7a3e9d"];
  const DARK = ["#56b4e9", "#ff8a3c", "#2cc79a", "#e59ac6", "#e6b422", "#8fd0f5", "#f0f0f0", "#cf9d85", "#a8a8a8", "#b98ad6"];
  // Shapes as SVG paths in a square from -1 to 1: Vega and the legend draw the same.
  const SHAPES = [
    "M-.9,0A.9,.9,0,1,1,.9,0A.9,.9,0,1,1,-.9,0Z", "M-.8,-.8H.8V.8H-.8Z", "M0,-1L1,.8H-1Z", "M0,-1.1L.95,0L0,1.1L-.95,0Z",
    "M0,1L1,-.8H-1Z", "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z", "M-.8,-1L1,0L-.8,1Z", "M.8,-1L-1,0L.8,1Z",
  ];
  const DASHES = { floor_batch: [6, 3], floor_level: [1.5, 2.5], floor_sampling: [8, 3, 1.5, 3], floor_fork: [2, 5] };
  const SVG = "http://www.w3.org/2000/svg";
  const VEGA = new URL("vega.js", document.currentScript.src).href;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // By a forecaster's place, which it has in every chart: ten colours, and another shape in the next ten.
  const colour = (place) => (dark.matches ? DARK : LIGHT)[place % LIGHT.length];
  const shape = (place) => SHAPES[(place + Math.floor(place / LIGHT.length)) % SHAPES.length];

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null },
      rule: { color: soft },
      line: { color: soft },
      text: { color: ink, fontSize: 11 },
      tick: { color: ink },
      range: {
        ramp: { scheme: "viridis", extent: dark.matches ? [0.3, 1] : [0, 0.86] },
        diverging: dark.matches ? ["#5aa5dd", "#2a3337", "#ff8a3c"] : ["#2166ac", "#f4f4f4", "#b2182b"],
      },
      axis: {
        labelColor: soft, titleColor: soft, domainColor: line, tickColor: line, gridColor: line, titleFontWeight: 450,
        labelFontSize: 11, titleFontSize: 11.5, titlePadding: 8, labelOverlap: true,
      },
    };
  }

  let vega = null;

  const pageLoaded = document.readyState === "complete" ? Promise.resolve()
    : new Promise((resolve) => window.addEventListener("load", resolve, { once: true }));

  // Vega is the largest file: it is loaded when the page stands.
  function ready() {
    vega = vega || pageLoaded.then(() => new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = VEGA;
      script.onload = () => resolve(window.vegaEmbed);
      script.onerror = () => reject(new Error("assets/vega.js cannot be read"));
      document.head.append(script);
    }));
    return vega;
  }

  // Draws one chart into an element. Layers without rows are left out; the promise stays on the element for tests.
  function draw(element, spec, datasets, renderer = "svg") {
    const full = JSON.parse(JSON.stringify(spec));
    full.layer = full.layer.filter((layer) => datasets[layer.data.name].length > 0);
    full.datasets = datasets;
    element.moeloadDatasets = datasets;
    if (full.layer.length === 0) {
      element.textContent = "No values here.";
      return;
    }
    const options = { ast: true, actions: false, renderer, mode: "vega-lite", config: theme(),
      tooltip: { theme: dark.matches ? "dark" : "light" } };
    element.moeloadDrawn = ready().then((embed) => embed(element, full, options)).then((result) => {
      if (element.moeloadView) element.moeloadView.finalize();
      element.moeloadView = result.view;
    });
  }

  function svg(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function key(mark, name) {
    const item = document.createElement("li");
    const picture = svg("svg", { viewBox: "-12 -5 24 10", width: 24, height: 10, "aria-hidden": "true" });
    picture.append(mark);
    item.append(picture, name);
    return item;
  }

  const mark = (place) => svg("path", { d: shape(place), transform: "scale(4.4)", fill: colour(place) });

  // One legend for all charts: a mark per forecaster, a dashed line per floor.
  function legend(list, forecasters, floors) {
    list.replaceChildren(
      ...forecasters.map(({ name, place }) => key(mark(place), name)),
      ...floors.map((name) => key(svg("path", { d: "M-12,0H12", stroke: "currentColor", "stroke-dasharray": DASHES[name].join(" ") }), name)),
    );
  }

  const keys = (list, pairs) =>
    list.replaceChildren(...pairs.map(([name, fill]) => key(svg("path", { d: "M-10,-4H10V4H-10Z", fill }), name)));

  // ---------------------------------------------------------------- dots and intervals, as a table

  const number = (text) => {
    const value = Number.parseFloat(text.replaceAll("−", "-"));
    return Number.isNaN(value) ? null : value;
  };
  const ends = (text) => (text.includes(" to ") ? text.split(" to ").map(number) : null);

  function made(name, text, attributes = {}) {
    const one = document.createElement(name);
    one.textContent = text;
    for (const [key_, value] of Object.entries(attributes)) one.setAttribute(key_, value);
    return one;
  }

  // What is far to the left is drawn at the edge: one bad forecaster must not squeeze all others.
  const LEAST = -1;

  function extent(panels) {
    const all = panels.flatMap(({ cells }) => cells).filter(Boolean)
      .flatMap(({ skill, recipe, seeds }) => [number(skill), ...(ends(recipe) || []), ...(ends(seeds) || [])]).filter((one) => one !== null);
    const low = Math.max(LEAST, Math.min(-0.1, ...all));
    const high = Math.min(1, Math.max(0.1, ...all));
    const pad = (high - low) * 0.03;
    return [low - pad, high + pad];
  }

  // panels: {title, cells by row: {skill, recipe, seeds}}; all have one scale.
  function forest(table, caption, rows, panels, [low, high]) {
    const at = (value) => 100 * (Math.min(high, Math.max(low, value)) - low) / (high - low);
    const bar = (kind, [from, to]) => made("i", "", { class: kind, style: `left:${at(from)}%;width:${at(to) - at(from)}%` });
    const step = high - low > 1.1 ? 0.5 : high - low > 0.45 ? 0.2 : 0.1;
    const ticks = [];
    for (let i = Math.ceil(low / step); i * step <= high; i += 1) ticks.push(Math.round(100 * i * step) / 100);
    const head = document.createElement("tr");
    head.append(made("th", "", { scope: "col" }), ...panels.map(({ title }) => {
      const cell = made("th", title, { scope: "col" });
      const axis = made("span", "", { class: "axis", "aria-hidden": "true" });
      axis.append(...ticks.map((one) => made("i", one > 0 ? `+${one}` : String(one).replace("-", "−"), { style: `left:${at(one)}%` })));
      cell.append(axis);
      return cell;
    }));
    const body = rows.map((row, i) => {
      const line = document.createElement("tr");
      const name = made("th", "", { scope: "row" });
      name.append(row.page ? made("a", row.name, { href: row.page }) : made("span", row.name));
      line.append(name, ...panels.map(({ cells }) => {
        const cell = document.createElement("td");
        const box = made("span", "", { class: "dots" });
        box.append(made("i", "", { class: "zero", style: `left:${at(0)}%` }));
        const one = cells[i];
        const skill = one ? number(one.skill) : null;
        if (skill !== null) {
          for (const kind of ["recipe", "seeds"]) if (ends(one[kind])) box.append(bar(kind, ends(one[kind])));
          const dot = svg("svg", { viewBox: "-6 -6 12 12", width: 12, height: 12, style: `left:${at(skill)}%`, "aria-hidden": "true" });
          dot.append(skill < low ? svg("path", { d: "M-4,0L3,-4V4Z", fill: colour(row.place) }) : mark(row.place));
          box.append(dot);
          const text = `${one.skill}; a new recipe ${one.recipe}; new seeds ${one.seeds}`;
          box.title = `${row.name}, ${text}`;
          box.append(made("span", text, { class: "unseen" }));
        } else box.append(made("span", "no value", { class: "unseen" }));
        cell.append(box);
        return cell;
      }));
      return line;
    });
    const said = made("caption", caption);
    const [top, bottom] = [document.createElement("thead"), document.createElement("tbody")];
    top.append(head);
    bottom.append(...body);
    table.replaceChildren(said, top, bottom);
  }

  window.moeloadCharts = {
    draw, legend, keys, forest, extent, number, element: made, colour, shape, DASHES,
    onTheme: (redraw) => dark.addEventListener("change", redraw),
  };
})();
