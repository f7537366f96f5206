// The data of the page, and the questions that the views ask of it.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TEXT = DATA.strings;
const steps = DATA.steps;
const plans = DATA.plans;
const LAYER = /^(?:\w+\.)*?layers\.(\d+)(?:\.|(?=[#[])|$)/;
const CACHE = /^(\w+_cache)\.(\d+)$/;
const PHASES = new Set(["prefill", "decode"]);

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

const stepNamed = (name) => steps.find((step) => step.name === name || step.label === name);
const lastStep = () => steps[steps.length - 1];
// Both phases are made by one pass, which is no step of its own.
const passOf = (step) => (PHASES.has(step.name) ? "specialise" : step.name);
// Both phases start from the program before them.
function before(step) {
  const earlier = steps.slice(0, steps.indexOf(step));
  return earlier.reverse().find((other) => !PHASES.has(other.name)) || null;
}

const holds = (block, layer) => block.layer === layer || block.like.includes(layer);
function blockOf(step, layer) {
  step.byLayer ||= new Map();
  if (!step.byLayer.has(layer)) {
    step.byLayer.set(layer, step.blocks.find((block) => holds(block, layer)) || null);
  }
  return step.byLayer.get(layer);
}

function nodesOf(block) {
  return block ? (block.made ||= block.nodes.map(nodeAt)) : [];
}
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

const layers = (() => {
  const found = new Set();
  for (const step of steps) {
    for (const block of step.blocks) {
      if (block.layer !== null) [block.layer, ...block.like].forEach((layer) => found.add(layer));
    }
  }
  return [...found].sort((a, b) => a - b);
})();

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

// Ids of a layer are kept without it; these lead from there to whole ids and back.
function whole(id, layer) {
  if (layer === null || LAYER.test(id)) return id;
  if (id.startsWith("previous:")) return whole(id.slice(9), layer - 1);
  if (id.endsWith("_cache")) return `${id}.${layer}`;
  if (id === "layer") return `${DATA.prefix}${layer}`;
  return `${DATA.prefix}${layer}${/^[#[]/.test(id) ? "" : "."}${id}`;
}
function split(id) {
  const found = LAYER.exec(id);
  if (found) return { layer: Number(found[1]), id: id.slice(found[0].length) || "layer" };
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
  const found = new Map();
  const add = (node, layer) => found.set(`${layer}/${node.index}`, { node, layer });
  const own = blockOf(step, place.layer);
  const itself = byId(own).get(place.id);
  if (itself) add(itself, place.layer);
  for (const node of byOrigin(own).get(place.id) || []) add(node, place.layer);
  if (place.layer !== null) {
    const next = byOrigin(blockOf(step, place.layer + 1)).get(`previous:${place.id}`) || [];
    next.forEach((node) => add(node, place.layer + 1));
    for (const node of byOrigin(blockOf(step, null)).get(id) || []) add(node, null);
  }
  return [...found.values()];
}

// The last step that has the node under its own id.
function lastWith(id) {
  const place = split(id);
  return [...steps].reverse().find((step) => byId(blockOf(step, place.layer)).has(place.id));
}

function callsOf(plan, id) {
  const place = split(id);
  const found = [];
  const look = (layer, name) => {
    const block = plan.blocks.find((one) => holds(one, layer));
    for (const call of block ? block.calls : []) {
      const names = [TEXT[call.node], ...call.origins.map((at) => TEXT[at])];
      if (names.includes(name)) found.push({ call, layer, block });
    }
  };
  look(place.layer, place.id);
  if (place.layer !== null) {
    look(place.layer + 1, `previous:${place.id}`);
    look(null, id);
  }
  return found;
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
