"use strict";
// Target tokens, one by one: coloured by how each fares, with what is known of the one in focus.

// How a token fares, the class of its colour and edge, and what it is called.
const LEVELS = [
  { name: "wrong", more: "another token is likelier by 2 logits or more", says: "wrong" },
  { name: "wrong, but close", more: "another token is likelier", says: "wrong" },
  { name: "likeliest, p ≤ ½", more: "which is enough for decoding", says: "likeliest, not certified" },
  { name: "p > ½", more: "certified", says: "certified" },
  { name: "p > 0.9", more: "certified", says: "certified" },
  { name: "p > 0.99", more: "certified", says: "certified" },
  { name: "p ≤ ½", more: "its margin was not recorded", says: "not certified" },
  { name: "no number", more: "not judged, or not finite", says: "no number" },
];
const CLASSES = LEVELS.map((_, n) => `t t${n}`);
const UNJUDGED = 7;
const MOST_SHOWN = 4000; // tokens of a memory in the page at a time

/** The place in LEVELS. margin, p: null where they are not known. */
function levelOf(margin, p) {
  if (p === null || p === undefined) return UNJUDGED;
  if (margin === null && p <= 0.5) return 6;
  if (margin !== null && margin <= 0) return margin <= -2 ? 0 : 1;
  if (p <= 0.5) return 2;
  return p <= 0.9 ? 3 : p <= 0.99 ? 4 : 5;
}

/** The levels of tokens with these margins and p. */
function levelsOf(margins, p, length) {
  return Uint8Array.from({ length }, (_, t) => levelOf(margins[t] ?? null, p[t] ?? null));
}

function bytesOf(base64, kind) {
  const text = atob(base64);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  return new kind(bytes.buffer);
}

/** What a byte of p stands for; null for no number. See pack_p in show/tokens.py. */
function unpackP(byte) {
  return byte === 0 ? null : (byte - 0.5) / 254;
}

/** What a byte of a margin stands for; null for no number. See pack_margins in show/tokens.py. */
function unpackMargin(byte, largest) {
  if (byte === -128) return null;
  return byte === 0 ? 0 : Math.sign(byte) * largest * ((Math.abs(byte) - 0.5) / 127) ** 2;
}

/** How many of some levels are recited, certified, and unknown in one way or another. */
function tally(levels) {
  const found = new Array(LEVELS.length).fill(0);
  for (const level of levels) found[level] += 1;
  return {
    levels: found,
    certified: found[3] + found[4] + found[5],
    recited: found[2] + found[3] + found[4] + found[5],
    watched: found[6] + found[7] === 0,
  };
}

/** A token's text in quotes. */
function quoted(tokens, id) {
  return `“${tokens.texts[id] ?? ""}”`;
}

/** The meaning of colours and edges, with the number of tokens of each; levels that occur in `used`. */
function tokenLegend(used) {
  const counts = new Map();
  const items = LEVELS.flatMap((level, n) => {
    if (!used.has(n)) return [];
    counts.set(n, el("span", { class: "muted" }));
    return [el("li", {}, el("span", { class: CLASSES[n], "aria-hidden": "true" }, " token "), " ",
      level.name, level.more ? el("span", { class: "muted" }, ` – ${level.more}`) : null, " ", counts.get(n))];
  });
  const update = (levels) => {
    const found = tally(levels).levels;
    for (const [n, node] of counts) node.textContent = `(${whole(found[n])})`;
  };
  return { node: el("ul", { class: "legend" }, ...items), update };
}

/** The tokens as running text, of which one at a time can have the focus.
 *
 * facts(t): {lines: [texts], others: [[id, p], …]}, what is known of token t now. label: of the box.
 * Returns {node, show(from, to, at), go(from, to, t), paint(levels), focus(t), nextWrong()}. `show` puts the tokens of a range
 * into the box, at most `most` around `at`; `go` also scrolls to token t; `paint` changes colours
 * alone, of the tokens whose level has changed.
 */
