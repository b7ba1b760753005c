"use strict";
// The planner: what `tinymem plan` answers, computed here for any rank, length and probability.
//
// The mathematics is that of law/recite.py, law/plan.py and law/threshold.py, and rests on the same
// draws, so that the answers are the same. A number that is null is infinite.

const MOST_RECITED = 1e9; // a rank or a length above it counts as infinite
const MOST_PLANNED = 1e12;
const PICTURE_RUNS = 4000; // for the curve of the picture; the answers use all

// --- The recall law ------------------------------------------------------------------------------

/** The chance that a run of this rank recites so many tokens: the mean over the drawn curves. */
function chanceToRecite(law, rank, length) {
  const [middles, steepness, exponents] = law.draws;
  const P = rank * law.per_rank;
  const [low, high] = [law.measured[0], law.measured[law.measured.length - 1]];
  const size = (parameters) => Math.log(parameters) - (Math.log(low) + Math.log(high)) / 2;
  const [own, nearest] = [size(P), size(Math.min(Math.max(P, low), high))];
  const load = Math.log(length / P);
  let [sum, all] = [0, 0];
  for (let n = 0; n < middles.length; n++) {
    const gain = Math.min((exponents[n] - 1) * own, (exponents[n] - 1) * nearest);
    const z = steepness[n] * (load - (middles[n] + gain));
    sum += law.times[n] / (1 + Math.exp(Math.min(Math.max(z, -700), 700)));
    all += law.times[n];
  }
  return sum / all;
}

/** The number up to which it holds, by bisection; 0 if not for 1, null beyond MOST_RECITED. */
function largest(holds) {
  let [low, high] = [0, 1];
  while (holds(high)) {
    [low, high] = [high, 2 * high];
    if (high > MOST_RECITED) return null;
  }
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (holds(middle)) low = middle;
    else high = middle;
  }
  return low;
}

/** Answers by the recall law: rankFor(length, share), lengthFor(rank, share), chance(rank, length). */
function reciter(law) {
  return {
    rankFor: (length, share) => {
      const tooSmall = largest((rank) => chanceToRecite(law, rank, length) < share);
      return tooSmall === null ? null : tooSmall + 1;
    },
    lengthFor: (rank, share) => largest((length) => chanceToRecite(law, rank, length) >= share),
    chance: (rank, length) => chanceToRecite(law, rank, length),
    picture: (rank, length) => chanceToRecite(law, rank, length),
  };
}

// --- The certificate: the plane through the runs near it, or the power law at a loss of ln 2 -----

/** L₀ at a length, interpolated between the measured ones on a log scale. */
function baseLoss(base, length) {
  const [x, y] = [base.lengths.map(Math.log), base.losses];
  const at = Math.log(length);
  if (at <= x[0]) return y[0];
  for (let n = 1; n < x.length; n++) {
    if (at <= x[n]) return y[n - 1] + ((y[n] - y[n - 1]) / (x[n] - x[n - 1])) * (at - x[n - 1]);
  }
  return y[y.length - 1];
}

/** The rank that reduces the loss of so many tokens by so much, by the power law. */
function lawRank([C, alpha, beta, b], length, delta) {
  if (delta - b <= 0) return 0;
  return alpha > 0 ? (((delta - b) / C) * length ** beta) ** (1 / alpha) : Infinity;
}

function lawLength([C, alpha, beta, b], rank, delta) {
  return delta - b > 0 && beta > 0 ? ((C * rank ** alpha) / (delta - b)) ** (1 / beta) : Infinity;
}

/** Every draw combined with every deviation, by a function of both; `every`: only each so many-th. */
function combined(law, of, every = 1) {
  const draws = [];
  for (let n = 0; n < law.draws[0].length; n += every) draws.push(law.draws.map((column) => column[n]));
  const found = new Float64Array(draws.length * law.deviations.length);
  let place = 0;
  for (const draw of draws) for (const deviation of law.deviations) found[place++] = of(draw, deviation);
  return found;
}

