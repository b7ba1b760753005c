"use strict";
// The page of a run: the verdict, its tokens with a slider over the steps, the course, the numbers.

const tokens = data.tokens;
const total = tokens.targets.length;
const trace = {
  steps: data.trace.steps,
  p: bytesOf(data.trace.p, Uint8Array),
  margins: data.trace.margins ? bytesOf(data.trace.margins, Int8Array) : null,
};
const verdict = tokens.p.length > 0;
const snapshots = trace.steps.length; // places of the slider before the verdict

// --- What is known of a token at a place of the slider -------------------------------------------

function marginAt(place, t) {
  if (place >= snapshots) return tokens.margins[t] ?? null;
  return trace.margins ? unpackMargin(trace.margins[place * total + t], data.trace.largest) : null;
}

function probabilityAt(place, t) {
  return place >= snapshots ? tokens.p[t] ?? null : unpackP(trace.p[place * total + t]);
}

/** The levels of all tokens at a place of the slider. */
function levelsAt(place) {
  const found = new Uint8Array(total);
  for (let t = 0; t < total; t++) found[t] = levelOf(marginAt(place, t), probabilityAt(place, t));
  return found;
}

function stepAt(place) {
  return place >= snapshots ? data.steps : trace.steps[place];
}

/** A place of the slider in words, with the number of tokens that are there. */
function describePlace(place) {
  const found = tally(levelsAt(place));
  const known = found.levels[UNJUDGED] < total;
  const when = place >= snapshots ? `The verdict, after ${count(data.steps, "step")}` : `After ${count(stepAt(place), "step")}`;
  const parts = [];
  if (found.watched) parts.push(`margin > 0 for ${whole(found.recited)}`);
  if (known) parts.push(`p > ½ for ${whole(found.certified)}`);
  return parts.length ? `${when}: ${parts.join(", ")} of ${count(total, "token")}` : `${when}: no numbers`;
}

// --- Memories: which one is open -----------------------------------------------------------------

let start = 0;
for (const memory of tokens.memories) {
  memory.start = start;
  start += memory.length;
}
let [open, place, levels] = [tokens.memories[0], 0, new Uint8Array(total)];

function facts(t) {
  const id = tokens.targets[t];
  const [margin, p] = [marginAt(place, t), probabilityAt(place, t)];
  const exact = place >= snapshots;
  const about = exact ? "" : "about ";
  const loss = exact ? tokens.losses[t] : p === null ? null : -Math.log(p);
  const lines = [`position ${t - open.start}: ${quoted(tokens, id)}, id ${id}, ${LEVELS[levels[t]].says}`];
  if (p !== null) {
    const known = margin === null ? "" : `margin ${about}${number(margin)} logits, `;
    lines.push(`${known}p ${about}${number(p)}, loss ${about}${number(loss)} nats`);
  }
  return { lines, others: (tokens.likeliest[t] || []).map(([other, p]) => [other, p, other === id]) };
}

const view = tokenView(tokens, "Target tokens; the arrow keys go from one to the next", facts);
const used = new Set();
for (let at = 0; at < snapshots + verdict || at === 0; at++) for (const level of levelsAt(at)) used.add(level);
const legendOfTokens = tokenLegend(used);
const details = el("div");

function openMemory(memory) {
  open = memory;
  view.show(memory.start, memory.start + memory.length);
  details.replaceChildren(
    el("h3", {}, "Prompt"), el("p", { class: "code prompt" }, memory.prompt),
    ...(verdict ? [el("h3", {}, "What decoding yields"), firstError(tokens, memory.start, memory.length)] : []));
}