function tokenView(tokens, label, facts, most = MOST_SHOWN) {
  const box = el("div", { class: "tokens code", role: "listbox", "aria-label": label, dir: "auto" });
  const breaks = new Set(tokens.breaks);
  const pager = el("p", { hidden: true });
  let [first, nodes, now, levels, range] = [0, [], 0, null, [0, 0]];
  let shown = new Uint8Array(0);

  const paint = (found) => {
    levels = found;
    for (let n = 0; n < nodes.length; n++) {
      const level = levels[first + n];
      if (level !== shown[n]) {
        nodes[n].className = CLASSES[level];
        shown[n] = level;
      }
    }
  };
  const show = (from, to, at = from) => {
    range = [from, to];
    first = Math.max(from, Math.min(at - most / 2, to - most));
    const last = Math.min(to, first + most);
    nodes = [];
    const parts = [];
    for (let t = first; t < last; t++) {
      const id = tokens.targets[t];
      const node = el("span", { role: "option", tabindex: "-1" }, tokens.texts[id] ?? "");
      nodes.push(node);
      parts.push(node);
      if (breaks.has(id)) parts.push("\n");
    }
    shown = new Uint8Array(nodes.length).fill(255);
    box.replaceChildren(...parts);
    drawPager(from, to, last);
    if (levels) paint(levels);
    choose(Math.min(Math.max(at, first), last - 1));
  };
  const drawPager = (from, to, last) => {
    pager.hidden = to - from <= most;
    const move = (to) => () => {
      show(...range, to);
      box.scrollTop = 0;
    };
    pager.replaceChildren(`Tokens ${whole(first - from)} to ${whole(last - from - 1)} of ${whole(to - from)}. `,
      el("button", { type: "button", disabled: first === from, click: move(first - most / 2) }, "earlier"), " ",
      el("button", { type: "button", disabled: last === to, click: move(last + most / 2) }, "later"));
  };
  /** Token t is the one that Tab reaches. */
  const choose = (t) => {
    nodes[now - first]?.setAttribute("tabindex", "-1");
    now = t;
    nodes[now - first]?.setAttribute("tabindex", "0");
  };
  const focus = (t) => {
    if (t < first || t >= first + nodes.length) show(...range, t);
    choose(t);
    nodes[t - first].focus();
  };
  /** The next wrong token after the one that was chosen, from the first one again; null without one. */
  const nextWrong = () => {
    const [from, to] = range;
    for (let n = 1; levels && n <= to - from; n++) {
      const t = from + ((now - from + n) % (to - from));
      if (levels[t] <= 1) return t;
    }
    return null;
  };
  /** Shows token t without the focus, and as few new tokens as that needs. */
  const go = (from, to, t) => {
    const near = t >= first + most / 4 || first === from;
    if (!nodes.length || !near || (t >= first + (3 * most) / 4 && first + nodes.length < to) || t < first) show(from, to, t);
    mark(t);
    box.scrollTop = nodes[t - first].offsetTop - box.clientHeight / 3;
  };
  const mark = (t) => {
    choose(t);
    for (const node of box.querySelectorAll("[aria-selected]")) node.removeAttribute("aria-selected");
    nodes[t - first].setAttribute("aria-selected", "true");
  };
  const tell = (node) => {
    const { lines, others } = facts(first + nodes.indexOf(node));
    const list = others.map(([id, p, own]) => el("tr", { class: own ? "own" : null },
      el("td", { class: "code" }, quoted(tokens, id)), el("td", { class: "muted" }, `id ${id}`),
      el("td", {}, `p ${number(p)}`), el("td", {}, own ? "the target" : "")));
    showTip(node, ...lines.map((line) => el("div", {}, line)),
      others.length ? el("table", {}, el("caption", {}, "Likeliest here in the end"), el("tbody", {}, ...list)) : null);
    const spoken = others.map(([id, p]) => `${quoted(tokens, id)} ${number(p)}`).join(", ");
    node.setAttribute("aria-label", [...lines, ...(others.length ? [`likeliest: ${spoken}`] : [])].join(", "));
  };
  const over = (event) => event.target.closest("[role=option]");
  fill(box, {
    mouseover: (event) => over(event) && tell(over(event)),
    mouseleave: hideTip,
    focusin: (event) => {
      mark(first + nodes.indexOf(event.target));
      tell(event.target);
    },
    focusout: hideTip,
    keydown: (event) => {
      const to = moveBy(event.key, now, first, nodes);
      if (to === null) return;
      event.preventDefault();
      focus(Math.min(Math.max(to, range[0]), range[1] - 1));
    },
  }, []);
  return { node: el("div", {}, pager, box), show, go, paint, focus, nextWrong };
}

/** The token that a key moves to, or null. Up and down go to the nearest token of another line. */
function moveBy(key, now, first, nodes) {
  if (key === "ArrowLeft") return now - 1;
  if (key === "ArrowRight") return now + 1;
  if (key === "Home") return first;
  if (key === "End") return first + nodes.length - 1;
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const way = key === "ArrowUp" ? -1 : 1;
  const from = nodes[now - first].getClientRects()[0];
  let [best, line] = [null, null];
  for (let n = now - first + way; n >= 0 && n < nodes.length; n += way) {
    const box = nodes[n].getClientRects()[0];
    if (!box || Math.abs(box.top - from.top) < 4) continue;
    line = line ?? box.top;
    if (Math.abs(box.top - line) >= 4) break;
    if (best === null || Math.abs(box.left - from.left) < best[1]) best = [first + n, Math.abs(box.left - from.left)];
  }
  return best ? best[0] : null;
}

/** What decoding yields beside the target, from a little before the first error on.
 *
 * start, length: of the memory in tokens.targets and tokens.decoded. Returns null without decoding.
 */
function firstError(tokens, start, length) {
  if (!tokens.decoded.length) return null;
  const [target, decoded] = [tokens.targets, tokens.decoded].map((ids) => ids.slice(start, start + length));
  const at = target.findIndex((id, t) => id !== decoded[t]);
  if (at < 0) return el("p", {}, `Decoding yields the whole target, ${count(length, "token")}.`);
  const from = Math.max(0, at - 5);
  const some = target.slice(from, at + 20);
  const cells = some.map((id, n) => {
    const other = decoded[from + n];
    return el("li", { class: id === other ? "same" : "differs" },
      el("span", { class: "muted" }, String(from + n)),
      el("span", { class: "code" }, tokens.texts[id]),
      el("span", { class: "code" }, el("span", { class: "hidden-text" }, id === other ? "decoded the same: " : "decoded instead: "), tokens.texts[other]));
  });
  const after = length - at - 1;
  const right = target.slice(at + 1).filter((id, n) => id === decoded[at + 1 + n]).length;
  return el("div", {},
    el("p", {}, `Decoding leaves the target at position ${at}: the target has ${quoted(tokens, target[at])} there, `
      + `and ${quoted(tokens, decoded[at])} is decoded. `
      + (after ? `Of the ${count(after, "token")} after it, ${whole(right)} ${right === 1 ? "is" : "are"} right.` : "It is the last token.")),
    el("p", { class: "muted" }, "Position, target token and decoded token; where they differ, the decoded one has a frame."),
    el("ol", { class: "pairs" }, ...cells));
}
