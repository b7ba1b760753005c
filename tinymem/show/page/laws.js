"use strict";
// The power law of a choice of rows, its points and residuals, and the recall law with its curves.

const LOOKS = [ // of ranks: colours, shapes and dashes, so that no two ranks share all three
  { shape: "circle" }, { shape: "square", dash: "6 3" }, { shape: "triangle", dash: "2 3" }, { shape: "diamond", dash: "9 3 2 3" }];

function look(place) {
  return { colour: place % 5 + 1, ...LOOKS[place % 4] };
}

function careful(text) {
  return el("p", { class: "careful" }, el("strong", {}, "careful: "), text);
}

// --- The power law -------------------------------------------------------------------------------

function powerPart(law) {
  const power = law.power;
  const measures = table("Laws side by side", law.measures.head.map((name, n) => ({ name, right: n > 1 })), law.measures.rows);
  const reasons = law.measures.reasons.map((reason) => el("p", { class: "muted" }, reason));
  if (power.reason) return [el("p", {}, `No power law: ${power.reason}`)];
  const left = power.left_out.length ? ` Left out: ${power.left_out.join(", ")}.` : "";
  return [
    el("p", { class: "formula", id: "formula" }, power.formula), el("p", {}, `${power.runs}.${left}`),
    ...power.warnings.map(careful),
    figures([...power.constants.map(([name, found, interval]) => [name, found, `95 %: ${interval}`]),
      ["R² of ΔL", power.r2.toFixed(3)], ["mean error of ΔL", `${power.mape.toFixed(1)} %`]]),
    agreement(power), residualMap(power),
    el("details", {}, el("summary", {}, "All runs of the law as a table"), pointsTable(power)),
    measures, el("p", { class: "muted" }, data.legend), ...reasons];
}

/** Measured against predicted ΔL of the runs that were fitted. */
function agreement(power) {
  const points = power.points.filter((point) => !point[6]);
  const all = points.flatMap((point) => point.slice(3, 6)).filter((one) => one !== null);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const [start, top] = [low < high / 2 ? Math.min(0, low) : low * 0.95, high * 1.05];
  const kind = (name, at, appearance) => {
    const some = points.filter((point) => point[at] !== null);
    return { name, line: false, points: some.map((point) => [point[3], point[at]]), ...appearance,
      tip: (n) => [`${cellName(some[n][0], some[n][1])}, ${seedName(some[n][2])}`,
        `measured ${number(some[n][3])}, ${name} ${number(some[n][at])} nats per token`,
        `${percent(some[n][at] / some[n][3] - 1)} off`] };
  };
  const series = [{ name: "equal", points: [[start, start], [top, top]], colour: 5, dash: "4 3" },
    kind("constant bits", 5, { colour: 2, shape: "square" }), kind("power law", 4, { colour: 1, shape: "circle" })];
  return chart({
    title: "Predicted against measured loss reduction ΔL", height: 320,
    summary: `${count(points.length, "run")}; the power law is off by ${power.mape.toFixed(1)} % on average.`,
    x: { label: "measured ΔL (nats per token)", range: [start, top] },
    y: { label: "predicted ΔL", range: [start, top] },
    series: series.filter((one) => one.points.length),
  }).node;
}

function seedName(seed) {
  return seed === null ? "a run" : `seed ${seed}`;
}

function percent(share) {
  return `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)} %`;
}

