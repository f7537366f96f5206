// One node followed from the kernel call back to the model's source: the panel at the side.
const panel = document.getElementById("panel");

const nodeLink = (id, text, title) =>
  el("a", { class: "id", href: withParts({ node: id }), title: title || id }, text || id);
const stepLink = (step, layer, node) =>
  el("a", { href: addressOf({ pass: step.name, layer: layerKey(layer), node }) }, step.name);

function showNode(id) {
  panel.replaceChildren();
  panel.hidden = !id;
  document.body.classList.toggle("with-panel", Boolean(id));
  if (!id) return;
  const last = lastWith(id);
  const close = el("a", { class: "close", href: withParts({ node: null }), "aria-label": "close the node" }, "×");
  panel.append(el("header", {}, el("h2", {}, id), close));
  panel.append(...(last ? aboutNode(id, last) : unknown(id)));
  panel.scrollTop = 0;
}

function unknown(id) {
  const near = byText(split(id).id).slice(0, 8);
  const place = split(id).layer;
  return [
    el("p", { class: "absent" }, "No step of this compile has a node with this id."),
    near.length ? el("p", {}, "Close to it: ") : "",
    el("ul", {}, near.map((hit) => el("li", {}, nodeLink(whole(hit.id, hit.layers.includes(place) ? place : hit.layers[0]))))),
  ];
}

function aboutNode(id, last) {
  const place = split(id);
  const block = blockOf(last, place.layer);
  const node = byId(block).get(place.id);
  return [
    facts([
      ["op", el("code", {}, node.op)],
      ["value", el("code", {}, node.value || "none")],
      ["module", el("code", {}, node.module ? whole(node.module, place.layer) : "none")],
      ["layer", layerFacts(block, place.layer)],
      ["now", standsFor(id, last, place.layer)],
    ]),
    el("p", { class: "actions" },
      place.layer === null ? null : el("a", { href: addressOf({ layer: layerKey(place.layer), node: id }) }, `story of layer ${place.layer}`),
      el("a", { href: addressOf({ graph: layerKey(place.layer), step: last.name, node: id }) }, "in the graph"),
      el("a", { href: addressOf({ pass: last.name, layer: layerKey(place.layer), node: id }) }, "before and after"),
      copyLink(id)),
    measured(id),
    road(id, node, place.layer),
    kernels(id),
    origins(node, place.layer),
    wiring(last, node, place),
  ];
}

function layerFacts(block, layer) {
  if (layer === null) return "outside the layers";
  const like = [block.layer, ...block.like].filter((other) => other !== layer);
  return `${layer}${like.length ? `, the same in ${layerSpan(like)}` : ""}`;
}

// What the last step knows the node as.
function standsFor(id, last, layer) {
  if (last === lastStep() || last.isPhase) return el("span", {}, "in the last graph, after ", stepLink(last, layer, id));
  const now = carriers(lastStep(), id);
  const until = [" (own id until ", stepLink(last, layer, id), ")"];
  if (!now.length) return el("span", {}, "in no later graph", until);
  return el("span", {}, "part of ", nodeLink(whole(now[0].node.id, now[0].layer)), ` ${now[0].node.op}`, until);
}

function copyLink(id) {
  const address = `${location.href.split("#")[0]}${addressOf({ node: id })}`;
  const link = el("a", { href: addressOf({ node: id }), class: "copy" }, "link to this node");
  link.addEventListener("click", () => {
    if (navigator.clipboard) navigator.clipboard.writeText(address).then(() => { link.textContent = "link copied"; }, () => {});
  });
  return link;
}

// Every step that changed what stands for the node, with its verdict.
function road(id, node, layer) {
  const rows = [];
  const anchor = carriers(steps[0], id).length ? id : firstOrigin(node, layer, id);
  for (const step of steps) {
    const from = before(step);
    if (!from) continue;
    const [earlier, now] = [carriers(from, anchor), carriers(step, anchor)];
    const names = (some) => some.map((each) => `${each.layer}/${each.node.index}`).join(" ");
    if (names(now) !== names(earlier)) rows.push(roadStep(step, now, earlier, layer, id));
  }
  return el("section", {},
    el("h3", {}, "Passes"),
    rows.length ? el("ol", { class: "road" }, rows)
      : el("p", { class: "absent" }, "No pass changed it."));
}

function firstOrigin(node, layer, id) {
  const origin = node.origins.find((each) => each !== node.id);
  const captured = origin === undefined ? id : wholeOperand(steps[0], layer, origin);
  return carriers(steps[0], captured).length ? captured : id;
}

