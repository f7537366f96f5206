// What was measured after the compile: errors of nodes from an alignment, times of calls from a timeline.
const ALIGNED = DATA.aligned;
const TIMED = DATA.timed;
const SEVERITY = ["own", "fail", "unknown", "ok"]; // the worst first
const saidOf = (measured) => (measured.said ? ` (${measured.said})` : "");
const wrongIn = (some) => some.filter((each) => each.verdict === "own" || each.verdict === "fail");
const worstOf = (some) => [...some].sort((a, b) => SEVERITY.indexOf(a.verdict) - SEVERITY.indexOf(b.verdict))[0];

// The errors by node; those of its results, such as "[1]", belong to a node too.
const wholeNode = (id) => id.replace(/\[\d+\]$/, "");
const judged = Object.entries(ALIGNED ? ALIGNED.nodes : {}).map(([id, [verdict, error, step, address]]) => ({ id, verdict, error, step, address }));
const errors = new Map();
for (const each of judged) {
  for (const name of new Set([each.id, wholeNode(each.id)])) errors.set(name, [...errors.get(name) || [], each].sort((a, b) => (a.id < b.id ? -1 : 1)));
}
const errorsOf = (id) => errors.get(id) || [];
const errorsIn = (layer) => judged.filter(({ id }) => split(id).layer === layer && lastWith(id));

const leading = (page, address, kind, ...text) => (page ? el("a", { href: page + address, class: kind }, text) : el("span", { class: kind }, text));
const errorLink = (each) => leading(ALIGNED.page, each.address, `judgement ${each.verdict}`, `${each.verdict}: ${each.error}`);

// Times of calls. Where they have a column its head says how they came about.
const timedIn = (plan) => (TIMED && plan.seconds ? TIMED.phases[plan.phase] : null);
const measuredHeads = (judged, timed) => [...(timed ? [[`time${saidOf(TIMED)}`, "number"]] : []), ...(judged ? ["error"] : [])];
const timeText = (seconds) => `${duration(seconds)}${saidOf(TIMED)}`;
const sumOf = (plan, numbers) => numbers.reduce((sum, number) => sum + (plan.seconds[number] || 0), 0);

function timeLink(plan, id, text) {
  const { shown } = timedIn(plan);
  return leading(shown ? TIMED.page : "", addressOf({ node: id }), "", text);
}
const timeCell = (plan, number, id) => el("td", { class: "number" },
  plan.seconds[number] === null ? "–" : timeLink(plan, id, duration(plan.seconds[number])));

// The error of a node stands at the call that completes it, the last one for it.
function errorCell(block, call, id) {
  const last = block.calls.findLast((each) => each.node === call.node);
  const some = last === call ? errorsOf(id) : [];
  return el("td", { class: "errors" }, some.map((each) => el("div", {}, some.length > 1 ? `${each.id.slice(id.length)} ` : null, errorLink(each))));
}
const hasErrors = (block, layer) => block.calls.some((call) => errorsOf(wholeCall(layer, TEXT[call.node])).length);
const hasTimes = (plan, block, layer) => Boolean(timedIn(plan)) && block.calls.some((call) => plan.seconds[callNumber(block, call, layer)] !== null);

// Whose the numbers of a table of calls are.
function measuredNote(plan, block, layer) {
  return [
    hasErrors(block, layer) ? [` Errors are the worst of the steps that were aligned with ${ALIGNED.expected}${saidOf(ALIGNED)}`, leadsTo("heat map", ALIGNED.page), "."] : null,
    hasTimes(plan, block, layer) ? [` Times are those of ${timedIn(plan).steps}${saidOf(TIMED)}, from ${TIMED.label}`, leadsTo("timeline", TIMED.page), "."] : null,
  ];
}
const leadsTo = (name, page) => (page ? [" (", el("a", { href: page }, name), ")"] : null);

// Of a node in the panel: its errors and times, or those of the nodes that it became part of.
function measured(id) {
  const ends = [lastStep(), ...steps.filter((step) => step.isPhase)];
  const ids = [...new Set([id, ...ends.flatMap((step) => carriers(step, id).map(({ node, layer }) => whole(node.id, layer)))])];
  const rows = [...new Set(ids.flatMap(errorsOf))].map((each) => ["error", el("div", {},
    errorLink(each), ` in ${each.step}`, each.id === id ? null : [", of ", nodeLink(each.id)])]);
  for (const plan of plans.filter(timedIn)) {
    const calls = callsOf(plan, wholeNode(id)).map(({ call, layer, block }) => ({ number: callNumber(block, call, layer), node: wholeCall(layer, TEXT[call.node]) }))
      .filter(({ number }) => plan.seconds[number] !== null);
    if (calls.length) rows.push([`time in ${plan.phase}`, el("div", {}, timeLink(plan, calls[0].node, timeText(sumOf(plan, calls.map(({ number }) => number)))), `, ${plural(calls.length, "call")}`)]);
  }
  return rows.length ? el("section", {}, el("h3", {}, "Measured"), facts(rows)) : "";
}

// Of a layer in its story: right or not by the alignment, as a line of its verdict.
function alignedLine(layer) {
  const some = errorsIn(layer);
  if (!some.length) return null;
  const wrong = wrongIn(some);
  const unknown = some.filter((each) => each.verdict === "unknown");
  const worst = worstOf(some);
  const kind = wrong.length ? "bad" : unknown.length ? "open" : "good";
  const said = wrong.length ? `${wrong.length} of ${plural(some.length, "value")} ${wrong.length === 1 ? "is" : "are"} wrong`
    : unknown.length ? `of ${unknown.length} of ${plural(some.length, "value")} nothing is known` : `${plural(some.length, "value")} as expected`;
  return el("li", { class: kind }, `Aligned with ${ALIGNED.expected}${saidOf(ALIGNED)}: ${said}`,
    kind === "good" ? null : [wrong.length > 1 ? ", the first " : ", ", nodeLink(worst.id, split(worst.id).id)], ", ", errorLink(worst), ` in ${worst.step}.`);
}
