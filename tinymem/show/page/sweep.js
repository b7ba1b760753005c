"use strict";
// The page of a sweep and its laws: maps.js, laws.js and planner.js, one below the other.

main.append(el("p", {}, data.about));
main.append(mapsSection());

if (data.laws.length) {
  const parts = { "The power law": powerPart, "The recall law": recallPart, "The planner": plannerPart };
  const boxes = Object.entries(parts).map(([title, make]) => ({ title, make, box: el("div") }));
  const pick = el("select", { id: "law", change: () => draw() },
    ...data.laws.map((law, n) => el("option", { value: n }, law.name)));
  const draw = () => {
    const law = data.laws[Number(pick.value)];
    for (const one of boxes) one.box.replaceChildren(...one.make(law));
  };
  draw();
  if (data.laws.length > 1) {
    main.append(section("Laws and plans",
      el("p", { class: "choice" }, el("label", { for: "law" }, "What follows is of "), pick)));
  }
  main.append(...boxes.map((one) => section(one.title, one.box)));
}
const refused = Object.entries(data.refused).map(([name, reason]) => `Not fitted: ${name}: ${reason}`);
const reasons = [...(data.reason ? [`No law: ${data.reason}`] : []), ...refused];
if (reasons.length) main.append(section("Without a law", ...reasons.map((reason) => el("p", {}, reason))));