/** The ranks that fresh runs of this length need. */
function neededRanks(law, length, every) {
  if (!law.base) {
    const at = Math.log(length);
    return combined(law, ([a, slope], deviation) => Math.exp(a + slope * at + deviation), every);
  }
  const delta = baseLoss(law.base, length) - Math.LN2;
  return combined(law, (draw, deviation) => lawRank(draw, length, delta * Math.exp(-deviation)), every);
}

/** The largest lengths that fresh runs of this rank hold. */
function heldLengths(law, rank) {
  if (!law.base) {
    const at = Math.log(rank);
    return combined(law, ([a, slope], deviation) => (slope > 0 ? Math.exp((at - a - deviation) / slope) : Infinity));
  }
  let base = baseLoss(law.base, law.base.middle);
  for (let n = 0; n < 50; n++) { // L₀ depends slightly on the length
    const length = lawLength(law.constants, rank, base - Math.LN2);
    if (!Number.isFinite(length)) break;
    base = baseLoss(law.base, length);
  }
  return combined(law, (draw, deviation) => lawLength(draw, rank, (base - Math.LN2) * Math.exp(-deviation)));
}

/** The quantile of sorted values: the smallest that so large a share of them does not exceed. */
function quantile(sorted, share) {
  const place = sorted.length * share - 1;
  return sorted[Math.max(0, Math.ceil(place))];
}

/** Rounded up if a rank and down if a length; null above MOST_PLANNED. */
function roundedPlan(found, up) {
  if (!(found <= MOST_PLANNED)) return null;
  const nearest = Math.round(found);
  const near = Math.abs(found - nearest) <= 1e-9 * Math.max(Math.abs(found), Math.abs(nearest));
  return Math.max(near ? nearest : up ? Math.ceil(found) : Math.floor(found), up ? 1 : 0);
}

/** Answers for the certificate, in the form of `reciter`. */
function certifier(law) {
  const [ranks, lengths] = [new Map(), new Map()]; // sorted values of the last rank and length
  const kept = (memo, key, make) => {
    if (!memo.has(key)) {
      memo.clear();
      memo.set(key, make().sort());
    }
    return memo.get(key);
  };
  const needed = (length) => kept(ranks, length, () => neededRanks(law, length));
  const held = (rank) => kept(lengths, rank, () => heldLengths(law, rank).map((one) => -one));
  const shareOf = (sorted, most) => {
    let [low, high] = [0, sorted.length]; // the place of the first value above `most`
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] <= most) low = middle + 1;
      else high = middle;
    }
    return low / sorted.length;
  };
  const every = Math.ceil((law.draws[0].length * law.deviations.length) / PICTURE_RUNS);
  const limit = (number) => (number === null ? MOST_PLANNED : number);
  return {
    rankFor: (length, share) => roundedPlan(quantile(needed(length), share), true),
    lengthFor: (rank, share) => roundedPlan(-quantile(held(rank), share), false),
    chance: (rank, length) => shareOf(needed(length), limit(rank) + 1e-9 * limit(rank)),
    chanceOfLength: (rank, length) => shareOf(held(rank), -(limit(length) - 1e-9 * limit(length))),
    picture: (rank, length) => shareOf(neededRanks(law, length, every).sort(), rank * (1 + 1e-9)),
  };
}

// --- The plans, with the fields of law/answer.py -------------------------------------------------

function extrapolations(law, rank, length) {
  return [["rank", rank], ["length", length]].flatMap(([name, one]) => {
    const [low, high] = law.ranges[name];
    if (one !== null && low <= one && one <= high) return [];
    const what = one === null ? `no ${name}` : `${name} ${whole(one)}`;
    return [`${what} is outside the measured ${whole(low)} to ${whole(high)}: an extrapolation`];
  });
}

/** A plan; asked: "rank" or "length", given: the other of the two. */
function makePlan(law, solver, asked, given, share, nothing) {
  const forRank = asked === "rank";
  const solve = (p) => (forRank ? solver.rankFor(given, p) : solver.lengthFor(given, p));
  const chanceOf = (one) => {
    if (nothing && !one) return null; // the recall law has no chance of an infinite number, or of 0
    if (forRank) return solver.chance(one, given);
    return (solver.chanceOfLength || solver.chance)(given, one);
  };
  const found = solve(share);
  const ends = [solve(0.025), solve(0.975)];
  const [rank, length] = forRank ? [found, given] : [given, found];
  const near = forRank && found ? [-2, -1, 0, 1, 2].map((step) => found + step).filter((one) => one > 0) : [];
  const parameters = rank && law.per_rank ? Math.floor(rank * law.per_rank) : null;
  return {
    asked, rank, length, probability: chanceOf(found), near: near.map((one) => [one, chanceOf(one)]),
    interval: forRank ? ends : ends.reverse(), parameters,
    warnings: [...law.warnings, ...extrapolations(law, rank, length)],
  };
}

