"use strict";
// Memories, of which one is open: its prompt, its tokens, and what decoding yields.

for (const [n, memory] of data.tokens.memories.entries()) {
  const before = data.tokens.memories[n - 1];
  memory.start = before ? before.start + before.length : 0;
}

/** A list of the memories, if there are several, and what is known of the one that is open.
 *
 * facts(t, memory): as of tokenView. Returns {list, node, paint(levels)}: list is null for one memory.
 */
function memoriesView(tokens, facts) {
  const judged = tokens.p.length > 0;
  let open = tokens.memories[0];
  const label = "Target tokens; the arrow keys go from one to the next";
  const view = tokenView(tokens, label, (t) => facts(t, open));
  const details = el("div");
  const next = el("button", { type: "button", click: () => view.focus(view.nextWrong()) }, "Next wrong token");
  const paint = (levels) => {
    view.paint(levels);
    next.disabled = view.nextWrong() === null;
  };
  const show = (memory) => {
    open = memory;
    view.show(memory.start, memory.start + memory.length);
    next.disabled = view.nextWrong() === null;
    const decoding = [el("h3", {}, "What decoding yields"), firstError(tokens, memory.start, memory.length)];
    details.replaceChildren(el("h3", {}, "Prompt"), el("p", { class: "code prompt" }, memory.prompt), ...(judged ? decoding : []));
  };
  const order = judged ? worstFirst(tokens) : tokens.memories.map((memory, n) => ({ memory, n }));
  const list = order.length > 1 ? memoriesTable(order, judged, show) : null;
  show(order[0].memory);
  return { list, paint, node: el("div", {}, el("p", {}, next), view.node, details) };
}

/** The memories with their numbers, that of the lowest margin first. */
function worstFirst(tokens) {
  const rows = tokens.memories.map((memory, n) => {
    const own = (values) => values.slice(memory.start, memory.start + memory.length);
    const [margins, decoded] = [own(tokens.margins), own(tokens.decoded)];
    const lowest = (values) => (values.includes(null) ? NaN : Math.min(...values)); // null: not finite
    return {
      memory, n,
      lowest: lowest(margins),
      wrong: margins.filter((margin) => !(margin > 0)).length,
      p: lowest(own(tokens.p)),
      exact: own(tokens.targets).every((id, t) => id === decoded[t]),
    };
  });
  const rank = (row) => (Number.isNaN(row.lowest) ? -Number.MAX_VALUE : row.lowest);
  return rows.sort((a, b) => rank(a) - rank(b) || a.n - b.n);
}

/** Of long prompts, such as those of a chat template, the part that not all of them have. */
function ownParts(prompts) {
  const all = (holds) => prompts.every((prompt) => holds(prompt));
  if (all((prompt) => prompt.length <= 60)) return prompts;
  const shortest = Math.min(...prompts.map((prompt) => prompt.length));
  let [from, end] = [0, 0];
  while (from < shortest && all((prompt) => prompt[from] === prompts[0][from])) from++;
  while (end < shortest - from && all((prompt) => prompt.at(-1 - end) === prompts[0].at(-1 - end))) end++;
  return prompts.map((prompt) => prompt.slice(from, prompt.length - end) || prompt);
}

function memoriesTable(order, judged, show) {
  const buttons = order.map((row) => el("button", { type: "button", "aria-pressed": row === order[0] ? "true" : "false", click: (event) => {
    for (const one of buttons) one.setAttribute("aria-pressed", one === event.currentTarget);
    show(row.memory);
  } }, `memory ${row.n}`));
  const prompts = ownParts(order.map((row) => row.memory.prompt));
  const rows = order.map((row, n) => {
    const numbers = judged ? [row.exact ? "yes" : "no", whole(row.wrong), number(row.lowest), number(row.p)] : [];
    const prompt = prompts[n];
    return [buttons[n], el("span", { class: "code" }, prompt.length > 60 ? `${prompt.slice(0, 60)}…` : prompt), whole(row.memory.length), ...numbers];
  });
  const names = judged ? ["tokens", "recited", "wrong tokens", "lowest margin", "lowest p"] : ["tokens"];
  const columns = [{ name: "" }, { name: "prompt" }, ...names.map((name) => ({ name, right: true }))];
  return table(judged ? "The memories, the worst first; open one to see its tokens" : "The memories; open one to see its tokens", columns, rows);
}

/** What is known of a token, as lines of text. values: {margin, p, loss}, null where unknown. */
function tokenLines(tokens, t, memory, level, values, about = "") {
  const id = tokens.targets[t];
  const lines = [`position ${t - memory.start}: ${quoted(tokens, id)}, id ${id}, ${LEVELS[level].says}`];
  if (values.p !== null) {
    const margin = values.margin === null ? "" : `margin ${about}${number(values.margin)} logits, `;
    lines.push(`${margin}p ${about}${number(values.p)}, loss ${about}${number(values.loss)} nats`);
  }
  return lines;
}

/** The likeliest tokens at the place of token t: [[id, p, is it the target?], …]. */
function othersAt(tokens, t) {
  return (tokens.likeliest[t] || []).map(([id, p]) => [id, p, id === tokens.targets[t]]);
}
