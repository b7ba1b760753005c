"use strict";
// Heat maps of a sweep: a measure of every cell, which is a rank and a length, and its runs.
//
// Each map is a table with a button in each cell, so that a screen reader can read it as a table.
// Tab goes to one cell of a map and the arrow keys go on from there.

const TIP_RUNS = 6; // in a tooltip; all are in the table that a click opens
const FIRST_FIELDS = [ // of a run; the others are shown on demand
  "status", "base_loss", "final_loss", "memorized_bits_per_parameter", "bits_per_parameter", "recall_exact",
  "certified_fraction", "token_accuracy", "first_error", "min_margin", "min_probability", "converged", "steps"];
const FAILED = { diverged: "diverged", oom: "out of memory", interrupted: "interrupted", missing: "missing" };

/** A field of a run; runs are numbered, and what all have in common is stored once. */
function value(run, name) {
  const column = data.columns[name];
  const found = column ? column[run] : data.common[name];
  return found === undefined ? null : found;
}

function isGood(run) {
  return (value(run, "status") || "ok") === "ok";
}

/** The different values, in order. */
function distinct(values) {
  return [...new Set(values)].sort((a, b) => a - b);
}

function mean(values) {
  return values.reduce((sum, one) => sum + one, 0) / values.length;
}

/** The mean of a measure over the runs of a cell that did not fail, or null. */
function meanOf(runs, measure) {
  const known = runs.filter(isGood).map((run) => value(run, measure.field)).filter((one) => ["number", "boolean"].includes(typeof one));
  if (!known.length) return null;
  return mean(known.map(Number)) * (measure.percent ? 100 : 1);
}

/** A mean as text: losses as the terminal prints them, and 100 % only of what is whole. */
function meanText(found, measure) {
  if (measure.percent) return `${found === 100 ? 100 : Math.min(Math.round(found), 99)} %`;
  return measure.field.endsWith("loss") ? number(found) : found.toFixed(2);
}

/** What sets a cell apart, as a sign and in words. */
function marks(runs) {
  const good = runs.filter(isGood);
  const every = (name) => good.length > 0 && good.every((run) => value(run, name) === true);
  const found = [];
  if (every("certified")) found.push(["✓✓", "recited and certified"]);
  else if (every("recited")) found.push(["✓", "recited"]);
  if (good.some((run) => value(run, "converged") === false)) found.push(["*", "not converged"]);
  for (const [status, words] of Object.entries(FAILED)) {
    const some = runs.filter((run) => value(run, "status") === status).length;
    if (some && good.length) found.push([status === "missing" ? "…" : "!", `${some} ${words}`]);
  }
  return found;
}

const LEGEND = ["✓ recited by every run", "✓✓ certified too (every p > ½)", "* not converged", "! some runs failed",
  "… some runs are missing", "– not measured", "numbers are means of the runs"];

function cellName(rank, length) {
  return `rank ${whole(rank)}, ${count(length, "token")}`;
}

/** The section of all maps, with a choice of the measure. */
function mapsSection() {
  const boxes = data.maps.map((one) => ({ ...one, box: el("div") }));
  const pick = el("select", { id: "measure", change: () => draw() },
    ...data.measures.map((one, n) => el("option", { value: n }, one.label)));
  const draw = () => {
    const measure = data.measures[Number(pick.value)];
    const found = boxes.flatMap((one) => [...cellsOf(one.rows).values()].map((runs) => meanOf(runs, measure)));
    const top = measure.percent ? 100 : Math.max(1e-9, ...found.filter((one) => one !== null));
    for (const one of boxes) one.box.replaceChildren(heatMap(one, measure, top));
  };
  if (data.measures.length) draw();
  else for (const one of boxes) one.box.replaceChildren(heatMap(one, { field: "", label: "" }, 1));
  return section("Ranks and lengths",
    el("p", { class: "choice" }, el("label", { for: "measure" }, "Show "), pick),
    el("p", { class: "muted" }, "A cell shows its runs under the pointer or the focus; a click or Enter opens " +
      "all of their fields. Arrow keys go from cell to cell."),
    el("div", { class: "maps" }, ...boxes.map((one) => one.box)), el("ul", { class: "legend muted" }, ...LEGEND.map((one) => el("li", {}, one))));
}

