// One node followed from the model's source to the kernel call: the panel at the side.
const panel = document.getElementById("panel");

const nodeLink = (id, text, title) =>
  el("a", { class: "id", href: withParts({ node: id }), title: title || id }, text || id);

function showNode(id) {
  panel.replaceChildren();
  panel.hidden = !id;
  document.body.classList.toggle("with-panel", Boolean(id));
  if (!id) return;
  const last = lastWith(id);
  const close = el("a", { class: "close", href: withParts({ node: null }), "aria-label": "close" }, "×");
  panel.append(el("header", {}, el("h2", {}, id), close));
  if (!last) {
    const near = byText(split(id).id).slice(0, 8);
    panel.append(el("p", { class: "absent" }, "No step of this compile has a node with this id."),
      near.length ? el("p", {}, "Close to it: ") : null,
      el("ul", {}, near.map((hit) => el("li", {}, nodeLink(whole(hit.id, hit.layers.includes(split(id).layer) ? split(id).layer : hit.layers[0]))))));
    return;
  }
  const place = split(id);
  const block = blockOf(last, place.layer);
  const node = byId(block).get(place.id);
  panel.append(
    facts([
      ["op", el("code", {}, node.op)],
      ["value", el("code", {}, node.value || "none")],
      ["module", el("code", {}, node.module ? whole(node.module, place.layer) : "none")],
      ["layer", layerFacts(block, place.layer)],
      ["now", standsFor(id, last, place.layer)],
    ]),
    el("p", { class: "actions" },
      el("a", { href: addressOf({ graph: layerKey(place.layer), step: last.name, node: id }) }, "in the graph"),
      el("a", { href: addressOf({ pass: last.name, layer: layerKey(place.layer), node: id }) }, "before and after"),
      copyLink(id)),
    origins(node, place.layer),
    road(id, node, place.layer),
    kernels(id),
    wiring(last, node, place),
  );
  panel.scrollTop = 0;
}