// --- In the words of show/tables.py --------------------------------------------------------------

function share100(p) {
  return `${(100 * p).toFixed(0)} %`;
}

function planAnswer(plan, verb) {
  const rank = plan.rank === null ? "No rank" : `Rank ${whole(plan.rank)}`;
  return `${rank} ${verb} ${plan.length === null ? "any length" : `${whole(plan.length)} tokens`}`;
}

function rangeLines(plan, verb) {
  const [low, high] = plan.interval.map((end) => (end === null ? "∞" : whole(end)));
  const middle = plan.asked === "rank" ? `need rank ${low} to ${high}` : `${verb} ${low} to ${high} tokens`;
  const lines = [`95 % of fresh runs ${middle}`];
  if (plan.near.length) lines.unshift(plan.near.map(([rank, p]) => `rank ${whole(rank)}: ${share100(p)}`).join(", "));
  if (plan.parameters !== null) {
    lines.push(`${whole(plan.parameters)} parameters, ${whole(4 * plan.parameters)} bytes in float32`);
  }
  return lines;
}

/** Goals: how each is planned, and in which words. */
const GOALS = {
  recite: {
    name: "recite it word for word",
    solver: reciter,
    nothing: true,
    questions: (rank, tokens) => ({
      rank: `Which rank recites ${tokens}?`,
      length: `How many tokens does rank ${rank} recite?`,
      chance: `Does rank ${rank} recite ${tokens}?`,
    }),
    sentence: (plan, share) => `${planAnswer(plan, "recites")} word for word, in ${share100(plan.probability || share)} of fresh runs`,
    lines: (plan, share, law) => {
      const promised = law.promised.filter((one) => one[0] >= share);
      const recited = promised.filter((one) => one[1]).length;
      const kept = `${recited} of ${promised.length} measured runs to which other ranks promise as much were recited`;
      return [...rangeLines(plan, "recite"), ...(promised.length ? [kept] : [])];
    },
    chance: (p, rank, length) => `Rank ${whole(rank)} recites ${whole(length)} tokens word for word, in ${share100(p)} of fresh runs`,
  },
  certify: {
    name: "certify every token (p > ½)",
    solver: certifier,
    nothing: false,
    questions: (rank, tokens) => ({
      rank: `Which rank certifies ${tokens}?`,
      length: `How many tokens does rank ${rank} certify?`,
      chance: `Does rank ${rank} certify ${tokens}?`,
    }),
    sentence: (plan, share, law) => {
      const goal = law.base ? "at 0.693 nats per token" : "every one certified";
      const part = `${share100(plan.probability)} of fresh runs`;
      return `${planAnswer(plan, "holds")}, ${goal}, ${plan.rank === null ? "that often: even the largest in" : "in"} ${part}`;
    },
    lines: (plan, share, law) => {
      const right = law.right === null ? [] : [`Without its own cell, it is right about ${share100(law.right)} of the measured runs`];
      return [...rangeLines(plan, "hold"), ...right];
    },
    chance: (p, rank, length, law) => `Rank ${whole(rank)} holds ${whole(length)} tokens, ` +
      `${law.base ? "at 0.693 nats per token" : "every one certified"}, in ${share100(p)} of fresh runs`,
  },
};

/** The final loss that the power law predicts. */
function predictedLoss(law, rank, length) {
  const [C, alpha, beta, b] = law.constants;
  const base = baseLoss(law.base, length);
  return { base, loss: base - (C * rank ** alpha * length ** -beta + b) };
}

// --- The controls --------------------------------------------------------------------------------

