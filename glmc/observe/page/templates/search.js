// Search by layer, op, id or word: all words must be there, and a number names the layer.
const box = document.getElementById("search");
const list = document.getElementById("results");
const MOST = 60;

// Every node once, under the last step that has it, layers that say the same of it together.
let index = null;
function everything() {
  if (index) return index;
  const hits = new Map();
  for (const some of [[null], ...DATA.kinds]) {
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
  for (const hit of hits.values()) hit.layers.sort((a, b) => a - b);
  index = [...hits.values()];
  return index;
}

const byText = (text) => everything().filter((hit) => hit.id.includes(text) || text.includes(hit.id));

function find(text) {
  const id = text.trim();
  if (lastWith(id)) return [{ kind: "node", title: id, detail: "this node", address: { node: id } }];
  const words = id.toLowerCase().split(/[\s?,]+/).filter(Boolean);
  const numbered = words.map((word) => /^(?:layers?[:=]?|l)?(\d+)$/.exec(word)).find((match) => match && layers.includes(Number(match[1])));
  const layer = numbered ? Number(numbered[1]) : null;
  const rest = words.filter((word) => !IGNORED.has(word) && !(layer !== null && (word === numbered[0] || /^layers?$/.test(word))))
    .map((word) => word.replace(/^(op|id):/, ""));
  if (layer !== null && !rest.length) return [...layerTopics(layer), ...nodeHits(rest, layer)];
  const about = layer === null ? asked(topics(), rest) : asked(layerTopics(layer), rest);
  return [...passHits(rest, layer), ...about, ...nodeHits(rest, layer), ...kernelHits(rest, layer)];
}

const names = (rest, some) => rest.every((word) => some.some((each) => each.toLowerCase().includes(word)));

function passHits(rest, layer) {
  if (!rest.length) return [];
  return steps.filter((step) => names(rest, [step.name, step.pass])).map((step) => {
    const { taken, made } = layer === null ? { taken: [], made: [] } : effect(step, layer);
    const detail = layer === null ? step.stage
      : taken.length + made.length ? `took ${plural(taken.length, "node")}, made ${opCounts(made).map(([op]) => op).join(", ") || "none"}` : "changed nothing of its own there";
    return { kind: "pass", title: `${step.name}${layer === null ? "" : ` in layer ${layer}`}`, detail, address: { pass: step.name, layer: layer === null ? null : String(layer) } };
  });
}

function nodeHits(rest, layer) {
  if (!rest.length && layer === null) return [];
  const hits = everything().filter((hit) => (layer === null || hit.layers.includes(layer)) && names(rest, [hit.id, ...hit.ops]));
  hits.sort((a, b) => score(b, rest) - score(a, rest));
  return hits.slice(0, MOST).map((hit) => ({ kind: "node", title: hit.id,
    detail: `${layer === null ? layerSpan(hit.layers) : layerName(layer)} · ${[...hit.ops].join(", ")} · last in ${hit.step.name}`,
    address: { node: whole(hit.id, layer === null ? hit.layers[0] : layer) } }));
}

// What is in the final graph comes first, then what is named just so.
function score(hit, words) {
  const ops = [...hit.ops];
  const named = words.some((word) => ops.some((op) => op.endsWith(`.${word}`) || op.endsWith(`_${word}`)));
  return steps.indexOf(hit.step) + (named ? 40 : 0) - (["weight", "input"].includes(ops[0]) ? 30 : 0) -
    (ops[0] === GETITEM ? 20 : 0) - hit.id.length / 100;
}

function kernelHits(rest, layer) {
  const hits = [];
  for (const plan of rest.length ? plans : []) {
    const functions = new Map();
    for (const block of plan.blocks) {
      if (layer !== null && !covers(block, layer)) continue;
      for (const call of block.calls) {
        const name = TEXT[call.function];
        if (names(rest, [name]) && !functions.has(name)) functions.set(name, { call, block });
      }
    }
    for (const [name, { call, block }] of functions) {
      const where = layer === null ? block.layer : layer;
      hits.push({ kind: "kernel", title: name, detail: `${plan.phase}, ${layerName(where)}`,
        address: { kernels: plan.phase, layer: layerKey(where), call: callNumber(block, call, where) } });
    }
  }
  return hits;
}

function showResults() {
  const text = box.value.trim();
  list.replaceChildren();
  const hits = text ? find(text) : [];
  list.hidden = !text;
  box.setAttribute("aria-expanded", String(Boolean(text)));
  if (text && !hits.length) {
    list.append(el("div", { class: "absent", role: "option", "aria-disabled": "true" },
      "Nothing of that name. Try a layer, an op, a pass, an id, or: peak, near miss, memory, slow, verdict."));
  }
  hits.forEach((hit, at) => list.append(el("a", { role: "option", id: `hit-${at}`, class: "hit", href: addressOf(hit.address), tabindex: "-1", onclick: closeResults },
    el("span", { class: "kind" }, hit.kind), el("span", { class: "title" }, hit.title),
    el("span", { class: "detail" }, hit.detail))));
  mark(0);
}

function mark(at) {
  const items = [...list.querySelectorAll(".hit")];
  items.forEach((item, place) => item.setAttribute("aria-selected", String(place === at)));
  items[at]?.scrollIntoView({ block: "nearest" });
  if (items[at]) box.setAttribute("aria-activedescendant", items[at].id);
  else box.removeAttribute("aria-activedescendant");
}

function closeResults() {
  list.hidden = true;
  box.setAttribute("aria-expanded", "false");
  box.removeAttribute("aria-activedescendant");
  box.blur();
}

box.addEventListener("input", showResults);
box.addEventListener("focus", () => { if (box.value) showResults(); });
box.addEventListener("keydown", (event) => {
  const items = [...list.querySelectorAll(".hit")];
  const at = items.findIndex((item) => item.getAttribute("aria-selected") === "true");
  if (event.key === "ArrowDown" && at < items.length - 1) mark(at + 1);
  else if (event.key === "ArrowUp" && at > 0) mark(at - 1);
  else if (event.key === "Enter" && items[at]) items[at].click();
  else if (event.key === "Escape") closeResults();
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) list.hidden = true;
});
