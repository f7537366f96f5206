// The boxes of a layer's picture: calls with their outputs as ports, and what is elsewhere.
const LINE = 15;
const PORT = 20;
const PAD = 10;
const MOST_LETTERS = 52;

// The width of a text as it will be drawn, so that it never runs out of its box.
const pen = document.createElement("canvas").getContext("2d");
function textWidth(text, bold = false) {
  pen.font = `${bold ? 600 : 400} 11px ${getComputedStyle(document.documentElement).getPropertyValue("--mono")}`;
  return Math.ceil(pen.measureText(text).width);
}

function pieces(step, block, layer) {
  const own = byId(block);
  const ports = portsOf(block, own);
  const calls = nodesOf(block).filter((node) => isCall(node) && !ports.has(node.id));
  const pills = new Map();
  const edges = [];
  const pill = (key, id, text) => {
    if (!pills.has(key)) pills.set(key, { key, id, pill: true, lines: [{ text: short(text, 44) }], width: textWidth(short(text, 44)) + 24, height: 24 });
    return key;
  };
  const boxes = calls.map((node) => {
    const weights = [];
    for (const operand of new Set(node.operands)) {
      const known = own.get(operand);
      const id = wholeOperand(step, layer, operand);
      const there = known || byId(blockOf(step, split(id).layer)).get(split(id).id);
      if (there && isWeight(there)) weights.push(operand);
      else if (known && !isInput(known)) edges.push([operand, node.id]);
      else if (!there || isTensor(there)) edges.push([pill(`in ${id}`, id, operand), node.id]);
    }
    return boxOf(step, node, layer, weights, nodesOf(block).filter((other) => ports.get(other.id) === node.id));
  });
  for (const [id, where, reader] of readersElsewhere(step, layer, own)) {
    if (isCall(own.get(id))) edges.push([id, pill(`out ${where}`, reader, `to ${where}`)]);
  }
  const ins = [...pills.values()].filter((each) => each.key.startsWith("in "));
  const outs = [...pills.values()].filter((each) => each.key.startsWith("out "));
  const from = (id) => [ports.get(id) || id, portOffset(boxes, ports, id)];
  const unique = new Map(edges.map(([a, b]) => [`${a}\n${b}`, [from(a)[0], b, from(a)[1]]]));
  return { boxes: [...ins, ...boxes, ...outs], edges: [...unique.values()] };
}

// Outputs of a node of several, each with the node in the same block that makes it.
function portsOf(block, own) {
  const ports = new Map();
  for (const node of nodesOf(block)) {
    const maker = node.op === GETITEM && node.operands.length === 1 ? own.get(node.operands[0]) : undefined;
    if (maker && isCall(maker) && maker.op !== GETITEM) ports.set(node.id, maker.id);
  }
  return ports;
}

function boxOf(step, node, layer, weights, outputs) {
  const maker = node.passes[node.passes.length - 1] || "";
  const lines = [
    { kind: "op", text: short(node.op, MOST_LETTERS), maker: short(maker, 24) },
    { kind: "name", text: short(node.id, MOST_LETTERS) },
    outputs.length ? null : { kind: "value", text: short(node.value, MOST_LETTERS) },
    ...weights.map((id) => ({ kind: "weight", text: short(`· ${id}`, MOST_LETTERS) })),
  ].filter(Boolean);
  const place = (output) => Number(output.args.split(", ").pop());
  const ports = [...outputs].sort((a, b) => place(a) - place(b)).map((output) => {
    const text = `${place(output)}: ${short(output.value, 40)}`;
    return { id: whole(output.id, layer), own: output.id, text, width: textWidth(text) + 14 };
  });
  const width = Math.max(
    ...lines.map((line) => textWidth(line.text, line.kind === "op") + (line.maker ? textWidth(line.maker) + 22 : 0)),
    ports.reduce((sum, port) => sum + port.width + 6, -6 - 2 * PAD + 12)) + 2 * PAD;
  let x = (width - ports.reduce((sum, port) => sum + port.width + 6, -6)) / 2;
  for (const port of ports) {
    port.x = x;
    x += port.width + 6;
  }
  return { key: node.id, id: whole(node.id, layer), lines, ports, width,
    height: lines.length * LINE + 10 + (ports.length ? PORT + 4 : 0),
    made: node.passes.includes(step.pass) && maker === step.pass, fused: node.op.startsWith("glmc.") };
}

function portOffset(boxes, ports, id) {
  const box = boxes.find((each) => each.key === ports.get(id));
  const port = box?.ports.find((each) => each.own === id);
  return port ? port.x + port.width / 2 - box.width / 2 : 0;
}

function readersElsewhere(step, layer, own) {
  const readers = new Map();
  const look = (other, name) => {
    for (const node of nodesOf(blockOf(step, other))) {
      for (const operand of node.operands) {
        const id = name(operand);
        if (id && own.has(id)) readers.set(`${id}\n${other}`, [id, layerName(other), whole(node.id, other)]);
      }
    }
  };
  if (layer === null) return [];
  look(layer + 1, (operand) => (operand.startsWith("previous:") ? operand.slice(9) : null));
  look(null, (operand) => (split(operand).layer === layer ? split(operand).id : null));
  return [...readers.values()];
}
