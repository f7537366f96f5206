// The data of the page, and the questions that the views ask of it.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TEXT = DATA.strings;
const steps = DATA.steps;
const plans = DATA.plans;
const LAYER = /^(?:\w+\.)*?layers\.(\d+)(?:\.|(?=[#[])|$)/;
const CACHE = /^(\w+_cache)\.(\d+)$/;
const GETITEM = "getitem";

const nodes = [];
function nodeAt(index) {
  if (!nodes[index]) {
    const [id, op, args, operands, value, module, source, origins, passes] = DATA.nodes[index];
    nodes[index] = {
      index, id: TEXT[id], op: TEXT[op], args: TEXT[args], operands: operands.map((at) => TEXT[at]),
      value: TEXT[value], module: TEXT[module], source: TEXT[source],
      origins: origins.map((at) => TEXT[at]), passes: passes.map((at) => TEXT[at]),
    };
  }
  return nodes[index];
}

const isWeight = (node) => node.op === "weight";
const isInput = (node) => node.op === "input";
const isTensor = (node) => node.value.startsWith("[");
const isCall = (node) => !isWeight(node) && !isInput(node);

const stepNamed = (name) => steps.find((step) => step.name === name || step.label === name);
const lastStep = () => steps[steps.length - 1];
// The step whose program this one started from.
const before = (step) => (step.from === null ? null : steps[step.from]);
const planNamed = (name) =>
  plans.find((plan) => plan.phase === name) || plans.find((plan) => plan.phase === DATA.main) || plans[0];

// The plans, that of the main phase first.
const mainFirst = () => [...plans].sort((a, b) => (b.phase === DATA.main) - (a.phase === DATA.main));

const covers = (block, layer) => block.layer === layer || block.like.includes(layer);
function blockOf(step, layer) {
  step.byLayer ||= new Map();
  if (!step.byLayer.has(layer)) {
    step.byLayer.set(layer, step.blocks.find((block) => covers(block, layer)) || null);
  }
  return step.byLayer.get(layer);
}

function nodesOf(block) {
  return block ? (block.made ||= block.nodes.map(nodeAt)) : [];
}
const operations = (block) => nodesOf(block).filter((node) => !isWeight(node)).length;
function byId(block) {
  if (!block) return new Map();
  return (block.ids ||= new Map(nodesOf(block).map((node) => [node.id, node])));
}
function byOrigin(block) {
  if (!block) return new Map();
  if (!block.origins) {
    block.origins = new Map();
    for (const node of nodesOf(block)) {
      for (const origin of node.origins) {
        if (!block.origins.has(origin)) block.origins.set(origin, []);
        block.origins.get(origin).push(node);
      }
    }
  }
  return block.origins;
}

const layers = DATA.kinds.flat().sort((a, b) => a - b);
const kindOfLayer = (layer) => DATA.kinds.find((kind) => kind.includes(layer)) || [layer];
// The layer that a view opens on: the last one of the commonest kind.
const usualLayer = () => {
  const most = DATA.kinds.reduce((best, kind) => (kind.length > best.length ? kind : best), DATA.kinds[0] || []);
  return most.length ? most[most.length - 1] : null;
};

const layerName = (layer) => (layer === null ? "outside the layers" : `layer ${layer}`);
const layerKey = (layer) => (layer === null ? "outside" : String(layer));
const layerOfKey = (key) => (key === "outside" ? null : /^\d+$/.test(key || "") ? Number(key) : undefined);

// [3, 4, 5, 7] -> "3..5, 7"
function spans(numbers) {
  const runs = [];
  for (const number of numbers) {
    const run = runs[runs.length - 1];
    if (run && number === run[1] + 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}..${last}`)).join(", ");
}
const layerSpan = (some) =>
  some[0] === null ? "outside the layers" : `layer${some.length > 1 ? "s" : ""} ${spans(some)}`;

// Ids of a layer are stored without it; these lead from there to whole ids and back.
function whole(id, layer) {
  if (layer === null || LAYER.test(id)) return id;
  if (id.startsWith("previous:")) return whole(id.slice(9), layer - 1);
  if (id.endsWith("_cache")) return `${id}.${layer}`;
  if (id === "layer") return `${DATA.prefix}${layer}`;
  return `${DATA.prefix}${layer}${/^[#[]/.test(id) ? "" : "."}${id}`;
}
function split(id) {
  const match = LAYER.exec(id);
  if (match) return { layer: Number(match[1]), id: id.slice(match[0].length) || "layer" };
  const cache = CACHE.exec(id);
  return cache ? { layer: Number(cache[2]), id: cache[1] } : { layer: null, id };
}
// What an operand of a node of ``layer`` is, as a whole id.
function wholeOperand(step, layer, id) {
  if (layer === null || id.startsWith("previous:") || byId(blockOf(step, layer)).has(id)) {
    return whole(id, layer);
  }
  return id;
}

// The nodes of a step that are, or stand for, the node with this whole id.
function carriers(step, id) {
  const place = split(id);
  const carrying = new Map();
  const add = (node, layer) => carrying.set(`${layer}/${node.index}`, { node, layer });
  const own = blockOf(step, place.layer);
  const itself = byId(own).get(place.id);
  if (itself) add(itself, place.layer);
  for (const node of byOrigin(own).get(place.id) || []) add(node, place.layer);
  if (place.layer !== null) {
    const next = byOrigin(blockOf(step, place.layer + 1)).get(`previous:${place.id}`) || [];
    next.forEach((node) => add(node, place.layer + 1));
    for (const node of byOrigin(blockOf(step, null)).get(id) || []) add(node, null);
  }
  return [...carrying.values()];
}

// The last step that has the node under its own id.
function lastWith(id) {
  const place = split(id);
  return [...steps].reverse().find((step) => byId(blockOf(step, place.layer)).has(place.id));
}

const callBlock = (plan, layer) => plan.blocks.find((block) => covers(block, layer)) || null;
const callCount = (plan) =>
  plan.blocks.reduce((sum, block) => sum + block.calls.length * (1 + block.like.length), 0);

function callsOf(plan, id) {
  const place = split(id);
  const calls = [];
  const look = (layer, name) => {
    const block = callBlock(plan, layer);
    for (const call of block ? block.calls : []) {
      const names = [TEXT[call.node], ...call.origins.map((at) => TEXT[at])];
      if (names.includes(name)) calls.push({ call, layer, block });
    }
  };
  look(place.layer, place.id);
  if (place.layer !== null) {
    look(place.layer + 1, `previous:${place.id}`);
    look(null, id);
  }
  return calls;
}

// The calls of a folded block stand for those of each like layer: their number there.
function callNumber(block, call, layer) {
  block.numbers ||= new Map();
  if (!block.numbers.has(layer)) {
    const runs = block.indices[[block.layer, ...block.like].indexOf(layer)] || [];
    block.numbers.set(layer, runs.flatMap(([first, count]) => Array.from({ length: count }, (_, at) => first + at)));
  }
  return block.numbers.get(layer)[block.calls.indexOf(call)];
}

// What a verifier said of a step, up to the first semicolon and without the class.
function shortVerdict(step) {
  if (!step.verdict) return step.rewrites || step.segments ? "not proved" : "";
  return step.verdict.split(";")[0].replace(/(bitwise|reordered|approximate): /, "");
}
const verdictOf = (step) =>
  el("span", { class: step.verdict ? "holds" : "absent", title: step.verdict || null }, shortVerdict(step));