/** The memories, the worst first, each with a button that opens it. */
function listOfMemories() {
  const known = (values, memory) => values.slice(memory.start, memory.start + memory.length);
  const rows = tokens.memories.map((memory, n) => {
    const margins = known(tokens.margins, memory);
    const same = known(tokens.targets, memory).every((id, t) => id === tokens.decoded[memory.start + t]);
    return { memory, n, lowest: Math.min(...margins), wrong: margins.filter((m) => !(m > 0)).length,
      p: Math.min(...known(tokens.p, memory)), same };
  });
  if (verdict) rows.sort((a, b) => a.lowest - b.lowest || a.n - b.n);
  const buttons = [];
  const cells = rows.map((row) => {
    const button = el("button", { type: "button", click: () => {
      for (const one of buttons) one.setAttribute("aria-pressed", one === button);
      openMemory(row.memory);
    } }, `memory ${row.n}`);
    buttons.push(button);
    const judged = verdict ? [row.same ? "yes" : "no", whole(row.wrong), number(row.lowest), number(row.p)] : [];
    return [button, el("span", { class: "code prompt" }, row.memory.prompt.trim().slice(-60)), whole(row.memory.length), ...judged];
  });
  const numbers = verdict ? ["recited", "wrong tokens", "lowest margin", "lowest p"] : [];
  const columns = [{ name: "" }, { name: "prompt" }, { name: "tokens", right: true }, ...numbers.map((name) => ({ name, right: true }))];
  open = rows[0].memory;
  buttons[0].setAttribute("aria-pressed", "true");
  return table(verdict ? "The memories, the worst first; open one to see its tokens" : "The memories", columns, cells);
}

// --- The course ----------------------------------------------------------------------------------

/** Charts of the loss and of the shares of tokens over the steps. */
function courseCharts() {
  const { steps, loss, recited, certified } = data.course;
  if (steps.length < 2) return [];
  const with_end = (values, last) => {
    const points = steps.map((step, n) => [step, values[n]]);
    return last === null || last === undefined ? points : [...points, [data.steps, last]];
  };
  const share = (values) => values.map((value) => (value === null ? null : 100 * value));
  const final = verdict ? tally(levelsAt(snapshots)) : null;
  const ends = final && { recited: (100 * final.recited) / total, certified: (100 * final.certified) / total };
  const x = { label: data.optimizer === "lbfgs" ? "gradient evaluation" : "step", whole: true, range: [0, Math.max(data.steps, 1)] };
  const lossPoints = with_end(loss, data.final_loss);
  const known = lossPoints.map((point) => point[1]).filter((value) => value !== null);
  const shares = [];
  if (recited.some((value) => value !== null)) {
    shares.push({ name: "margin > 0", points: with_end(share(recited), ends?.recited), colour: 1 });
  }
  shares.push({ name: "p > ½", points: with_end(share(certified), ends?.certified), colour: 2, dash: "6 3" });
  const last = (series) => series.points.at(-1)[1];
  return [
    chart({
      title: "Mean loss, nats per token",
      summary: `From ${number(known[0])} to ${number(known.at(-1))} over ${count(data.steps, "step")}.`,
      x, y: { label: "nats per token", range: [0, Math.max(...known, 1)] },
      series: [{ name: "loss", points: lossPoints, colour: 1 }],
    }),
    chart({
      title: "Share of the target tokens, percent",
      summary: shares.map((one) => `${one.name} for ${number(last(one))} percent in the end.`).join(" "),
      x, y: { label: "percent", range: [0, 100] }, series: shares,
    }),
  ];
}

// --- The page ------------------------------------------------------------------------------------

const charts = courseCharts();

function change(at) {
  place = at;
  levels = levelsAt(place);
  view.paint(levels);
  legendOfTokens.update(levels);
  for (const one of charts) one.cursor(stepAt(place));
}

main.append(...data.lines.map((line) => el("p", {}, line)), el("p", { class: "muted" }, ...data.about.flatMap((line) => [line, el("br")])));
main.append(figures(data.figures));

const parts = [];
if (tokens.memories.length > 1) parts.push(listOfMemories());
openMemory(open);
if (snapshots > 0) {
  const last = snapshots - 1 + verdict;
  parts.push(slider("Step", last, last, describePlace, change).node);
  if (data.trace.every > 1) parts.push(el("p", { class: "muted" }, `Of the recorded steps, every ${data.trace.every} is on this page.`));
} else {
  change(0);
  parts.push(el("p", { class: "muted" }, "p of each token over the steps was not recorded: it is where every step sees all memories."));
}
main.append(section(tokens.memories.length > 1 ? "The memories, token by token" : "The target, token by token", ...parts, legendOfTokens.node, view.node, details));
if (charts.length) main.append(section("Over the steps", ...charts.map((one) => one.node)));

const rows = data.fields.map(([name, value, unit, meaning]) =>
  [el("code", {}, name), value === null ? "–" : String(value), unit, meaning]);
main.append(el("details", {}, el("summary", {}, "All fields of the report"),
  table("The report of the run", [{ name: "field" }, { name: "value" }, { name: "unit" }, { name: "meaning" }], rows)));