function roadStep(step, now, earlier, layer, id) {
  const touched = now.some((each) => each.node.passes.includes(step.pass) &&
    !earlier.some((old) => old.node.id === each.node.id && old.node.passes.length === each.node.passes.length));
  const what = !now.length ? "gone: nothing reads it any more"
    : !earlier.length ? "made here" : touched ? "rewritten" : "operands or shape changed";
  return el("li", { class: touched || !now.length || !earlier.length ? "touched" : "rewired" },
    el("div", {}, el("b", {}, stepLink(step, now.length ? now[0].layer : layer, id)), " ", el("span", { class: "muted" }, what),
      step.rewrites ? el("span", { class: "judged" }, verdictOf(step)) : null),
    now.filter((each) => each.node.op !== GETITEM).map((each) => el("div", { class: "was" },
      nodeLink(whole(each.node.id, each.layer), each.layer === layer ? each.node.id : whole(each.node.id, each.layer)),
      el("code", { class: "op" }, each.node.op), el("code", {}, each.node.value))));
}

function kernels(id) {
  const rows = plans.map((plan) => {
    const calls = callsOf(plan, wholeNode(id));
    return el("li", {},
      el("div", {}, el("b", {}, plan.phase), calls.length ? "" : el("span", { class: "absent" }, " no call names this id")),
      calls.map(({ call, layer, block }) => el("div", { class: "was call" },
        el("a", { class: "kernel", href: addressOf({ kernels: plan.phase, layer: layerKey(layer), call: callNumber(block, call, layer), node: id }) },
          `#${callNumber(block, call, layer)} ${TEXT[call.function]}`),
        el("span", { class: "muted" }, segmentOf(plan, callNumber(block, call, layer))))));
  });
  return el("section", {},
    el("h3", {}, "Kernel calls"),
    rows.length ? el("ol", { class: "road" }, rows)
      : el("p", { class: "absent" }, "The compile has no plan: it was not lowered."));
}

function segmentOf(plan, number) {
  const segment = plan.segments.find(([first, last]) => first <= number && number <= last);
  return !segment ? "in no segment" : segment[2] ? "in a device graph" : "called one by one";
}

// The nodes of the capture that this one stands for, by the line of the model they came from.
function origins(node, layer) {
  const first = steps[0];
  const rows = (node.origins.length ? node.origins : [node.id]).map((origin) => {
    const id = origin === node.id ? whole(origin, layer) : wholeOperand(first, layer, origin);
    const place = split(id);
    return { id, captured: byId(blockOf(first, place.layer)).get(place.id) };
  });
  const lines = new Map();
  for (const row of rows) {
    const line = row.captured ? row.captured.source || "no source line recorded" : "not in the capture";
    if (!lines.has(line)) lines.set(line, []);
    lines.get(line).push(row);
  }
  const number = (line) => /^(.*?):(\d+)/.exec(line) || [line, line, "0"];
  const sorted = [...lines].sort(([a], [b]) => number(a)[1].localeCompare(number(b)[1]) || number(a)[2] - number(b)[2]);
  const count = rows.filter((row) => row.captured).length;
  const list = el("ol", { class: "road" }, sorted.map(([line, some]) => el("li", {},
    el("div", { class: "source" }, line),
    some.map(({ id, captured }) => el("div", { class: "was" },
      nodeLink(id, split(id).id), captured ? el("code", {}, captured.op) : null,
      captured ? el("code", {}, captured.value) : null)))));
  return el("section", {},
    el("h3", {}, "Source lines"),
    count ? el("details", { open: rows.length <= 3 }, el("summary", {}, `${plural(count, "node")} of the capture, ${plural(lines.size, "line")}`), list)
      : [el("p", { class: "absent" }, "The capture has no such node: a pass made it."), list]);
}

function wiring(step, node, place) {
  const block = blockOf(step, place.layer);
  const users = nodesOf(block).filter((other) => other.operands.includes(node.id))
    .map((other) => whole(other.id, place.layer));
  if (place.layer !== null) {
    for (const other of nodesOf(blockOf(step, place.layer + 1))) {
      if (other.operands.includes(`previous:${node.id}`)) users.push(whole(other.id, place.layer + 1));
    }
  }
  const list = (name, ids) => [name, ids.length ? ids.map((id) => el("div", {}, nodeLink(id))) : "none"];
  const operands = [...new Set(node.operands)].map((id) => wholeOperand(step, place.layer, id));
  return el("section", {}, el("h3", {}, `Reads and readers, after ${step.name}`),
    facts([list("reads", operands), list("read by", users)]));
}
