// The story of a layer: one sentence, then the passes in order, then its kernel calls.
function showStory(address) {
  const wanted = layerOfKey(address.layer);
  const layer = wanted !== undefined && layers.includes(wanted) ? wanted : usualLayer();
  if (layer === null) return el("p", { class: "absent" }, "The program has no layers.");
  const at = layers.indexOf(layer);
  const move = (by) => (layers[at + by] === undefined ? undefined : addressOf({ layer: String(layers[at + by]), kernels: address.kernels }));
  keys.p = move(-1);
  keys.n = move(1);
  const tale = tell(layer);
  return el("section", { class: "story" },
    el("h1", {}, `Layer ${layer}`),
    el("p", { class: "lead" }, sentence(tale)),
    judgement(tale),
    el("div", { class: "bar" },
      select("layer", layers.map((each) => [String(each), layerName(each)]), String(layer), (key) => go(addressOf({ layer: key, kernels: address.kernels }))),
      el("a", { href: addressOf({ graph: String(layer) }) }, "picture"),
      plans.length ? el("a", { href: addressOf({ memory: planNamed(address.kernels).phase, layer: String(layer) }) }, "memory") : null,
      el("span", { class: "hint" }, el("kbd", {}, "p"), el("kbd", {}, "n"), " layer")),
    tale.near.length ? [el("h2", {}, "Not fused"), nearTable(tale.near)] : null,
    el("h2", {}, "Passes, in order"),
    passTable(tale),
    el("h2", {}, "Kernel calls"),
    storyCalls(layer, planNamed(address.kernels)));
}

// What there is to say of a layer.
function tell(layer) {
  const acts = steps.filter((step) => before(step)).map((step) => ({ step, ...effect(step, layer) }));
  const told = acts.filter((act) => act.changed);
  const passes = [...new Set(told.map((act) => act.step.pass))];
  const provable = told.filter((act) => act.step.rewrites);
  return {
    layer, acts, told, passes,
    like: kindOfLayer(layer).filter((other) => other !== layer),
    first: operations(blockOf(steps[0], layer)),
    last: operations(blockOf(lastStep(), layer)),
    differing: told.filter(({ step }) => step.expected !== null && step.expected !== step.matches.reduce((sum, [, some]) => sum + some.length, 0)),
    near: steps.flatMap((step) => step.near.filter((miss) => miss.layer === layer)),
    provable,
    proved: provable.filter((act) => act.step.verdict),
  };
}

function sentence(tale) {
  const calls = mainFirst().map((plan) => {
    const block = callBlock(plan, tale.layer);
    const time = block && hasTimes(plan, block, tale.layer) ? sumOf(plan, block.calls.map((call) => callNumber(block, call, tale.layer))) : null;
    return [", ", el("b", {}, plural(block ? block.calls.length : 0, "call")), ` in ${plan.phase}`, time === null ? null : [" taking ", el("b", {}, timeText(time))]];
  });
  return [
    tale.like.length ? `Like ${layerSpan(tale.like)}: ` : "Like no other layer: ",
    el("b", {}, `${tale.first} to ${plural(tale.last, "node")}`), " by ", ...authors(tale),
    plans.length ? calls : ", not lowered", ".",
  ];
}

// The passes of a layer by name; of many those that took the most nodes away.
const NAMED = 3;
function authors(tale) {
  const weight = (name) => tale.told.filter((act) => act.step.pass === name)
    .reduce((sum, act) => sum + act.taken.length - act.made.length, 0);
  const many = tale.passes.length > NAMED;
  const named = many ? [...tale.passes].sort((a, b) => weight(b) - weight(a)).slice(0, NAMED) : tale.passes;
  const links = named.map((name, at) => [at ? (at === named.length - 1 ? " and " : ", ") : "", passLink(name, tale.layer)]);
  if (!named.length) return ["no pass"];
  return many ? [`${plural(tale.passes.length, "pass")} (most by `, links, ")"] : links;
}

