// Search by layer, op or id: words that must all be there, and a number that names the layer.
const box = document.getElementById("search");
const list = document.getElementById("results");
const MOST = 60;

// Layers that read the same at every step; each with what stands for it.
function kinds() {
  const found = new Map();
  for (const layer of [null, ...layers]) {
    const key = layer === null ? "outside" : steps.map((step) => blockOf(step, layer)?.layer).join();
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(layer);
  }
  return [...found.values()];
}

// Every node once, under the last step that has it, layers that say the same of it together.
let index = null;
function everything() {
  if (index) return index;
  const hits = new Map();
  for (const some of kinds()) {
    const seen = new Map();
    for (const step of [...steps].reverse()) {
      for (const node of nodesOf(blockOf(step, some[0]))) {
        if (seen.has(node.id)) seen.get(node.id).ops.add(node.op);
        else seen.set(node.id, { id: node.id, ops: new Set([node.op]), step });
      }
    }
    for (const hit of seen.values()) {
      const key = [some[0] === null ? "outside" : "", hit.id, ...hit.ops, hit.step.name].join("/");
      if (!hits.has(key)) hits.set(key, { ...hit, layers: [] });
      hits.get(key).layers.push(...some);
    }
  }
  for (const hit of hits.values()) hit.layers.sort((one, other) => one - other);
  index = [...hits.values()];
  return index;
}

const byText = (text) => everything().filter((hit) => hit.id.includes(text) || text.includes(hit.id));

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const whole_ = text.trim();
  if (lastWith(whole_)) return [{ kind: "node", title: whole_, detail: "this node", address: { node: whole_ } }];
  const number = words.map((word) => /^(?:layer[:=]?|l)?(\d+)$/.exec(word)).find(Boolean);
  const layer = number && layers.includes(Number(number[1])) ? Number(number[1]) : null;
  const rest = words.filter((word) => word !== "layer" && !(layer !== null && number && word === number[0]))
    .map((word) => word.replace(/^(op|id):/, ""));
  const has = (some) => rest.every((word) => some.some((one) => one.toLowerCase().includes(word)));
  const hits = [];
  if (layer !== null && !rest.length) {
    hits.push({ kind: "layer", title: `layer ${layer}`, detail: "graph", address: { graph: String(layer) } });
    for (const plan of plans) hits.push({ kind: "layer", title: `layer ${layer}`, detail: `kernels of ${plan.phase}`, address: { kernels: plan.phase, layer: String(layer) } });
  }
  const passes = [];
  if (rest.length) {
    for (const step of steps) if (has([step.name])) passes.push({ kind: "pass", title: step.name, detail: step.stage, address: { pass: step.name, layer: layer === null ? null : String(layer) } });
  }
  const nodeHits = rest.length || layer !== null ? everything().filter((hit) => (layer === null || hit.layers.includes(layer)) && has([hit.id, ...hit.ops])) : [];
  nodeHits.sort((a, b) => score(b, rest) - score(a, rest));
  if (layer === null) hits.push(...passes);
  for (const hit of nodeHits.slice(0, MOST)) {
    const shown = layer === null ? hit.layers[0] : layer;
    hits.push({ kind: "node", title: hit.id, op: [...hit.ops][0], detail: `${layer === null ? layerSpan(hit.layers) : layerName(layer)} · ${[...hit.ops].join(", ")} · last in ${hit.step.name}`,
      address: { node: whole(hit.id, shown) } });
  }
  if (layer !== null) hits.push(...passes);
  if (rest.length) hits.push(...kernelHits(has, layer));
  return hits;
}

// What is in the final graph comes first, then what is named just so.
function score(hit, words) {
  const ops = [...hit.ops];
  return steps.indexOf(hit.step) + (words.some((word) => ops.some((op) => op.endsWith(`.${word}`) || op.endsWith(`_${word}`))) ? 40 : 0) -
    (ops[0] === "weight" || ops[0] === "input" ? 30 : 0) - hit.id.length / 100;
}

function kernelHits(has, layer) {
  const found = [];
  for (const plan of plans) {
    const names = new Map();
    for (const block of plan.blocks) {
      if (layer !== null && !holds(block, layer)) continue;
      for (const call of block.calls) {
        const name = TEXT[call.function];
        if (has([name]) && !names.has(name)) names.set(name, { call, block });
      }
    }
    for (const [name, { call, block }] of names) {
      const where = layer === null ? block.layer : layer;
      found.push({ kind: "kernel", title: name, detail: `${plan.phase}, ${layerName(where)}`,
        address: { kernels: plan.phase, layer: layerKey(where), call: callNumber(block, call, where) } });
    }
  }
  return found;
}

function showResults() {
  const text = box.value.trim();
  list.replaceChildren();
  const hits = text ? find(text) : [];
  list.hidden = !text;
  box.setAttribute("aria-expanded", String(Boolean(text)));
  if (text && !hits.length) list.append(el("li", { class: "absent" }, "Nothing has this layer, op or id."));
  hits.forEach((hit, at) => list.append(el("li", { role: "option", id: `hit-${at}` },
    el("a", { href: addressOf(hit.address), tabindex: "-1", onclick: closeResults },
      el("span", { class: `kind ${hit.kind}` }, hit.kind), el("span", { class: "title" }, hit.title),
      el("span", { class: "detail" }, hit.detail)))));
  choose(0);
}

function choose(at) {
  const items = [...list.querySelectorAll("li[role=option]")];
  items.forEach((item, place) => item.setAttribute("aria-selected", String(place === at)));
  items[at]?.scrollIntoView({ block: "nearest" });
  if (items[at]) box.setAttribute("aria-activedescendant", items[at].id);
}

function closeResults() {
  list.hidden = true;
  box.setAttribute("aria-expanded", "false");
  box.blur();
}

box.addEventListener("input", showResults);
box.addEventListener("focus", () => { if (box.value) showResults(); });
box.addEventListener("keydown", (event) => {
  const items = [...list.querySelectorAll("li[role=option]")];
  const at = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
  if (event.key === "ArrowDown" && at < items.length - 1) choose(at + 1);
  else if (event.key === "ArrowUp" && at > 0) choose(at - 1);
  else if (event.key === "Enter" && items[at]) items[at].querySelector("a").click();
  else if (event.key === "Escape") closeResults();
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) list.hidden = true;
});
