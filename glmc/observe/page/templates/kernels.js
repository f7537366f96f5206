// The kernel calls of the final plan, by layer, for each phase.
function planNamed(name) {
  return plans.find((plan) => plan.phase === name) || plans.find((plan) => plan.phase === "decode") || plans[0];
}

const noPlan = () => el("p", { class: "absent" },
  "This compile has no plan: it was not lowered to kernel calls. Only the passes are shown.");

function showKernels(address) {
  const plan = planNamed(address.kernels);
  if (!plan) return noPlan();
  const wanted = layerOfKey(address.layer);
  const calling = address.call === undefined ? null : Number(address.call);
  const widest = [...plan.blocks].reverse().find((block) => block.layer !== null) || plan.blocks[0];
  const block = (wanted !== undefined && plan.blocks.find((one) => holds(one, wanted))) || widest;
  const layer = wanted !== undefined && holds(block, wanted) ? wanted : block.layer;
  const total = plan.blocks.reduce((sum, one) => sum + one.calls.length * (1 + one.like.length), 0);
  const captured = plan.segments.filter(([, , held]) => held).length;
  return el("section", { class: "kernels" },
    el("div", { class: "bar" },
      segmented("phase", plans.map((one) => [one.phase, one.phase]), plan.phase,
        (phase) => addressOf({ kernels: phase, layer: layerKey(layer), node: address.node })),
      select("layer", [null, ...layers].map((one) => [layerKey(one), layerName(one)]), layerKey(layer),
        (key) => go(addressOf({ kernels: plan.phase, layer: key }))),
      el("a", { href: addressOf({ memory: plan.phase, layer: layerKey(layer) }) }, "memory of these calls")),
    el("p", { class: "muted" }, `${total} calls in ${plural(plan.segments.length, "segment")}, `,
      `${captured} of them captured as device graphs. A planned list for ${DATA.target || "no target"}: no call was timed.`),
    el("nav", { class: "chips", "aria-label": "layers" }, plan.blocks.map((one) =>
      el("a", { href: addressOf({ kernels: plan.phase, layer: layerKey(one.layer) }), "aria-current": one === block ? "true" : null },
        layerSpan([one.layer, ...one.like]), el("span", { class: "count" }, one.calls.length)))),
    callTable(plan, block, layer, calling));
}

function callTable(plan, block, layer, calling) {
  const rows = block.calls.map((call) => {
    const number = callNumber(block, call, layer);
    const id = wholeCall(block, layer, TEXT[call.node]);
    const row = el("tr", { class: number === calling ? "chosen" : "", id: `call-${number}` },
      el("td", { class: "number" }, number),
      el("td", {}, el("b", { class: "kernel" }, TEXT[call.function]),
        el("div", { class: "arguments" }, argumentsOf(TEXT[call.arguments], call.writes.map((at) => TEXT[at])))),
      el("td", {}, nodeLink(id, TEXT[call.node]),
        el("div", { class: "muted" }, TEXT[call.op]),
        call.host ? el("div", { class: "tag" }, "host") : null),
      el("td", { class: "passes" }, call.passes.length ? call.passes.map((at, place) => [place ? ", " : "",
        stepNamed(TEXT[at]) ? el("a", { href: addressOf({ pass: TEXT[at], layer: layerKey(layer), node: id }) }, TEXT[at]) : TEXT[at]]) : "–",
        el("div", { class: "muted source" }, TEXT[call.source])));
    if (number === calling) requestAnimationFrame(() => row.scrollIntoView({ block: "center" }));
    return row;
  });
  return el("table", { class: "calls" },
    el("thead", {}, el("tr", {}, ["call", "kernel and arguments", "node", "passes, source"].map((name) => el("th", {}, name)))),
    el("tbody", {}, rows));
}

function wholeCall(block, layer, id) {
  // Ids of calls outside the layers are whole.
  return layer === null ? id : whole(id, layer);
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