// Right or not: match counts, near misses, and the proof or the command that makes it.
function judgement(tale) {
  const names = tale.differing.map((act) => act.step.name).join(", ");
  const misses = tale.near.length ? `, ${plural(tale.near.length, "near miss")} here` : "";
  const counts = !DATA.verdict.counted ? ["open", `No match counts are known for this model${misses}.`]
    : tale.differing.length || tale.near.length ? ["bad", `Match counts ${names ? `differ in ${names}` : "as expected"}${misses}.`]
      : ["good", "Match counts as expected, no near miss."];
  const all = tale.provable.length > 0 && tale.proved.length === tale.provable.length;
  const proof = all ? ["good", `Proved: ${plural(tale.proved.length, "pass")} ${DATA.verdict.tensors}.`]
    : ["open", tale.proved.length ? `${tale.proved.length} of ${plural(tale.provable.length, "pass")} proved. ` : "Not proved. "];
  return el("ul", { class: "verdict", "aria-label": "verdict" },
    el("li", { class: counts[0] }, el("a", { href: "#checks" }, counts[1])),
    alignedLine(tale.layer),
    el("li", { class: proof[0] }, proof[1], all ? null : ["This proves it: ", el("code", { class: "command" }, DATA.verdict.command.split(" ").map((word, at) => [at ? " " : "", el("span", {}, word)]))]));
}

function passTable(tale) {
  const most = Math.max(1, tale.first);
  const rows = tale.told.map(({ step, taken, made }) => {
    const left = operations(blockOf(step, tale.layer));
    return el("tr", {},
      el("td", {}, el("a", { href: addressOf({ pass: step.name, layer: String(tale.layer) }), title: "before and after" }, el("b", {}, step.name)),
        el("div", { class: "muted" }, step.isPhase ? step.pass : step.numerics)),
      el("td", { "data-name": "took" }, opList(taken)),
      el("td", { "data-name": "made" }, opList(made)),
      el("td", { class: "profile" }, el("span", { class: "meter", style: `--share:${left / most}` }), el("span", { class: "change" }, left)),
      el("td", {}, verdictOf(step)),
      el("td", {}, el("a", { href: addressOf({ pass: step.name, layer: String(tale.layer) }), "aria-label": `before and after ${step.name}` }, "before/after")));
  });
  const quiet = tale.acts.filter((act) => !act.changed);
  return [
    rows.length ? table("passes of the layer", ["pass", "took", "made", "nodes left", "verdict on the whole model", "look"], rows, "tale acts")
      : el("p", { class: "absent" }, "No pass changed this layer."),
    quiet.length ? el("p", { class: "note" }, "Nothing of its own in ", quiet.map(({ step }, at) => [at ? ", " : "", stepLink(step, tale.layer)]), ".") : null,
  ];
}

function storyCalls(layer, plan) {
  if (!plan) return noPlan();
  const block = callBlock(plan, layer);
  return [
    plans.length > 1 ? el("div", { class: "bar" }, segmented("phase", plans.map((each) => [each.phase, each.phase]), plan.phase,
      (phase) => addressOf({ layer: String(layer), kernels: phase }))) : null,
    block ? callSums(plan, block, layer) : el("p", { class: "absent" }, "The plan has no call of this layer."),
    el("p", { class: "note" }, byteNote(plan), plan.seconds ? null : " No timeline is at hand: calls have no times.",
      block ? measuredNote(plan, block, layer) : null),
  ];
}

function callSums(plan, block, layer) {
  const [judged, timed] = [hasErrors(block, layer), hasTimes(plan, block, layer)];
  const heads = [["call", "number"], "kernel", "computes", "made by", ["weights", "number"], ["buffers", "number"], ...measuredHeads(judged, timed)];
  const rows = block.calls.map((call) => {
    const number = callNumber(block, call, layer);
    const id = wholeCall(layer, TEXT[call.node]);
    const last = call.passes[call.passes.length - 1];
    return el("tr", {},
      el("td", { class: "number" }, number),
      el("td", {}, el("a", { class: "kernel", href: addressOf({ kernels: plan.phase, layer: String(layer), call: number }) }, TEXT[call.function])),
      el("td", {}, nodeLink(id, TEXT[call.op])),
      el("td", {}, last === undefined ? "–" : passLink(TEXT[last], layer)),
      el("td", { class: "number" }, call.weights ? bytes(call.weights) : "–"),
      el("td", { class: "number" }, call.buffers ? bytes(call.buffers) : "–"),
      timed ? timeCell(plan, number, id) : null,
      judged ? errorCell(block, call, id) : null);
  });
  const sum = (read) => block.calls.reduce((total, call) => total + read(call), 0);
  rows.push(el("tr", { class: "sum" }, el("td", {}), el("td", {}, `${plural(block.calls.length, "call")}`), el("td", {}), el("td", {}),
    el("td", { class: "number" }, bytes(sum((call) => call.weights))), el("td", { class: "number" }, bytes(sum((call) => call.buffers))),
    timed ? el("td", { class: "number" }, duration(sumOf(plan, block.calls.map((call) => callNumber(block, call, layer))))) : null,
    judged ? el("td", {}) : null));
  return table("kernel calls of the layer", heads, rows, "tale");
}
