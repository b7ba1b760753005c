"use strict";
// The page of a document that was audited in windows: a map of what is recited, and its text.

const tokens = data.tokens;
const windows = data.windows;
const total = tokens.targets.length;
const AROUND = 600; // tokens of the text that are shown at a time

LEVELS.push(
  { name: "recited", more: "in a window that is recited from its context", says: "in a recited stretch" },
  { name: "right, but not recited", more: "before the first wrong token of a window", says: "right, in a window that goes wrong later" },
  { name: "not recited", more: "", says: "not recited" },
  { name: "not judged", more: "in no window", says: "in no window that was judged" },
);
CLASSES.push("t t8", "t t9", "t t10", "t t7");
const [RECITED, RIGHT, NOT, NO_WINDOW] = [8, 9, 10, 11];

const levels = new Uint8Array(total).fill(NO_WINDOW);
const raise = (from, to, level) => {
  for (let t = from; t < to; t++) if (levels[t] === NO_WINDOW || level < levels[t]) levels[t] = level;
};
const starts = windows.right.map((_, n) => windows.context + n * windows.stride);
windows.right.forEach((right, n) => {
  raise(starts[n], starts[n] + windows.window, NOT);
  raise(starts[n], starts[n] + right, RIGHT);
});
for (const [from, to] of windows.spans) raise(from, to, RECITED);

/** The recited stretch that a token is in, or null. */
function spanAt(t) {
  return windows.spans.find(([from, to]) => from <= t && t < to) || null;
}

/** A token in words: where it is, and what is recited there. */
function describePlace(t) {
  const span = spanAt(t);
  const where = span ? `in a recited stretch of ${count(span[1] - span[0], "token")}, ${whole(span[0])} to ${whole(span[1] - 1)}`
    : LEVELS[levels[t]].says;
  return `Token ${whole(t)} of ${whole(total)}: ${where}`;
}

function facts(t) {
  const lines = [`token ${t}: ${quoted(tokens, tokens.targets[t])}, id ${tokens.targets[t]}`, describePlace(t)];
  const n = starts.findLastIndex((start) => start <= t);
  if (n >= 0 && t < starts[n] + windows.window) {
    lines.push(`window from ${whole(starts[n])}: ${whole(windows.right[n])} of ${count(windows.window, "token")} right before the first wrong one`);
  }
  return { lines, others: [] };
}

const view = tokenView(tokens, "The text around the place; the arrow keys go from token to token", facts, AROUND);
view.paint(levels);

// --- The map -------------------------------------------------------------------------------------

/** A strip over the length of the document, with the recited stretches; a click chooses a place. */
function documentMap(choose) {
  const words = windows.spans.length ? `${count(windows.spans.length, "recited stretch", "recited stretches")}, the longest of ${count(windows.longest, "token")}` : "no recited stretch";
  const picture = svg("svg", { role: "img", viewBox: "0 0 1000 40", preserveAspectRatio: "none", "aria-label": `Map of the document, from its first to its last token: ${words}.` });
  picture.append(svg("rect", { class: "paper", x: 0, y: 0, width: 1000, height: 40 }));
  const most = new Float32Array(1000); // the largest share of a window that is right, by place
  windows.right.forEach((right, n) => {
    const [from, to] = [starts[n], starts[n] + windows.window].map((t) => Math.min(999, Math.floor((1000 * t) / total)));
    for (let x = from; x <= to; x++) most[x] = Math.max(most[x], right / windows.window);
  });
  picture.append(svg("path", { class: "share", d: `M0,40${Array.from(most, (share, x) => `L${x},${(40 - 32 * share).toFixed(1)}`).join("")}L1000,40Z` }));
  for (const [from, to] of windows.spans) {
    const width = Math.max(2, (1000 * (to - from)) / total);
    picture.append(svg("rect", { class: "span", x: (1000 * from) / total, y: 0, width, height: 40 }));
  }
  const mark = svg("path", { class: "mark" });
  picture.append(mark);
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    choose(Math.min(total - 1, Math.floor((total * (event.clientX - box.left)) / box.width)));
  });
  const move = (t) => mark.setAttribute("d", `M${(1000 * (t + 0.5)) / total},0v40`);
  return { node: el("div", { class: "map" }, picture), move };
}

function listOfStretches(choose) {
  const order = [...windows.spans].sort((a, b) => b[1] - b[0] - (a[1] - a[0]) || a[0] - b[0]);
  const text = (from, to) => tokens.targets.slice(from, Math.min(to, from + 24)).map((id) => tokens.texts[id]).join("");
  const rows = order.slice(0, 200).map(([from, to]) => [
    el("button", { type: "button", click: () => choose(from) }, `${whole(from)} to ${whole(to - 1)}`),
    whole(to - from), el("span", { class: "code" }, `${text(from, to)}${to - from > 24 ? "…" : ""}`)]);
  const few = order.length > 200 ? ` (${whole(order.length)}; here the longest 200)` : "";
  return table(`The recited stretches, the longest first${few}; open one to read it`,
    [{ name: "tokens" }, { name: "length", right: true }, { name: "text" }], rows);
}

// --- The page ------------------------------------------------------------------------------------

const start = windows.spans.length ? windows.spans.reduce((a, b) => (b[1] - b[0] > a[1] - a[0] ? b : a))[0] : 0;
const map = documentMap((t) => place.set(t));
const place = slider("Place", total - 1, start, describePlace, (t) => {
  map.move(t);
  view.go(0, total, t);
});
const legendOfTokens = tokenLegend(new Set(levels));
legendOfTokens.update(levels);
const hint = "The map is the whole document from left to right: of full height where it is recited, and lower where the first tokens of a window are right. Click on it, or move the slider, to read there. Each window is recited from a context of its own, so one decoding need not yield a whole stretch.";
main.append(...pageHead(), section("What is recited, and where", el("p", { class: "muted" }, hint), map.node, place.node,
  legendOfTokens.node, view.node, windows.spans.length ? listOfStretches((t) => place.set(t)) : el("p", {}, "No window is recited.")), allFields());
place.set(start); // scrolls to it, now that the text is on the page
