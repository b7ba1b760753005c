"use strict";
// The page of a run.

main.append(...data.lines.map((line) => el("p", {}, line)), el("p", { class: "muted" }, data.about));
main.append(figures(data.figures));

const fields = data.fields.map(([name, value, unit, meaning]) =>
  [el("code", {}, name), value === null ? "–" : String(value), unit, meaning]);
main.append(el("details", {}, el("summary", {}, "All fields of the report"),
  table("The report of the run", [{ name: "field" }, { name: "value" }, { name: "unit" }, { name: "meaning" }], fields)));