const facts = (rows) =>
  el("dl", { class: "facts" }, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

function layerFacts(block, layer) {
  if (layer === null) return "outside the layers";
  const like = [block.layer, ...block.like].filter((other) => other !== layer);
  return `${layer}${like.length ? `, the same in ${layerSpan(like)}` : ""}`;
}

// What the last step knows the node as.
function standsFor(id, last, layer) {
  if (last === lastStep() || PHASES.has(last.name)) return el("span", {}, "in the last graph, after ", stepLink(last, layer));
  const now = carriers(lastStep(), id);
  const until = [" (own id until ", stepLink(last, layer), ")"];
  if (!now.length) return el("span", {}, "in no later graph", until);
  return el("span", {}, "part of ", nodeLink(whole(now[0].node.id, now[0].layer)), ` ${now[0].node.op}`, until);
}

const stepLink = (step, layer) =>
  el("a", { href: addressOf({ pass: step.name, layer: layerKey(layer), node: parseAddress(location.hash).node }) }, step.name);

function copyLink(id) {
  const address = `${location.href.split("#")[0]}${addressOf({ node: id })}`;
  const link = el("a", { href: addressOf({ node: id }), class: "copy" }, "link to this node");
  link.addEventListener("click", () => {
    if (navigator.clipboard) navigator.clipboard.writeText(address).then(() => { link.textContent = "link copied"; }, () => {});
  });
  return link;
}

// The nodes of the capture that this one stands for, by the line of the model they came from.
function origins(node, layer) {
  const first = steps[0];
  const rows = (node.origins.length ? node.origins : [node.id]).map((origin) => {
    const id = origin === node.id ? whole(origin, layer) : wholeOrigin(first, layer, origin);
    const place = split(id);
    return { id, found: byId(blockOf(first, place.layer)).get(place.id) };
  });
  const lines = new Map();
  for (const row of rows) {
    const line = row.found ? row.found.source || "no source line recorded" : "not in the capture";
    if (!lines.has(line)) lines.set(line, []);
    lines.get(line).push(row);
  }
  const count = rows.filter((row) => row.found).length;
  const list = [...lines].map(([line, some]) => el("li", {},
    el("div", { class: "source" }, line),
    some.map(({ id, found }) => el("div", { class: "was" },
      nodeLink(id, split(id).id), found ? el("code", {}, found.op) : null,
      found ? el("code", {}, found.value) : null))));
  return el("section", {},
    el("h3", {}, "Source line and capture"),
    count ? null : el("p", { class: "absent" }, "The capture has no such node: a pass made it."),
    el("ol", { class: "road" }, list));
}

function wholeOrigin(step, layer, origin) {
  return wholeOperand(step, layer, origin);
}

// Every step that changed what stands for the node.
function road(id, node, layer) {
  const rows = [];
  const anchor = steps.some((step, at) => !at && carriers(step, id).length) ? id : firstOrigin(node, layer, id);
  let earlier = [];
  for (const step of steps) {
    const from = before(step);
    if (from) earlier = carriers(from, anchor);
    const now = carriers(step, anchor);
    const names = (some) => some.map((one) => `${one.layer}/${one.node.index}`).join(" ");
    if (names(now) === names(earlier) || (!from && step === steps[0])) continue;
    rows.push(roadStep(step, now, earlier, layer));
  }
  return el("section", {},
    el("h3", {}, "Passes"),
    rows.length ? el("ol", { class: "road" }, rows)
      : el("p", { class: "absent" }, "No pass changed it."));
}

function firstOrigin(node, layer, id) {
  const origin = node.origins.find((one) => one !== node.id);
  const found = origin === undefined ? id : wholeOrigin(steps[0], layer, origin);
  return carriers(steps[0], found).length ? found : id;
}

function roadStep(step, now, earlier, layer) {
  const touched = now.some((one) => one.node.passes.includes(passOf(step)) &&
    !earlier.some((old) => old.node.id === one.node.id && old.node.passes.length === one.node.passes.length));
  const what = !now.length ? "gone: nothing reads it any more"
    : !earlier.length ? "made here" : touched ? "rewritten" : "operands or shape changed";
  return el("li", { class: touched || !now.length || !earlier.length ? "touched" : "rewired" },
    el("div", {}, el("b", {}, stepLink(step, now.length ? now[0].layer : layer)), " ", el("span", { class: "muted" }, what)),
    now.map((one) => el("div", { class: "was" },
      nodeLink(whole(one.node.id, one.layer), one.layer === layer ? one.node.id : whole(one.node.id, one.layer)),
      el("code", { class: "op" }, one.node.op), el("code", {}, one.node.value))));
}

function kernels(id) {
  const rows = plans.map((plan) => {
    const found = callsOf(plan, id);
    return el("li", {},
      el("div", {}, el("b", {}, plan.phase), found.length ? "" : el("span", { class: "absent" }, " no call names this id")),
      found.map(({ call, layer, block }) => el("div", { class: "was call" },
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

function wiring(step, node, place) {
  const block = blockOf(step, place.layer);
  const users = nodesOf(block).filter((other) => other.operands.includes(node.id))
    .map((other) => whole(other.id, place.layer));
  if (place.layer !== null) {
    for (const other of nodesOf(blockOf(step, place.layer + 1))) {
      if (other.operands.includes(`previous:${node.id}`)) users.push(whole(other.id, place.layer + 1));
    }
  }
  const list = (name, ids) => [el("dt", {}, name),
    el("dd", {}, ids.length ? ids.map((id) => el("div", {}, nodeLink(id))) : "none")];
  const operands = [...new Set(node.operands)].map((id) => wholeOperand(step, place.layer, id));
  return el("section", {}, el("h3", {}, `Reads and readers, after ${step.name}`),
    el("dl", { class: "facts" }, list("reads", operands), list("read by", users)));
}
