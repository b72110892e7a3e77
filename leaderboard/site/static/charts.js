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
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (i) => (dark.matches ? DARK : LIGHT)[i % LIGHT.length];
  const shape = (i) => SHAPES[i % SHAPES.length];

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
      script.src = "assets/vega.js";
      script.onload = () => resolve(window.vegaEmbed);
      script.onerror = () => reject(new Error("assets/vega.js cannot be read"));
      document.head.append(script);
    }));
    return vega;
  }

  // Draws one chart into an element. Layers without rows are left out; the promise stays on the element for tests.
  function draw(element, spec, datasets) {
    const full = JSON.parse(JSON.stringify(spec));
    full.layer = full.layer.filter((layer) => datasets[layer.data.name].length > 0);
    full.datasets = datasets;
    element.moeloadDatasets = datasets;
    if (full.layer.length === 0) {
      element.textContent = "No values here.";
      return;
    }
    const options = { ast: true, actions: false, renderer: "svg", mode: "vega-lite", config: theme(),
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

  // One legend for all charts: a mark per forecaster, a dashed line per floor.
  function legend(list, names, floors) {
    list.replaceChildren(
      ...names.map((name, i) => key(svg("path", { d: shape(i), transform: "scale(4.4)", fill: colour(i) }), name)),
      ...floors.map((name) => key(svg("path", { d: "M-12,0H12", stroke: "currentColor", "stroke-dasharray": DASHES[name].join(" ") }), name)),
    );
  }

  window.moeloadCharts = { draw, legend, colour, shape, DASHES, onTheme: (redraw) => dark.addEventListener("change", redraw) };
})();