/** By cell, how far the law's ΔL is above or below the measured one; saturated cells are not fitted. */
function residualMap(power) {
  const cells = new Map();
  for (const point of power.points) {
    const key = `${point[0]} ${point[1]}`;
    cells.set(key, [...(cells.get(key) || []), point]);
  }
  const cell = (rank, length) => {
    const some = cells.get(`${rank} ${length}`);
    if (!some) return el("td", { class: "none" }, "–");
    const fitted = some.filter((point) => !point[6]);
    const off = fitted.length ? mean(fitted.map((point) => point[4] / point[3] - 1)) : null;
    const full = some.length - fitted.length;
    const text = off === null ? "saturated" : percent(off);
    const depth = Math.min(Math.abs(off) / 0.1, 1) * 0.45;
    const lines = [`${cellName(rank, length)}: ${text}`, `${count(fitted.length, "run")} fitted`];
    if (full) lines.push(`${count(full, "run")} saturated (final loss ≤ ln 2) and left out`);
    const show = () => showTip(button, ...lines.map((line) => el("div", {}, line)),
      ...fitted.slice(0, TIP_RUNS).map((point) => el("div", {},
        `${seedName(point[2])}: measured ${number(point[3])}, by the law ${number(point[4])}`)));
    const button = el("button", {
      type: "button", tabindex: -1, "aria-label": lines.join(", "), class: off === null ? "failed" : "residual",
      style: off === null ? null : `background: rgb(${off < 0 ? "213 94 0" : "0 114 178"} / ${depth.toFixed(3)})`,
      mouseenter: show, mouseleave: hideTip, focus: show, blur: hideTip, click: show,
    }, text, full && off !== null ? el("span", { class: "marks" }, " s") : null);
    return el("td", {}, button);
  };
  const node = cellTable("Residuals: how far the law's ΔL lies above (+) or below (−) the measured one, by cell",
    power.points.map((point) => point[0]), power.points.map((point) => point[1]), cell);
  return el("div", { class: "map" }, node, el("p", { class: "muted" },
    "s: some runs are saturated (final loss ≤ ln 2) and left out of the fit"));
}

function pointsTable(power) {
  const columns = ["rank", "tokens", "seed", "measured ΔL", "power law", "constant bits", ""]
    .map((name, n) => ({ name, right: n > 0 }));
  return table("Runs, ΔL in nats per token", columns, power.points.map(([rank, length, seed, measured, ours, bits, full]) =>
    [whole(rank), whole(length), seed === null ? "–" : String(seed), number(measured), number(ours), number(bits),
      full ? "saturated" : "fitted"]));
}

// --- The recall law ------------------------------------------------------------------------------

function recallPart(law) {
  const recall = law.recall;
  if (recall.reason) return [el("p", {}, `No recall law: ${recall.reason}`)];
  const known = Math.min(...recall.halves.map((half) => half.length)); // columns
  const halves = ["rank", "tokens", "bits per parameter"].slice(0, known).map((name, n) => ({ name, right: n > 0 }));
  const columns = ["rank", "tokens", recall.unit, "recited", "runs"].map((name, n) => ({ name, right: n > 0 }));
  return [
    recallChart(recall), figures(recall.facts),
    recall.halves.length ? table("Half of the runs of a rank recite so many tokens whole", halves, recall.halves) : "",
    el("details", {}, el("summary", {}, "The measured cells as a table"),
      table("Runs that recite everything, by cell", columns, recall.cells.map(([rank, length, load, recited, all]) =>
        [whole(rank), whole(length), brief(Number(load.toPrecision(3))), whole(recited), whole(all)]))),
    el("p", { class: "muted" }, "width: the length that 10 % of the runs recite, divided by the one that 90 % " +
      "recite. This recall law is tinymem's own, not the paper's.")];
}

function recallChart(recall) {
  const series = recall.lines.map((line, place) => {
    const cells = recall.cells.filter((cell) => cell[0] === line.rank);
    return { name: `rank ${whole(line.rank)}`, points: line.points.map(([load, p]) => [load, 100 * p]), ...look(place),
      marks: cells.map(([, , load, recited, all]) => [load, 100 * recited / all]),
      tip: (n) => [cellName(cells[n][0], cells[n][1]), `${cells[n][3]} of ${count(cells[n][4], "run")} recited`,
        `${Number(cells[n][2].toPrecision(3))} ${recall.unit}`] };
  });
  return chart({
    title: "Runs that recite everything, by load: curves of the law, and the measured cells as points", height: 280,
    summary: recall.halves.map((half) => `half of the runs of rank ${half[0]} recite ${half[1]} tokens`).join(", "),
    x: { label: `load (${recall.unit})`, log: true },
    y: { label: "runs that recite (%)", range: [-4, 104], ticks: [0, 25, 50, 75, 100] }, series,
  }).node;
}
