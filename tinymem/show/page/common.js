"use strict";
// What every page uses: elements, numbers, a tooltip, tables, a slider, and charts as SVG.
//
// Texts from the data reach the page as text nodes and attributes only, never as HTML. Colours are
// the variables of page.css, so that a chart follows the reader's colour scheme without a script.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");

// --- Elements ------------------------------------------------------------------------------------

/** An element. Attributes that are null or false are left out, and functions become listeners. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An element of SVG, made the same way. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A part of the page under a heading of its own. */
function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/\W+/g, "-")}`;
  return el("section", { "aria-labelledby": id }, el("h2", { id }, title), ...children);
}

// --- Numbers -------------------------------------------------------------------------------------

/** As in the terminal: three decimals, one digit of what is smaller, a dash for none. */
function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value === 0 || Math.abs(value) >= 0.001 ? value.toFixed(3) : value.toExponential(0);
}

/** 1234 -> "1,234". */
function whole(value) {
  return Math.round(value).toLocaleString("en");
}

/** Few digits, for the ticks of an axis: 0.30000000000000004 -> "0.3". */
function brief(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e7)) return value.toExponential(0);
  return Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
}

/** "one token" or "3 tokens". */
function count(value, one, many = `${one}s`) {
  return value === 1 ? `1 ${one}` : `${whole(value)} ${many}`;
}

/** Viridis, the colour scale of matplotlib, at a share from 0 to 1; with a text colour to go on it. */
function ramp(share) {
  const stops = ["440154", "482878", "3e4a89", "31688e", "26838f", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const channels = [0, 2, 4].map((at) => {
    const [a, b] = [stops[low], stops[low + 1]].map((stop) => parseInt(stop.slice(at, at + 2), 16));
    return Math.round(a + (b - a) * (place - low));
  });
  const linear = channels.map((c) => (c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return { ground: `rgb(${channels.join(" ")})`, text: light > 0.18 ? "#000000" : "#ffffff" };
}

// --- Tooltip -------------------------------------------------------------------------------------

const tip = el("div", { class: "tip", id: "tip", role: "tooltip", hidden: true });
document.body.append(tip);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});

/** Shows these children below an element, or above it where there is no room below. */
function showTip(anchor, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  tip.style.left = "0"; // so that its width is not that of the place where it was
  const box = anchor.getClientRects()[0] || anchor.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const above = box.bottom + tip.offsetHeight + 8 > window.innerHeight && box.top > tip.offsetHeight + 8;
  tip.style.left = `${Math.max(4, Math.min(box.left, room)) + window.scrollX}px`;
  tip.style.top = `${(above ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + window.scrollY}px`;
}

function hideTip() {
  tip.hidden = true;
}

// --- Numbers side by side, and tables ------------------------------------------------------------

/** A list of numbers: [[name, value, note or null], …], all of them text. */
function figures(rows) {
  const boxes = rows.map(([name, value, note]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value), note ? el("dd", { class: "note" }, note) : null));
  return el("dl", { class: "figures" }, ...boxes);
}

/** A table in a box that scrolls inside itself.
 *
 * columns: [{name, right}, …]. rows: arrays of texts or nodes, as many as there are columns.
 */
function table(caption, columns, rows) {
  const side = (n) => (columns[n].right ? "right" : null);
  const head = columns.map((column, n) => el("th", { scope: "col", class: side(n) }, column.name));
  const body = rows.map((row) => el("tr", {}, ...row.map((cell, n) =>
    el(n ? "td" : "th", { class: side(n), scope: n ? null : "row" }, cell))));
  const whole = el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, whole);
}

/** The first lines of a page, and below them its numbers. */
function pageHead() {
  const about = data.about.flatMap((line, n) => (n ? [el("br"), line] : [line]));
  return [...data.lines.map((line) => el("p", {}, line)), el("p", { class: "muted" }, ...about), figures(data.figures)];
}

/** All fields of the report, which open on demand. */
function allFields() {
  const rows = data.fields.map(([name, value, unit, meaning]) =>
    [el("code", {}, name), value === null ? "–" : String(value), unit, meaning]);
  const columns = ["field", "value", "unit", "meaning"].map((name) => ({ name }));
  return el("details", {}, el("summary", {}, "All fields of the report"), table("The report", columns, rows));
}

// --- A slider ------------------------------------------------------------------------------------

/** A slider over the whole numbers from 0 to `most`, which arrows, Home and End move, too.
 *
 * describe(value): the text that stands below and that a screen reader says. change(value): called
 * once a frame at most. Returns {node, set(value)}.
 */
function slider(label, most, start, describe, change) {
  const id = `slider-${document.querySelectorAll("input[type=range]").length}-${label.replace(/\W+/g, "-")}`;
  const input = el("input", { type: "range", id, min: 0, max: most, step: 1 });
  const output = el("output", { for: id, "aria-live": "polite" });
  let waiting = false;
  const update = () => {
    waiting = false;
    const text = describe(Number(input.value));
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
    hideTip(); // what it says may have changed
    change(Number(input.value));
  };
  input.addEventListener("input", () => {
    if (!waiting) requestAnimationFrame(update);
    waiting = true;
  });
  const set = (value) => {
    input.value = value;
    update();
  };
  set(start);
  return { node: el("div", { class: "slider" }, el("label", { for: id }, label), input, output), set };
}

// --- Charts --------------------------------------------------------------------------------------

/** Round numbers on an axis, about so many; on a log axis 1, 2 and 5 times a power of ten. */
function ticks(axis, about) {
  const { low, high, log, whole } = axis;
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of high / low > 300 ? [1] : [1, 2, 5]) found.push(digit * 10 ** power);
    }
    return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const found = [1, 2, 5, 10].map((digit) => digit * power).find((one) => one >= rough * 0.999);
  const step = whole ? Math.max(1, found) : found;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, n) => (first + n) * step);
}

/** A function from a value to a place between 0 and 1. axis: {low, high, log}. */
function scale(axis) {
  const to = axis.log ? Math.log : (value) => value;
  const width = to(axis.high) - to(axis.low) || 1;
  return (value) => (to(value) - to(axis.low)) / width;
}

/** The ends of an axis: its own range, or that of the values. */
function ends(axis, values) {
  const known = values.filter((value) => Number.isFinite(value) && (!axis.log || value > 0));
  let [low, high] = axis.range || [Math.min(...known), Math.max(...known)];
  if (!known.length && !axis.range) [low, high] = [0, 1];
  if (low === high) [low, high] = axis.log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  return { ...axis, low, high };
}

const SHAPES = { // of points, in a square of 8 around 0
  circle: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
  square: "M-3.5,-3.5h7v7h-7z",
  triangle: "M0,-4.5L4.5,3.5H-4.5z",
  diamond: "M0,-5L5,0L0,5L-5,0z",
};

/** A chart of lines and points, redrawn when its width changes.
 *
 * options:
 *   title, summary  heading, and what the chart shows, in words, for those who do not see it
 *   x, y            axes: {label, log, whole, range: [low, high], ticks: [values]}; all but label
 *                   optional. whole: its values are whole numbers
 *   series          [{name, points: [[x, y], …], colour: 1 to 5, dash, line, shape, tip}]: a line
 *                   unless line is false; points if shape is one of SHAPES. y may be null, which
 *                   breaks a line. tip(n): texts to show for point n, which can then be focused.
 *                   marks: points beside the line, to which shape and tip then belong
 *   rules           [{x or y, label}]: a straight line across
 *   height          in pixels
 * Returns {node, cursor(x or null)}; the cursor is an upright line.
 */
function chart(options) {
  const { title, summary, series, rules = [], height = 200 } = options;
  const all = series.flatMap((one) => [...one.points, ...(one.marks || [])]);
  const x = ends(options.x, all.map((point) => point[0]));
  const y = ends(options.y, all.map((point) => point[1]).filter((value) => value !== null));
  const interactive = series.some((one) => one.tip);
  const picture = svg("svg", { role: interactive ? "group" : "img", "aria-label": `${title}. ${summary}` });
  const line = svg("line", { class: "cursor", visibility: "hidden" });
  let [at, place] = [null, null];
  const cursor = (value) => {
    at = value;
    line.setAttribute("visibility", value === null ? "hidden" : "visible");
    if (value !== null && place) for (const end of ["x1", "x2"]) line.setAttribute(end, place(value));
  };
  const draw = (width) => {
    const frame = { left: 56, right: width - 12, top: 8, bottom: height - 40 };
    const [sx, sy] = [scale(x), scale(y)];
    place = (value) => frame.left + sx(value) * (frame.right - frame.left);
    const up = (value) => frame.bottom - sy(value) * (frame.bottom - frame.top);
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const [name, value] of [["y1", frame.top], ["y2", frame.bottom]]) line.setAttribute(name, value);
    picture.replaceChildren(...axes(x, y, place, up, frame), ...rules.flatMap((rule) => drawRule(rule, place, up, frame)),
      ...series.flatMap((one) => drawSeries(one, place, up)), line);
    cursor(at);
  };
  draw(640);
  const node = el("figure", { class: "chart" }, el("figcaption", {}, title), legend(series), picture);
  new ResizeObserver(() => {
    if (picture.clientWidth > 0) draw(Math.round(picture.clientWidth));
  }).observe(node);
  return { node, cursor };
}

function axes(x, y, place, up, frame) {
  const parts = [svg("path", { class: "axis", d: `M${frame.left},${frame.top}V${frame.bottom}H${frame.right}` })];
  for (const value of y.ticks || ticks(y, 4)) {
    parts.push(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: up(value), y2: up(value) }),
      svg("text", { x: frame.left - 6, y: up(value) + 4, "text-anchor": "end" }, brief(value)));
  }
  for (const value of x.ticks || ticks(x, (frame.right - frame.left) / 90)) {
    parts.push(svg("line", { class: "axis", x1: place(value), x2: place(value), y1: frame.bottom, y2: frame.bottom + 4 }),
      svg("text", { x: place(value), y: frame.bottom + 17, "text-anchor": "middle" }, brief(value)));
  }
  const middle = (frame.top + frame.bottom) / 2;
  parts.push(svg("text", { x: (frame.left + frame.right) / 2, y: frame.bottom + 35, "text-anchor": "middle" }, x.label),
    svg("text", { transform: `translate(12 ${middle}) rotate(-90)`, "text-anchor": "middle" }, y.label));
  return parts;
}

function drawRule(rule, place, up, frame) {
  const level = rule.y !== undefined;
  const ends = level
    ? { x1: frame.left, x2: frame.right, y1: up(rule.y), y2: up(rule.y) }
    : { x1: place(rule.x), x2: place(rule.x), y1: frame.top, y2: frame.bottom };
  const text = level
    ? { x: frame.right, y: up(rule.y) - 4, "text-anchor": "end" }
    : { x: place(rule.x) + 4, y: frame.top + 10 };
  return [svg("line", { class: "cursor", ...ends }), svg("text", text, rule.label)];
}

function drawSeries(one, place, up) {
  const colour = `var(--series-${one.colour || 1})`;
  const parts = [];
  if (one.line !== false) {
    let pen = "M";
    const steps = one.points.map(([x, y]) => {
      if (y === null) {
        pen = "M";
        return "";
      }
      const step = `${pen}${place(x).toFixed(1)},${up(y).toFixed(1)}`;
      pen = "L";
      return step;
    });
    parts.push(svg("path", { class: "line", d: steps.join(""), stroke: colour, "stroke-dasharray": one.dash }));
  }
  if (!one.shape) return parts;
  const group = svg("g");
  (one.marks || one.points).forEach(([x, y], n) => {
    if (y === null) return;
    const point = svg("path", { d: SHAPES[one.shape], transform: `translate(${place(x)} ${up(y)})`, fill: colour });
    if (one.tip) {
      const show = () => showTip(point, ...one.tip(n).map((text) => el("div", {}, text)));
      fill(point, { tabindex: n ? -1 : 0, role: "img", "aria-label": one.tip(n).join(", "), keydown: nextPoint }, []);
      fill(point, { mouseenter: show, focus: show, mouseleave: hideTip, blur: hideTip }, []);
    }
    group.append(point);
  });
  return [...parts, group];
}

/** Arrow keys go from point to point of a series; Tab goes on to the next series. */
function nextPoint(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const points = [...event.target.parentNode.children];
  const next = points[points.indexOf(event.target) + step];
  if (!next) return;
  event.target.setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
}

function legend(series) {
  const items = series.filter((one) => one.name).map((one) => {
    const colour = `var(--series-${one.colour || 1})`;
    const line = one.line === false ? null
      : svg("line", { x1: 0, x2: 28, y1: 6, y2: 6, stroke: colour, "stroke-width": 2, "stroke-dasharray": one.dash });
    const shape = one.shape ? svg("path", { d: SHAPES[one.shape], transform: "translate(14 6)", fill: colour }) : null;
    return el("li", {}, svg("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" }, line, shape), one.name);
  });
  return items.length > 1 ? el("ul", { class: "legend" }, ...items) : null;
}