/** The runs of each cell: "rank length" -> numbers of the runs. */
function cellsOf(rows) {
  const cells = new Map();
  for (const run of rows) {
    const key = `${value(run, "rank")} ${value(run, "length")}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(run);
  }
  return cells;
}

function heatMap(one, measure, top) {
  const cells = cellsOf(one.rows);
  const below = el("div", { class: "runs" });
  let open = null;
  const cell = (rank, length) => {
    const runs = cells.get(`${rank} ${length}`);
    if (!runs) return el("td", { class: "none" }, "–");
    const found = meanOf(runs, measure);
    const extra = marks(runs);
    const failed = FAILED[value(runs[0], "status")];
    const text = found === null ? failed || "–" : meanText(found, measure);
    const words = [`${cellName(rank, length)}: ${text}`, count(runs.length, "run"), ...extra.map((mark) => mark[1])];
    const share = measure.field === "final_loss" ? 1 - found / top : found / top;
    const colours = found === null ? null : ramp(share);
    const button = el("button", {
      type: "button", tabindex: -1, "aria-expanded": "false", "aria-label": words.join(", "),
      class: found === null ? "failed" : null,
      style: colours && `background: ${colours.ground}; color: ${colours.text}`,
      mouseenter: () => showTip(button, ...tipOf(one, rank, length, runs)), mouseleave: hideTip,
      focus: () => showTip(button, ...tipOf(one, rank, length, runs)), blur: hideTip,
      click: () => {
        const again = open === button;
        if (open) open.setAttribute("aria-expanded", "false");
        open = again ? null : button;
        below.replaceChildren(...(again ? [] : [runsTable(one, rank, length, runs)]));
        if (open) open.setAttribute("aria-expanded", "true");
      },
    }, text, extra.length ? el("span", { class: "marks" }, ` ${extra.map((mark) => mark[0]).join("")}`) : null);
    return el("td", {}, button);
  };
  const picture = cellTable(measure.label ? `${one.name}: ${measure.label}` : one.name, one.rows.map((run) => value(run, "rank")),
    one.rows.map((run) => value(run, "length")), cell);
  return el("div", { class: "map" }, picture, below);
}

/** A table of ranks (rows) and lengths (columns). cell(rank, length): a td, with a button or not. */
function cellTable(caption, ranks, lengths, cell) {
  const columns = distinct(lengths);
  const above = el("tr", {}, el("td"), el("th", { scope: "colgroup", colspan: columns.length },
    el("span", {}, "length (tokens)")));
  const head = el("tr", {}, el("th", { scope: "col" }, "rank"),
    ...columns.map((length) => el("th", { scope: "col" }, whole(length))));
  const rows = distinct(ranks).map((rank) =>
    el("tr", {}, el("th", { scope: "row" }, whole(rank)), ...columns.map((length) => cell(rank, length))));
  const body = el("tbody", {}, ...rows);
  const node = el("table", { class: "heat", "aria-label": caption, keydown: moveFocus }, el("thead", {}, above, head), body);
  const first = body.querySelector("button");
  if (first) first.tabIndex = 0;
  const box = el("div", { class: "scroll wide" }, node);
  const hint = el("span", { class: "muted", hidden: true }, ` (${count(columns.length, "length")}; scrolls to the side)`);
  new ResizeObserver(() => { hint.hidden = box.scrollWidth <= box.clientWidth; }).observe(box);
  return el("div", {}, el("p", { class: "heat-name" }, caption, hint), box);
}

/** Arrow keys, Home and End: to the next cell with a button in that direction. */
function moveFocus(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1], End: [0, 1] };
  const step = steps[event.key];
  const td = event.target.closest("td");
  if (!step || !td) return;
  event.preventDefault();
  const rows = [...event.currentTarget.tBodies[0].rows];
  let [row, column, next] = [rows.indexOf(td.parentNode), td.cellIndex, null];
  for (;;) {
    row += step[0];
    column += step[1];
    const there = rows[row] && rows[row].cells[column];
    if (!there) break;
    const button = there.querySelector("button");
    if (button) next = button;
    if (button && event.key.startsWith("Arrow")) break;
  }
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// --- The runs of a cell --------------------------------------------------------------------------

function runName(run, place) {
  const seed = value(run, "seed");
  return seed === null ? `run ${place + 1}` : `seed ${seed}`;
}

function tipOf(one, rank, length, runs) {
  const lines = runs.slice(0, TIP_RUNS).map((run, place) => {
    const status = value(run, "status") || "ok";
    if (status !== "ok") return `${runName(run, place)}: ${FAILED[status] || status}`;
    const loss = value(run, "final_loss");
    const parts = [loss === null ? `ΔL ${number(value(run, "delta_loss"))}` : `loss ${number(loss)}`];
    const recited = value(run, "recited");
    if (recited !== null) parts.push(recited ? "recited" : "not recited");
    const sure = value(run, "certified_fraction");
    if (sure !== null) parts.push(`p > ½: ${(100 * sure).toFixed(0)} %`);
    if (value(run, "converged") === false) parts.push("not converged");
    return `${runName(run, place)}: ${parts.join(", ")}`;
  });
  if (runs.length > TIP_RUNS) lines.push(`and ${count(runs.length - TIP_RUNS, "more run")}`);
  return [el("strong", {}, `${one.name}: ${cellName(rank, length)}`), ...lines.map((line) => el("div", {}, line))];
}

/** All fields of the runs of a cell: a row a field, a column a run. */
function runsTable(one, rank, length, runs) {
  const all = [...Object.keys(data.columns), ...Object.keys(data.common)].filter((name) => name !== "recited");
  const first = FIRST_FIELDS.filter((name) => all.includes(name));
  const columns = [{ name: "field" }, ...runs.map((run, place) => ({ name: runName(run, place), right: true }))];
  const rows = (names) => names.filter((name) => runs.some((run) => value(run, name) !== null))
    .map((name) => [el("code", {}, name), ...runs.map((run) => fieldText(value(run, name)))]);
  const caption = `${one.name}: ${cellName(rank, length)}, ${count(runs.length, "run")}`;
  return el("div", { role: "region", "aria-label": caption }, table(caption, columns, rows(first)),
    el("details", {}, el("summary", {}, "All other fields"),
      table("Other fields", columns, rows(all.filter((name) => !first.includes(name))))));
}

function fieldText(found) {
  if (found === null) return "–";
  if (found === true || found === false) return found ? "yes" : "no";
  if (typeof found === "number") return Number.isInteger(found) ? String(found) : number(found);
  return typeof found === "string" ? found : JSON.stringify(found);
}
