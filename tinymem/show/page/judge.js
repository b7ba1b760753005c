"use strict";
// The page of judged memories: token by token, with the adapter and without it.

const tokens = data.tokens;
const total = tokens.targets.length;
const withAdapter = {
  values: (t) => ({ margin: tokens.margins[t], p: tokens.p[t], loss: tokens.losses[t] }),
  levels: levelsOf(tokens.margins, tokens.p, total),
};
const states = { "With the adapter": withAdapter };
if (tokens.base_losses) {
  const p = tokens.base_losses.map((loss) => (loss === null ? null : Math.exp(-loss)));
  states["Without it"] = {
    values: (t) => ({ margin: tokens.base_margins[t], p: p[t], loss: tokens.base_losses[t] }),
    levels: levelsOf(tokens.base_margins, p, total),
  };
}
let state = withAdapter;

const memories = memoriesView(tokens, (t, memory) => {
  const lines = tokenLines(tokens, t, memory, state.levels[t], state.values(t));
  for (const [name, other] of Object.entries(states)) {
    if (other === state) continue;
    const { margin, loss } = other.values(t);
    lines.push(`${name.toLowerCase()}: margin ${number(margin)} logits, loss ${number(loss)} nats`);
  }
  return { lines, others: othersAt(tokens, t) };
});
const used = new Set(Object.values(states).flatMap((one) => [...one.levels]));
const legendOfTokens = tokenLegend(used);
const summary = el("p", { "aria-live": "polite" });

const buttons = Object.entries(states).map(([name, one]) =>
  el("button", { type: "button", click: () => change(one) }, name));

function change(to) {
  state = to;
  memories.paint(state.levels);
  legendOfTokens.update(state.levels);
  const found = tally(state.levels);
  const name = buttons.length > 1 ? `${Object.keys(states).find((one) => states[one] === state)}: ` : "";
  summary.textContent = `${name}margin > 0 for ${whole(found.recited)}, p > ½ for ${whole(found.certified)} of ${count(total, "token")}`;
  for (const button of buttons) button.setAttribute("aria-pressed", states[button.textContent] === state);
}
change(state);

const title = memories.list ? "The memories, token by token" : "The text, token by token";
const toggle = buttons.length > 1 ? el("p", { role: "group", "aria-label": "Which model" }, buttons[0], " ", buttons[1]) : null;
main.append(...pageHead(), section(title, memories.list, toggle, summary, legendOfTokens.node, memories.node), allFields());
