// One layer as a picture that reads from top to bottom.
const LETTER = 6.65; // width of a letter of the pictures' font, in px
const LINE = 15;

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function showGraph(address) {
  const wanted = layerOfKey(address.graph);
  const step = stepNamed(address.step) || lastStep();
  const middle = layers.length ? layers[layers.length - 1] : null;
  const layer = wanted !== undefined && blockOf(step, wanted) ? wanted : middle;
  const block = blockOf(step, layer);
  const at = steps.indexOf(step);
  const move = (by) => steps[at + by] && withParts({ step: steps[at + by].name });
  keys["["] = move(-1);
  keys["]"] = move(1);
  return el("section", { class: "graph" },
    el("div", { class: "bar" },
      select("layer", [null, ...layers].map((one) => [layerKey(one), layerName(one)]), layerKey(layer),
        (key) => go(withParts({ graph: key, step: step.name }))),
      select("after step", steps.map((one) => [one.name, `${one.number}  ${one.name}`]), step.name,
        (name) => go(withParts({ step: name }))),
      el("a", { href: addressOf({ pass: step.name, layer: layerKey(layer) }) }, "before and after"),
      el("span", { class: "keys" }, el("kbd", {}, "["), el("kbd", {}, "]"), " step")),
    block ? el("p", { class: "muted" },
      `${layerSpan([block.layer, ...block.like])}: ${nodesOf(block).filter((node) => !isWeight(node)).length} nodes, `,
      `${plural(nodesOf(block).filter(isWeight).length, "weight")} (named in the boxes that read them).`, at ? ` Tinted boxes were made by ${passOf(step)}.` : "") : null,
    block ? drawing(step, block, layer, address.node) : el("p", { class: "absent" }, "This step has no such layer."));
}

function drawing(step, block, layer, chosen) {
  const { boxes, edges } = pieces(step, block, layer);
  if (!boxes.length) return el("p", { class: "absent" }, "Nothing to draw.");
  const { width, height, routes } = layout(boxes, edges);
  const picture = svg("svg", { class: "picture", width: width + 4, height: height + 4,
    viewBox: `-2 -2 ${width + 4} ${height + 4}`, role: "img", "aria-label": `graph of ${layerName(layer)}` });
  const lines = svg("g", { class: "lines" });
  routes.forEach((route, at) => lines.append(svg("path", { d: curve(route), "data-from": edges[at][0], "data-to": edges[at][1] })));
  picture.append(lines);
  for (const box of boxes) picture.append(drawn(box, chosen, lines));
  const frame = el("div", { class: "frame", tabindex: "0" }, picture);
  requestAnimationFrame(() => {
    const there = picture.querySelector(".chosen");
    // The panel may lie over the right half.
    if (there) there.scrollIntoView({ block: "center", inline: innerWidth < 1100 ? "start" : "center" });
    else frame.scrollLeft = boxes.find((box) => !box.pill).x - frame.clientWidth / 2;
  });
  return frame;
}

// Boxes for the calls, pills for what comes from and goes to elsewhere.
function pieces(step, block, layer) {
  const own = byId(block);
  const calls = nodesOf(block).filter((node) => !isWeight(node) && !isInput(node));
  const pills = new Map();
  const boxes = [];
  const edges = [];
  const pill = (key, id, text) => {
    if (!pills.has(key)) pills.set(key, { key, id, pill: true, lines: [short(text, 44)], width: Math.min(text.length, 44) * LETTER + 24, height: 24 });
    return key;
  };
  for (const node of calls) {
    const weights = [];
    for (const operand of new Set(node.operands)) {
      const known = own.get(operand);
      const id = wholeOperand(step, layer, operand);
      const there = known || byId(blockOf(step, split(id).layer)).get(split(id).id);
      if (there && isWeight(there)) weights.push(operand);
      else if (known && !isInput(known)) edges.push([operand, node.id]);
      else if (!there || isTensor(there)) edges.push([pill(`in ${id}`, id, operand), node.id]);
    }
    const lines = [node.op, node.id, node.value, ...weights.map((id) => `· ${id}`)].map((line) => short(line, 52));
    boxes.push({ key: node.id, id: whole(node.id, layer), lines, made: node.passes.includes(passOf(step)),
      scalar: !isTensor(node), width: Math.max(...lines.map((line) => line.length)) * LETTER + 20, height: lines.length * LINE + 10 });
  }
  const outs = readersElsewhere(step, layer, own).filter(([id]) => !isWeight(own.get(id)) && !isInput(own.get(id)));
  for (const [id, where, reader] of outs) {
    const key = `out ${where}`;
    pill(key, reader, `to ${where}`);
    edges.push([id, key]);
  }
  const ins = [...pills.values()].filter((one) => one.key.startsWith("in "));
  const ends = [...pills.values()].filter((one) => one.key.startsWith("out "));
  const unique = [...new Map(edges.map((edge) => [edge.join("\n"), edge])).values()];
  return { boxes: [...ins, ...boxes, ...ends], edges: unique };
}

function readersElsewhere(step, layer, own) {
  const found = new Map();
  const look = (other, name) => {
    for (const node of nodesOf(blockOf(step, other))) {
      for (const operand of node.operands) {
        const id = name(operand);
        if (id && own.has(id)) found.set(`${id}\n${other}`, [id, layerName(other), whole(node.id, other)]);
      }
    }
  };
  if (layer === null) return [];
  look(layer + 1, (operand) => (operand.startsWith("previous:") ? operand.slice(9) : null));
  look(null, (operand) => (split(operand).layer === layer ? split(operand).id : null));
  return [...found.values()];
}

function curve(route) {
  let d = `M${route[0].x} ${route[0].y}`;
  for (let at = 1; at < route.length; at += 1) {
    const [a, b] = [route[at - 1], route[at]];
    const half = (a.y + b.y) / 2;
    if (a.x === b.x) d += `V${b.y}`;
    else d += `C${a.x} ${half} ${b.x} ${half} ${b.x} ${b.y}`;
  }
  return d;
}

function drawn(box, chosen, lines) {
  const kind = box.pill ? "pill" : box.lines[0].startsWith("glmc.") ? "fused" : "plain";
  const group = svg("a", { class: `box ${kind}${box.made ? " made" : ""}${box.id === chosen ? " chosen" : ""}`,
    href: withParts({ node: box.id }), transform: `translate(${box.x - box.width / 2} ${box.y - box.height / 2})` },
  svg("title", {}, box.id),
  svg("rect", { width: box.width, height: box.height, rx: box.pill ? 12 : 5 }),
  box.lines.map((line, at) => svg("text", { x: box.pill ? box.width / 2 : 10, y: at * LINE + 16 + (box.pill ? 0 : 2),
    "text-anchor": box.pill ? "middle" : null, class: ["op", "name", "value"][at] || "weight" }, line)));
  const light = (on) => () => lines.querySelectorAll("path").forEach((path) => {
    if (path.dataset.from === box.key || path.dataset.to === box.key) path.classList.toggle("lit", on);
  });
  group.addEventListener("mouseenter", light(true));
  group.addEventListener("mouseleave", light(false));
  return group;
}