/** A slider over some numbers, beside a field that takes any number; both can be used by keyboard. */
function dial(label, unit, values, start, check, change) {
  const id = `dial-${label}`;
  const nearest = (one) => values.reduce((best, other, n) => (Math.abs(other - one) < Math.abs(values[best] - one) ? n : best), 0);
  const say = (one) => `${brief(one)} ${unit}`.trim();
  const range = el("input", { type: "range", min: 0, max: values.length - 1, step: 1, "aria-label": label });
  const field = el("input", { type: "number", id, step: "any", min: check.least, max: check.most, inputmode: "decimal" });
  const problem = el("span", { class: "problem", role: "alert" });
  let [now, waiting] = [start, false];
  const show = () => {
    waiting = false;
    range.setAttribute("aria-valuetext", say(now));
    change(now);
  };
  const set = (one, from) => {
    now = one;
    if (from !== range) range.value = nearest(one);
    if (from !== field) field.value = one;
    problem.textContent = "";
    field.removeAttribute("aria-invalid");
    if (!waiting) requestAnimationFrame(show);
    waiting = true;
  };
  range.addEventListener("input", () => set(values[Number(range.value)], range));
  field.addEventListener("input", () => {
    const one = Number(field.value);
    if (field.value !== "" && check.holds(one)) return set(one, field);
    problem.textContent = check.words;
    field.setAttribute("aria-invalid", "true");
  });
  [range.value, field.value] = [nearest(start), start];
  range.setAttribute("aria-valuetext", say(start));
  return el("div", { class: "dial" }, el("label", { for: id }, label), range, field, el("span", { class: "muted" }, unit), problem);
}

/** Whole numbers up to `most`, about 4 % apart. */
function steps(most) {
  const found = [];
  for (let one = 1; one < most; one = Math.max(one + 1, Math.round(one * 1.04))) found.push(one);
  return [...found, most];
}

const WHOLE = { least: 1, most: MOST_PLANNED, words: "a whole number from 1", holds: (one) => one >= 1 && one <= MOST_PLANNED && one % 1 === 0 };
const PERCENT = { least: 0.1, most: 99.9, words: "more than 0 and less than 100", holds: (one) => one > 0 && one < 100 };
const state = { rank: null, length: null, percent: 90, goal: "recite" };

/** The planner of a choice of rows. The controls stay when the choice changes: see `state`. */
function plannerPart(law) {
  const parts = law.plan;
  const known = Object.keys(GOALS).filter((goal) => !parts[goal].reason);
  const missing = Object.keys(GOALS).filter((goal) => parts[goal].reason)
    .map((goal) => el("p", { class: "muted" }, `No plan to ${GOALS[goal].name}: ${parts[goal].reason}`));
  if (!known.length) return missing;
  if (!known.includes(state.goal)) state.goal = known[0];
  const { rank, length } = parts[known[0]].ranges;
  state.rank = state.rank || Math.max(1, Math.round(Math.sqrt(rank[0] * rank[1])));
  state.length = state.length || Math.max(1, Math.round(Math.sqrt(length[0] * length[1])));
  const solvers = Object.fromEntries(known.map((goal) => [goal, GOALS[goal].solver(parts[goal])]));
  const answers = el("div", { class: "answers", id: "answers" });
  const spoken = el("p", { class: "hidden-text", role: "status" });
  let [later, soon, took] = [null, null, 0];
  const answer = () => {
    const start = performance.now();
    const found = answersOf(law, parts, solvers);
    answers.replaceChildren(...found.nodes);
    answers.removeAttribute("aria-busy");
    took = performance.now() - start;
    clearTimeout(later);
    later = setTimeout(() => spoken.replaceChildren(found.sentences.join(". ")), 600);
  };
  const update = () => { // what takes long waits until the slider rests
    clearTimeout(soon);
    if (took < 200) return answer();
    answers.setAttribute("aria-busy", "true");
    soon = setTimeout(answer, 200);
  };
  const set = (name) => (one) => {
    state[name] = one;
    update();
  };
  const goal = el("select", { id: "goal", change: (event) => set("goal")(event.target.value) },
    ...known.map((one) => el("option", { value: one, selected: one === state.goal }, GOALS[one].name)));
  const percents = [1, 2.5, ...Array.from({ length: 19 }, (_, n) => 5 * n + 5), 97.5, 99, 99.5, 99.9];
  const controls = el("div", { class: "controls" },
    el("div", { class: "dial" }, el("label", { for: "goal" }, "goal"), goal),
    dial("rank", "", steps(rank[1] * 8), state.rank, WHOLE, set("rank")),
    dial("length", "tokens", steps(length[1] * 8), state.length, WHOLE, set("length")),
    dial("probability", "% of fresh runs", percents, state.percent, PERCENT, set("percent")));
  answer();
  return [controls, spoken, answers, ...missing];
}

