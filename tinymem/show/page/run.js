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
      title: shares.length > 1 ? "Share of the target tokens, percent" : "Share of the target tokens with p > ½, percent",
      summary: shares.map((one) => `${one.name} for ${number(last(one))} percent in the end.`).join(" "),
      x, y: { label: "percent", range: [0, 100] }, series: shares,
    }),
  ];
}

// --- The page ------------------------------------------------------------------------------------

const charts = courseCharts();

let [place, levels] = [snapshots, levelsAt(snapshots)];
const memories = memoriesView(tokens, (t, memory) => {
  const [margin, p] = [marginAt(place, t), probabilityAt(place, t)];
  const exact = place >= snapshots;
  const loss = exact ? tokens.losses[t] : p === null ? null : -Math.log(p);
  const lines = tokenLines(tokens, t, memory, levels[t], { margin, p, loss }, exact ? "" : "about ");
  return { lines, others: othersAt(tokens, t) };
});
const used = new Set();
for (let at = 0; at < Math.max(1, snapshots + verdict); at++) for (const level of levelsAt(at)) used.add(level);
const legendOfTokens = tokenLegend(used);

function change(at) {
  place = at;
  levels = levelsAt(place);
  memories.paint(levels);
  legendOfTokens.update(levels);
  for (const one of charts) one.cursor(stepAt(place));
}

const parts = [memories.list];
if (snapshots > 0) {
  const last = snapshots - 1 + verdict;
  parts.push(slider("Step", last, last, describePlace, change).node);
  if (data.trace.every > 1) parts.push(el("p", { class: "muted" }, `Of the recorded steps, every ${data.trace.every}th is on this page.`));
} else {
  change(0);
  parts.push(el("p", { class: "muted" }, "The tokens were not recorded over the steps. They are, where every step sees all memories."));
}
const title = memories.list ? "The memories, token by token" : "The target, token by token";
main.append(...pageHead(), section(title, ...parts, legendOfTokens.node, memories.node));
if (charts.length) main.append(section("Over the steps", ...charts.map((one) => one.node)));
main.append(allFields());
