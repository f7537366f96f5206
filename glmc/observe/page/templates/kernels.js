// The kernel calls of the final plan, by layer, for each phase.
const noPlan = () => el("p", { class: "absent" },
  "This compile has no plan: it was not lowered to kernel calls. Only the passes are shown.");

const byteNote = (plan) => `Bytes of the weights and buffers that a call names, at the largest bucket (${bucketOf(plan)}): ` +
  "all experts are counted, whichever a step reads, and nothing of the cache.";
const bucketOf = (plan) => `${plural(plan.tokens, "token")}, ${plural(plan.sequences, "sequence")}`;

function showKernels(address) {
  const plan = planNamed(address.kernels);
  if (!plan) return noPlan();
  const wanted = layerOfKey(address.layer);
  const calling = address.call === undefined ? null : Number(address.call);
  const block = (wanted !== undefined && callBlock(plan, wanted)) || callBlock(plan, usualLayer()) || plan.blocks[0];
  const layer = wanted !== undefined && covers(block, wanted) ? wanted : block.layer;
  const captured = plan.segments.filter(([, , inGraph]) => inGraph).length;
  return el("section", { class: "kernels" },
    el("h1", {}, "Kernel calls", " ", el("small", {}, `${plan.phase}, ${layerName(layer)}`)),
    el("div", { class: "bar" },
      segmented("phase", plans.map((each) => [each.phase, each.phase]), plan.phase,
        (phase) => addressOf({ kernels: phase, layer: layerKey(layer), node: address.node })),
      select("layer", [null, ...layers].map((each) => [layerKey(each), layerName(each)]), layerKey(layer),
        (key) => go(addressOf({ kernels: plan.phase, layer: key }))),
      layer === null ? null : el("a", { href: addressOf({ layer: layerKey(layer) }) }, `story of layer ${layer}`),
      el("a", { href: addressOf({ memory: plan.phase, layer: layerKey(layer) }) }, "memory of these calls")),
    el("p", { class: "muted" }, `${plural(callCount(plan), "call")} in ${plural(plan.segments.length, "segment")}, `,
      `${captured} of them captured as device graphs. A planned list for ${DATA.target || "no target"}${plan.seconds ? "" : ": no call was timed"}. `, byteNote(plan), measuredNote(plan, block, layer)),
    el("nav", { class: "chips", "aria-label": "layers" }, plan.blocks.map((each) =>
      el("a", { href: addressOf({ kernels: plan.phase, layer: layerKey(each.layer) }), "aria-current": each === block ? "true" : null },
        layerSpan([each.layer, ...each.like]), el("span", { class: "count" }, plural(each.calls.length, "call"))))),
    callTable(plan, block, layer, calling));
}

function callTable(plan, block, layer, calling) {
  const [judged, timed] = [hasErrors(block, layer), hasTimes(plan, block, layer)];
  const rows = block.calls.map((call) => {
    const number = callNumber(block, call, layer);
    const id = wholeCall(layer, TEXT[call.node]);
    const row = el("tr", { class: number === calling ? "current" : "", id: `call-${number}` },
      el("td", { class: "number" }, number),
      el("td", {}, el("b", { class: "kernel" }, TEXT[call.function]),
        el("div", { class: "arguments" }, argumentsOf(TEXT[call.arguments], call.writes.map((at) => TEXT[at])))),
      el("td", {}, nodeLink(id, TEXT[call.node]),
        el("div", { class: "muted" }, TEXT[call.op]),
        call.host ? el("div", { class: "tag" }, "host") : null),
      el("td", { class: "passes" }, call.passes.length ? call.passes.map((at, place) => [place ? ", " : "", passLink(TEXT[at], layer, id)]) : "–",
        el("div", { class: "muted source" }, TEXT[call.source])),
      el("td", { class: "number" }, bytes(call.weights + call.buffers),
        call.weights ? el("div", { class: "muted" }, `${bytes(call.weights)} weights`) : null),
      timed ? timeCell(plan, number, id) : null,
      judged ? errorCell(block, call, id) : null);
    if (number === calling) requestAnimationFrame(() => row.scrollIntoView({ block: "center" }));
    return row;
  });
  const heads = [["call", "number"], "kernel and arguments", "node", "passes, source", ["bytes", "number"], ...measuredHeads(judged, timed)];
  return table("calls", heads, rows, "calls");
}

// Ids of calls outside the layers are whole.
const wholeCall = (layer, id) => (layer === null ? id : whole(id, layer));

// A pass by its name; that of the phases is no step of its own.
function passLink(name, layer, node) {
  const step = stepNamed(name) || steps.find((each) => each.pass === name);
  return step ? el("a", { href: addressOf({ pass: step.name, layer: layerKey(layer), node }) }, name) : name;
}

// "name=value, name=[1, 2]" with names told from values, and what is written marked.
function argumentsOf(text, writes) {
  const parts = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at <= text.length; at += 1) {
    const letter = text[at];
    if ("([{".includes(letter || " ")) depth += 1;
    if (")]}".includes(letter || " ")) depth -= 1;
    if (at === text.length || (letter === "," && depth === 0)) {
      if (at > start) parts.push(text.slice(start, at).trim());
      start = at + 1;
    }
  }
  return parts.map((part, at) => {
    const cut = part.indexOf("=");
    const name = part.slice(0, Math.max(cut, 0)).replace(/\*$/, "");
    const written = writes.includes(name);
    return el("span", { class: written ? "written" : "", title: written ? "written by the call" : null },
      el("i", {}, `${name}=`), part.slice(cut + 1), at < parts.length - 1 ? ", " : "");
  });
}