function answerBox(id, question, sentence, lines, warnings) {
  const bound = (text) => text.replaceAll(" %", "\u00a0%"); // a number and its unit stay on one line
  return el("div", { class: "answer", id: `answer-${id}` }, el("h3", {}, question),
    el("p", { class: "sentence" }, bound(sentence)), ...lines.map((line) => el("p", { class: "muted" }, bound(line))),
    ...warnings.map(careful));
}

function answersOf(law, parts, solvers) {
  const goal = GOALS[state.goal];
  const part = parts[state.goal];
  const solver = solvers[state.goal];
  const share = Number((state.percent / 100).toPrecision(12)); // 12.3 / 100 is not quite 0.123
  const [rank, length] = [state.rank, state.length];
  const plans = ["rank", "length"].map((asked) =>
    makePlan(part, solver, asked, asked === "rank" ? length : rank, share, goal.nothing));
  const questions = goal.questions(whole(rank), count(length, "token"));
  const boxes = plans.map((plan) => answerBox(plan.asked, questions[plan.asked],
    goal.sentence(plan, share, part), goal.lines(plan, share, part), plan.warnings));
  const p = solver.chance(rank, length);
  boxes.push(answerBox("chance", questions.chance, goal.chance(p, rank, length, part), [],
    [...part.warnings, ...extrapolations(part, rank, length)]));
  if (!parts.loss.reason) boxes.push(lossBox(parts.loss, rank, length));
  const sentences = boxes.map((box) => box.querySelector(".sentence").textContent);
  const picture = chancePicture(goal, solver, part, rank, length);
  const source = el("p", { class: "muted" }, `by the ${state.goal === "recite" ? "recall law" : "law"} of ${law.about}`);
  return { sentences, nodes: [el("div", { class: "boxes" }, ...boxes), source, picture] };
}

function lossBox(law, rank, length) {
  const { base, loss } = predictedLoss(law, rank, length);
  const low = loss <= Math.LN2;
  const after = low ? "below ln 2" : number(loss);
  const warning = "below ln 2 runs are saturated, and the law was not fitted there";
  return answerBox("loss", `Which final loss does rank ${whole(rank)} reach on ${count(length, "token")}?`,
    `The power law predicts a final loss ${low ? "below ln 2" : `of ${number(loss)}`} nats per token`,
    [`loss ${number(base)} → ${after} nats per token; the law's mean error of ΔL is ${law.mape.toFixed(1)} %`],
    [...law.warnings, ...(low ? [warning] : []), ...extrapolations(law, rank, length)]);
}

/** The chance over the length, at the chosen rank. */
function chancePicture(goal, solver, part, rank, length) {
  const [low, high] = [Math.min(part.ranges.length[0], length) / 2, Math.max(part.ranges.length[1], length) * 2];
  const points = Array.from({ length: 61 }, (_, n) => {
    const tokens = low * (high / low) ** (n / 60);
    return [tokens, 100 * solver.picture(rank, tokens)];
  });
  return chart({
    title: `Chance by length, at rank ${whole(rank)}`, height: 220,
    summary: `${share100(solver.chance(rank, length))} at ${count(length, "token")}`,
    x: { label: "length (tokens)", log: true, range: [low, high] },
    y: { label: "fresh runs (%)", range: [0, 100], ticks: [0, 25, 50, 75, 100] },
    series: [{ name: "chance", points, colour: 1 }],
    rules: [{ x: length, label: count(length, "token") }, { y: state.percent, label: `${brief(state.percent)} %` }],
  }).node;
}
