// A trace's page: charts of shares, loads, drift and states from the page's data.
"use strict";
(() => {
  const { specs, charts } = JSON.parse(document.getElementById("trace-data").textContent);
  const STATES = { transient: "#e69f00", mixed: "#999999", stable: "#56b4e9" };
  const { edges, layers, parts, shifts, rule } = charts;
  const middle = (n) => (edges[n] + edges[n + 1]) / 2;
  const experts = layers[0].share[0].length;
  const shiftRows = shifts.map((step) => ({ step }));
  const spansOf = (layer) => (layer.spans || []).map(([start, end, state]) => ({ start, end, state, layer: layer.name }));
  const byId = (id) => document.getElementById(id);

  // Experts of a layer from the least to the most loaded: their colours are along one scale.
  function ranks(layer) {
    const total = layer.share[0].map((_, e) => layer.share.reduce((sum, row) => sum + (row[e] || 0), 0));
    const order = total.map((_, e) => e).sort((a, b) => total[a] - total[b]);
    return Object.fromEntries(order.map((e, rank) => [e, rank / Math.max(1, experts - 1)]));
  }

  const cellsOf = (layer) => layer.share.flatMap((row, n) => row.map((share, expert) => ({
    step: edges[n], end: edges[n + 1], middle: middle(n), expert, share })).filter((one) => one.share !== null));

  function panels(box, kind, renderer) {
    const figures = layers.map((layer) => {
      const figure = document.createElement("figure");
      figure.className = "chart";
      const caption = document.createElement("figcaption");
      caption.textContent = `layer ${layer.name}`;
      figure.append(caption, document.createElement("div"));
      return figure;
    });
    box.replaceChildren(...figures);
    layers.forEach((layer, i) => {
      const cells = cellsOf(layer);
      const rank = ranks(layer);
      window.moeloadCharts.draw(figures[i].lastChild, specs[kind], {
        spans: spansOf(layer), shifts: shiftRows, even: [{ share: 1 / experts }],
        lines: cells.map((one) => ({ step: one.middle, expert: one.expert, share: one.share / parts, rank: rank[one.expert] })),
        cells: cells.filter((one) => one.share > 0).map((one) => {
          const times = one.share * experts / parts;
          return { step: one.step, end: one.end, expert: one.expert, times, load: Math.log2(times) };
        }),
        dead: cells.filter((one) => one.share === 0),
      }, renderer);
    });
  }

  function show() {
    panels(byId("shares"), "shares", "canvas");
    panels(byId("heat"), "loads", "canvas");
    if (rule) {
      const rank = (i) => i / Math.max(1, layers.length - 1);
      window.moeloadCharts.draw(byId("drift"), specs.drift, {
        drift: layers.flatMap((layer, i) => layer.drift.map((value, n) => ({ step: middle(n), layer: layer.name, drift: value / parts, rank: rank(i) }))
          .filter((_, n) => layer.drift[n] !== null)),
        rules: [{ drift: rule.high, what: `above ${rule.high}: transient` }, { drift: rule.low, what: `long below ${rule.low}: stable` }],
        shifts: shiftRows,
      });
      window.moeloadCharts.draw(byId("layer-states"), { ...specs.states, height: 18 * layers.length + 10 }, {
        bars: layers.flatMap(spansOf),
        bands: layers.filter((layer) => layer.band).map((layer) => ({ start: layer.band[0], end: layer.band[1], layer: layer.name })),
        onsets: layers.filter((layer) => layer.onset !== null).map((layer) => ({ step: layer.onset, layer: layer.name })),
      });
    }
    window.moeloadCharts.keys(byId("state-keys"), Object.entries(STATES).filter(([state]) => layers.some((layer) => spansOf(layer).some((one) => one.state === state))));
  }

  window.moeloadCharts.onTheme(show);
  show();
})();
