// Draws the report's charts from the data in the page, and answers filters and the pointer.
"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const one = (query, root = document) => root.querySelector(query);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  let cost_axis = "updates";
  let active = new Set(D.runs.keys());

  // ---- elements ----------------------------------------------------------------------------
  function svg(name, attributes, style, parent) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    Object.assign(made.style, style || {});
    if (parent) parent.append(made);
    return made;
  }
  function html(name, className, text, parent) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }
  function swatch(line, parent) {
    const made = svg("svg", { width: 26, height: 8, viewBox: "0 0 26 8", class: "key" }, {}, parent);
    const style = { stroke: line.colour, strokeWidth: 2.4, strokeDasharray: line.dash };
    svg("line", { x1: 0, y1: 4, x2: 26, y2: 4 }, style, made);
  }

  // ---- numbers -----------------------------------------------------------------------------
  const isNumber = (value) => value !== null && value !== undefined;
  const UNITS = Object.fromEntries(D.cost_axes.map((each) => [each.name, each]));
  function unitOf(name, largest) {
    const units = UNITS[name].units;
    return units.find(([size]) => largest > 5 * size) || units[units.length - 1] || [1, ""];
  }
  function text(value, percent) {
    if (percent) return `${(100 * value).toFixed(1)} %`;
    const size = Math.abs(value);
    if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(2);
    return String(+value.toPrecision(4));
  }
  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(n * step);
    return found.map((value) => +value.toPrecision(12));
  }

  // ---- curves ------------------------------------------------------------------------------
  // A series of a run: [step, x, y] wherever it was logged.
  function points(run, grid, key, index) {
    const at = D.runs[run].grids[grid], x = at[cost_axis];
    let values = at.series[key];
    if (index !== undefined && values) values = values[index];
    if (!values || !x) return [];
    const found = [];
    values.forEach((y, i) => { if (isNumber(y) && isNumber(x[i])) found.push([at.step[i], x[i], y]); });
    return found;
  }
  const runsOf = (label) => D.labels[label].runs.filter((run) => active.has(run));
  function averaged(runs) {
    const finished = runs.filter((run) => D.runs[run].finished);
    return finished.length ? finished : runs;
  }
  // Mean over seeds, with Student's 95 % interval, at the steps that all of them have.
  function mean(lines) {
    const at = new Map();
    for (const line of lines) for (const [step, x, y] of line) {
      if (!at.has(step)) at.set(step, []);
      at.get(step).push([x, y]);
    }
    const found = [];
    for (const [step, values] of [...at].sort((a, b) => a[0] - b[0])) {
      const n = values.length;
      if (n < lines.length) continue;
      const x = values.reduce((sum, value) => sum + value[0], 0) / n;
      const y = values.reduce((sum, value) => sum + value[1], 0) / n;
      const spread = values.reduce((sum, value) => sum + (value[1] - y) ** 2, 0);
      const half = n > 1 ? D.quantiles[n - 2] * Math.sqrt(spread / (n - 1) / n) : 0;
      found.push({ step, x, y, half, n });
    }
    return found;
  }
  function labelLines(spec) {
    return shownLabels().map((label) => {
      const runs = runsOf(label), lines = new Map();
      for (const run of runs) {
        const line = points(run, spec.grid, spec.key, spec.index);
        if (line.length) lines.set(run, line);
      }
      const counted = averaged(runs).filter((run) => lines.has(run)).map((run) => lines.get(run));
      const seeds = [...lines].map(([run, line]) => ({ line, finished: D.runs[run].finished }));
      return { ...D.labels[label], mean: mean(counted), seeds };
    }).filter((line) => line.seeds.length);
  }
  const shownLabels = () => [...D.labels.keys()].filter((label) => runsOf(label).length);

  // ---- one panel ---------------------------------------------------------------------------
  // The steep first twentieth is left above the frame where it would flatten the rest.
  function range(lines, end, also) {
    const values = [], later = [];
    for (const { mean, seeds } of lines) {
      for (const { line } of seeds) for (const [, x, y] of line) { values.push(y); if (x >= 0.05 * end) later.push(y); }
      for (const { x, y, half } of mean) if (x >= 0.05 * end) later.push(y - half, y + half);
    }
    values.push(...also);
    let low = Math.min(...values, ...later), high = Math.max(...values, ...later);
    // Bands of two or three seeds may be far wider than the curves: they are cut at their range.
    const span = Math.max(...values) - Math.min(...values);
    low = Math.max(low, Math.min(...values) - 0.5 * span);
    high = Math.min(high, Math.max(...values) + 0.5 * span);
    const top = Math.max(...later.filter((y) => y <= high), low);
    if (top - low < 0.6 * (high - low)) high = top;
    const margin = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low - margin, high + margin];
  }

  // Of single points: their intervals, all of them, as far as shares can lie there.
  function whole(lines) {
    const ends = lines.flatMap(({ mean }) => [mean[0].y - mean[0].half, mean[0].y + mean[0].half]);
    const low = Math.max(0, Math.min(...ends)), high = Math.min(1, Math.max(...ends));
    const margin = 0.06 * (high - low) || 0.05;
    return [low - margin, high + margin];
  }

  function frame(panel, xs, ys, spec) {
    const width = Math.max(220, panel.clientWidth), height = spec.tall ? Math.min(380, Math.max(240, 0.5 * width)) : 190;
    const labels = ticks(ys[0], ys[1], spec.tall ? 7 : 6).filter((y) => y >= ys[0] && y <= ys[1]);
    const shown = labels.map((y) => spec.percent ? `${+(100 * y).toPrecision(3)} %` : String(y));
    const left = 12 + 6.6 * Math.max(2, ...shown.map((each) => each.length)), right = spec.right || 12;
    const top = 8, bottom = 40;
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spec.title }, {}, panel);
    const X = (x) => left + (x - xs[0]) / (xs[1] - xs[0] || 1) * (width - left - right);
    const Y = (y) => height - bottom - (y - ys[0]) / (ys[1] - ys[0] || 1) * (height - top - bottom);
    labels.forEach((y, i) => {
      svg("line", { x1: left, x2: width - right, y1: Y(y), y2: Y(y), class: "rule" }, {}, root);
      svg("text", { x: left - 6, y: Y(y) + 4, class: "tick end" }, {}, root).textContent = shown[i];
    });
    const [size, unit] = unitOf(cost_axis, xs[1]);
    for (const tick of ticks(xs[0] / size, xs[1] / size, Math.max(4, Math.floor(width / 90)))) {
      svg("line", { x1: X(tick * size), x2: X(tick * size), y1: height - bottom, y2: height - bottom + 4, class: "axis" }, {}, root);
      svg("text", { x: X(tick * size), y: height - bottom + 17, class: "tick middle" }, {}, root).textContent = tick.toLocaleString("en");
    }
    svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }, {}, root);
    const name = UNITS[cost_axis].axis + (unit ? ` (${unit})` : "");
    svg("text", { x: (left + width - right) / 2, y: height - 5, class: "tick middle" }, {}, root).textContent = name;
    const id = `clip-${frame.count = (frame.count || 0) + 1}`;
    const clip = svg("clipPath", { id }, {}, root);
    svg("rect", { x: left, y: top - 3, width: width - left - right, height: height - top - bottom + 4 }, {}, clip);
    const inside = svg("g", { "clip-path": `url(#${id})` }, {}, root);
    return { root, inside, X, Y, left, right, top, bottom, width, height };
  }

  const path = (pairs, X, Y) => pairs.map(([x, y], i) => `${i ? "L" : "M"}${X(x).toFixed(1)},${Y(y).toFixed(1)}`).join("");

  function linePanel(panel, spec, lines) {
    panel.replaceChildren();
    if (spec.title && !spec.bare) html("h3", "", spec.title, panel);
    if (!lines.length) { html("p", "empty", `not logged against ${UNITS[cost_axis].axis}`, panel); return; }
    if (spec.unit) html("p", "unit", spec.unit, panel);
    const levels = spec.levels || [];
    const end = Math.max(...lines.flatMap((each) => each.seeds.flatMap(({ line }) => line.map(([, x]) => x))));
    const dotted = lines.every((each) => each.mean.length === 1);
    const ys = dotted ? whole(lines) : range(lines, end, levels.map((each) => each.y));
    if (spec.zero) ys[0] = 0;
    const box = frame(panel, [0, end * 1.01], ys, spec), { X, Y, inside } = box;
    const several = lines.length > D.mostWithSeeds;
    for (const { y, colour } of levels) {
      svg("line", { x1: box.left, x2: box.width - box.right, y1: Y(y), y2: Y(y) }, { stroke: colour, strokeWidth: 1.2, strokeDasharray: "5 4" }, inside);
    }
    for (const { mean: curve, colour } of lines) {
      if (!curve.some(({ half }) => half > 0)) continue;
      const upper = curve.map(({ x, y, half }) => [x, y + half]);
      const lower = curve.map(({ x, y, half }) => [x, y - half]).reverse();
      svg("path", { d: `${path([...upper, ...lower], X, Y)}Z` }, { fill: colour, opacity: Math.min(0.18, 0.7 / lines.length) }, inside);
    }
    for (const { seeds, colour } of lines) for (const { line, finished } of seeds) {
      if (finished && (several || seeds.length < 2)) continue;
      const style = { stroke: colour, strokeWidth: 0.8, opacity: 0.45, strokeDasharray: finished ? "" : "2 2" };
      svg("path", { d: path(line.map(([, x, y]) => [x, y]), X, Y), class: "line" }, style, inside);
    }
    lines.forEach(({ mean: curve, colour, dash }, place) => {
      const style = { stroke: colour, strokeWidth: 2, strokeDasharray: dash };
      svg("path", { d: path(curve.map(({ x, y }) => [x, y]), X, Y), class: "line" }, style, inside);
      if (curve.length === 1) {
        // Equal places side by side, to the left of where they are.
        const { x, y, half } = curve[0], at = X(x) - 6 - 9 * (dotted ? lines.length - 1 - place : 0);
        svg("line", { x1: at, x2: at, y1: Y(y - half), y2: Y(y + half) }, { stroke: colour, strokeWidth: 1.5 }, inside);
        svg("circle", { cx: at, cy: Y(y), r: 4 }, { fill: colour }, inside);
      }
    });
    hover(panel, box, lines.flatMap((each) => each.mean.map(({ x }) => x)), (x) => lines.map((each) => {
      const near = nearest(each.mean, x);
      return near && { colour: each.colour, dash: each.dash, name: each.name, x: near.x, y: near.y, value: text(near.y, spec.percent) + (near.n > 1 ? ` ± ${text(near.half, spec.percent)}` : ""), step: near.step };
    }).filter(Boolean).sort((a, b) => b.y - a.y));
  }
  function nearest(curve, x) {
    if (!curve.length || x > 1.03 * curve[curve.length - 1].x + 1e-9) return null;
    return curve.reduce((best, each) => Math.abs(each.x - x) < Math.abs(best.x - x) ? each : best);
  }

  // ---- the pointer -------------------------------------------------------------------------
  function hover(panel, box, xs, read) {
    const { root, X, left, right, top, bottom, width, height } = box;
    if (!xs.length) return;
    const rule = svg("line", { y1: top, y2: height - bottom, class: "cursor" }, { display: "none" }, root);
    const dots = svg("g", {}, {}, root);
    const tip = html("div", "tip", "", panel);
    tip.hidden = true;
    const leave = () => { tip.hidden = true; rule.style.display = "none"; dots.replaceChildren(); };
    // A finger that is lifted leaves its values standing.
    root.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
    const move = (event) => {
      const place = event.clientX - root.getBoundingClientRect().left;
      if (place < left - 8 || place > width - right + 8) return leave();
      const x = xs.reduce((best, each) => Math.abs(X(each) - place) < Math.abs(X(best) - place) ? each : best);
      const rows = read(x);
      if (!rows.length) return leave();
      const [size, unit] = unitOf(cost_axis, xs.reduce((a, b) => Math.max(a, b)));
      rule.style.display = "";
      rule.setAttribute("x1", X(x)); rule.setAttribute("x2", X(x));
      dots.replaceChildren();
      tip.replaceChildren();
      const where = cost_axis === "updates" ? `update ${text(x)}` : `${text(x / size)}${unit.startsWith("10") ? " ×" : ""} ${unit} ${cost_axis === "seconds" ? "" : UNITS[cost_axis].axis}`;
      html("b", "", where, tip);
      for (const row of rows.slice(0, 12)) {
        const entry = html("div", "", "", tip);
        swatch(row, entry);
        html("span", "", row.value, entry);
        html("i", "", row.name, entry);
        if (row.y !== undefined && box.Y && xs.length > rows.length) svg("circle", { cx: X(row.x), cy: box.Y(row.y), r: 3.2 }, { fill: row.colour }, dots);
      }
      if (rows.length > 12) html("i", "", `and ${rows.length - 12} more`, tip);
      tip.hidden = false;
      const space = panel.clientWidth - tip.offsetWidth;
      tip.style.left = `${Math.max(0, Math.min(space, X(x) + (X(x) > width / 2 ? -tip.offsetWidth - 12 : 12)))}px`;
      tip.style.top = `${root.getBoundingClientRect().top - panel.getBoundingClientRect().top + 6}px`;
    };
    root.addEventListener("pointermove", move);
    root.addEventListener("pointerdown", move);
  }

  // ---- the domain mix ----------------------------------------------------------------------
  function mixPanel(panel, label, spec) {
    panel.replaceChildren();
    html("h3", "", label.name, panel);
    const runs = averaged(label.runs.filter((run) => active.has(run)));
    const domains = label.domains, count = domains.length;
    const curves = domains.map((_, p) => mean(runs.map((run) => points(run, "drawn", "mix", p)).filter((line) => line.length)));
    if (!curves[0].length) { html("p", "empty", `not logged against ${UNITS[cost_axis].axis}`, panel); return; }
    const end = curves[0][curves[0].length - 1].x, first = curves[0][0].x;
    const box = frame(panel, [first, end], [0, 1], { ...spec, title: label.name, percent: true, right: 58 });
    const { X, Y, inside, root } = box;
    const lower = curves[0].map(() => 0);
    for (let p = 0; p < count; p++) {
      const upper = curves[p].map(({ y }, i) => lower[i] + y);
      const ring = [...curves[p].map(({ x }, i) => [x, upper[i]]), ...curves[p].map(({ x }, i) => [x, lower[i]]).reverse()];
      svg("path", { d: `${path(ring, X, Y)}Z` }, { fill: D.domains[domains[p]], stroke: "var(--paper)", strokeWidth: 0.5 }, inside);
      upper.forEach((y, i) => { lower[i] = y; });
    }
    let base = 0;
    label.pool.forEach((share, p) => {
      const x = X(end) + 10;
      svg("rect", { x, width: 18, y: Y(base + share), height: Y(base) - Y(base + share) }, { fill: D.domains[domains[p]], stroke: "var(--paper)", strokeWidth: 0.5 }, root);
      base += share;
    });
    svg("text", { x: X(end) + 19, y: Y(0) + 17, class: "tick middle" }, {}, root).textContent = "pool";
    hover(panel, { ...box, Y: null }, curves[0].map(({ x }) => x), (x) => domains.map((domain, p) => {
      const near = nearest(curves[p], x);
      return { colour: D.domains[domain], dash: "", name: `${domain} (pool ${text(label.pool[p], true)})`, x, value: text(near.y, true) };
    }).reverse());
  }

  // ---- the page ----------------------------------------------------------------------------
  const panelsOf = new Map();
  function panels(figure, count) {
    const grid = one(".panels", figure);
    while (grid.children.length < count) html("div", "panel", "", grid);
    while (grid.children.length > count) grid.lastChild.remove();
    return [...grid.children];
  }
  function legend(figure, lines) {
    const place = one(".legend", figure);
    if (!place) return;
    place.replaceChildren();
    for (const line of lines) {
      const entry = html("span", "", "", place);
      swatch(line, entry);
      html("i", "", line.name, entry);
    }
  }
  function levelsOf(chart) {
    if (chart.id === "validation_loss") {
      return D.labels.filter((label, i) => isNumber(label.target) && runsOf(i).length).map((label) => ({ y: label.target, colour: label.colour }));
    }
    if (chart.id === "overlap") return isNumber(D.chance) ? [{ y: D.chance, colour: "var(--muted)" }] : [];
    if (chart.id === "corrupted_share") return isNumber(D.corruptedPool) ? [{ y: D.corruptedPool, colour: "var(--ink)" }] : [];
    return [];
  }
  function drawFigure(figure) {
    const chart = D.charts.find((each) => each.id === figure.dataset.chart);
    if (chart.kind === "mix") {
      const shown = shownLabels().map((i) => D.labels[i]).filter((label) => label.pool.length).slice(0, D.mostMixes);
      panels(figure, shown.length).forEach((panel, i) => mixPanel(panel, shown[i], chart));
      legend(figure, Object.entries(D.domains).map(([name, colour]) => ({ name, colour, dash: "" })));
      return;
    }
    const bare = chart.panels.length === 1;
    const drawn = chart.panels.map((panel) => ({ ...chart, ...panel, bare, levels: levelsOf(chart) }));
    const lines = drawn.map(labelLines);
    const kept = drawn.map((_, i) => i).filter((i) => lines[i].length || drawn.length === 1);
    panels(figure, kept.length).forEach((panel, i) => linePanel(panel, drawn[kept[i]], lines[kept[i]]));
    const names = new Set(lines.flatMap((each) => each.map(({ name }) => name)));
    legend(figure, D.labels.filter(({ name }) => names.has(name)));
  }
  function drawRun(section) {
    const run = +section.dataset.run, { label } = D.runs[run], figure = one("figure", section);
    const specs = D.charts.filter((chart) => chart.kind === "lines").flatMap((chart) => chart.panels.map((panel) => ({ ...chart, ...panel, tall: false, title: panel.title || chart.title })));
    const lines = specs.map((spec) => points(run, spec.grid, spec.key, spec.index));
    const kept = specs.map((_, i) => i).filter((i) => lines[i].length);
    panels(figure, kept.length).forEach((panel, i) => {
      const curve = lines[kept[i]].map(([step, x, y]) => ({ step, x, y, half: 0, n: 1 }));
      const { colour, name } = D.labels[label];
      linePanel(panel, specs[kept[i]], [{ name, colour, dash: "", mean: curve, seeds: [{ line: lines[kept[i]], finished: true }] }]);
    });
  }
  function draw() {
    const page = one(".run:target");
    if (page) drawRun(page);
    else all("figure[data-chart]").forEach(drawFigure);
  }

  function filter() {
    const off = new Map();
    for (const input of all("[data-facet]")) {
      if (input.checked) continue;
      if (!off.has(input.dataset.facet)) off.set(input.dataset.facet, new Set());
      off.get(input.dataset.facet).add(input.value);
    }
    active = new Set([...D.runs.keys()].filter((run) => Object.entries(D.runs[run].facets).every(([facet, value]) => !(off.get(facet) || new Set()).has(value))));
    for (const row of all("tr[data-run]")) row.hidden = !active.has(+row.dataset.run);
    for (const row of all("[data-label]")) row.hidden = !runsOf(+row.dataset.label).length;
    one("#shown").textContent = `${active.size} of ${D.runs.length} runs shown`;
    draw();
  }

  document.body.classList.add("scripted");
  for (const input of all("[data-facet]")) input.addEventListener("change", filter);
  for (const input of all("[name=cost_axis]")) input.addEventListener("change", () => { cost_axis = input.value; draw(); });
  one("#reset").addEventListener("click", () => {
    for (const input of all("[data-facet]")) input.checked = input.defaultChecked;
    filter();
  });
  for (const button of all("[data-only]")) button.addEventListener("click", () => {
    const mine = all(`[data-facet="${button.dataset.only}"][type=checkbox]`);
    const clear = mine.some((input) => input.checked);
    mine.forEach((input) => { input.checked = !clear; });
    filter();
  });
  if (matchMedia("(max-width: 40rem)").matches) one(".filters").open = false;
  addEventListener("hashchange", () => { draw(); if (one(".run:target")) scrollTo(0, 0); });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  filter();
})();
