// One layer as a picture that reads from top to bottom.
function showGraph(address) {
  const wanted = layerOfKey(address.graph);
  const step = stepNamed(address.step) || lastStep();
  const layer = wanted !== undefined && blockOf(step, wanted) ? wanted : usualLayer();
  const block = blockOf(step, layer);
  const at = steps.indexOf(step);
  const move = (by) => steps[at + by] && withParts({ step: steps[at + by].name });
  keys["["] = move(-1);
  keys["]"] = move(1);
  return el("section", { class: "graph" },
    el("h1", {}, layer === null ? "Outside the layers" : `Layer ${layer}`, " ", el("small", {}, `after ${step.name}`)),
    el("div", { class: "bar" },
      select("layer", [null, ...layers].map((each) => [layerKey(each), layerName(each)]), layerKey(layer),
        (key) => go(withParts({ graph: key, step: step.name }))),
      select("after step", steps.map((each) => [each.name, `${each.number}  ${each.name}`]), step.name,
        (name) => go(withParts({ step: name }))),
      layer === null ? null : el("a", { href: addressOf({ layer: layerKey(layer) }) }, `story of layer ${layer}`),
      el("a", { href: addressOf({ pass: step.name, layer: layerKey(layer) }) }, "before and after"),
      el("span", { class: "hint" }, el("kbd", {}, "["), el("kbd", {}, "]"), " step")),
    block ? el("p", { class: "muted" },
      `${layerSpan([block.layer, ...block.like])}: ${plural(operations(block), "node")}, `,
      `${plural(nodesOf(block).filter(isWeight).length, "weight")} (· in the boxes that read them). At the right of a box stands the pass that made or changed it last.`) : null,
    block ? legend([
      ["fused", "fused op of glmc"], ["plain", "op of the model (ATen)"],
      before(step) ? ["made", `made or changed by ${step.pass}`] : null,
      ["elsewhere", "from or to elsewhere"], ["port", "one of several outputs"]].filter(Boolean)) : null,
    block ? drawing(step, block, layer, address.node) : el("p", { class: "absent" }, "This step has no such layer."));
}

function drawing(step, block, layer, current) {
  const { boxes, edges } = pieces(step, block, layer);
  if (!boxes.length) return el("p", { class: "absent" }, "Nothing to draw.");
  const { width, height, routes } = layout(boxes, edges);
  const picture = svg("svg", { class: "picture", width: width + 4, height: height + 4,
    viewBox: `-2 -2 ${width + 4} ${height + 4}`, role: "group", "aria-label": `graph of ${layerName(layer)}` });
  const lines = svg("g", { class: "lines", "aria-hidden": "true" });
  routes.forEach((route, at) => lines.append(svg("path", { d: curve(route), "data-from": edges[at][0], "data-to": edges[at][1] })));
  picture.append(lines);
  for (const box of boxes) picture.append(drawn(box, current, lines));
  const frame = el("div", { class: "frame", tabindex: "0", role: "region", "aria-label": "picture, scrolls" }, picture);
  requestAnimationFrame(() => {
    const there = picture.querySelector(".current");
    // The panel may be over the right half.
    if (there) there.scrollIntoView({ block: "center", inline: innerWidth < 1100 ? "start" : "center" });
    else frame.scrollLeft = boxes.find((box) => !box.pill).x - frame.clientWidth / 2;
  });
  return frame;
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

function drawn(box, current, lines) {
  const kind = box.pill ? "pill" : box.made ? "made" : box.fused ? "fused" : "plain";
  const maker = box.lines[0].maker;
  const link = svg("a", { class: `box ${kind}${box.id === current ? " current" : ""}`, href: withParts({ node: box.id }),
    "aria-label": box.pill ? box.lines[0].text : `${box.lines[0].text} ${box.lines[1].text}${maker ? `, by ${maker}` : ""}` },
  svg("title", {}, box.id),
  svg("rect", { width: box.width, height: box.height, rx: box.pill ? 12 : 5 }),
  box.lines.map((line, at) => svg("text", { x: box.pill ? box.width / 2 : PAD, y: at * LINE + 16 + (box.pill ? 0 : 2),
    "text-anchor": box.pill ? "middle" : null, class: line.kind || "" }, line.text)),
  maker ? svg("text", { class: "maker", x: box.width - PAD, y: 18, "text-anchor": "end" }, maker) : null);
  const group = svg("g", { transform: `translate(${box.x - box.width / 2} ${box.y - box.height / 2})` }, link,
    (box.ports || []).map((port) => svg("a", { class: `port${port.id === current ? " current" : ""}`, href: withParts({ node: port.id }), "aria-label": `output ${port.text}` },
      svg("title", {}, port.id),
      svg("rect", { x: port.x, y: box.height - PORT, width: port.width, height: PORT, rx: 3 }),
      svg("text", { x: port.x + port.width / 2, y: box.height - PORT + 14, "text-anchor": "middle" }, port.text))));
  const light = (on) => () => lines.querySelectorAll("path").forEach((path) => {
    if (path.dataset.from === box.key || path.dataset.to === box.key) path.classList.toggle("lit", on);
  });
  for (const [name, on] of [["mouseenter", true], ["mouseleave", false], ["focusin", true], ["focusout", false]]) {
    group.addEventListener(name, light(on));
  }
  return group;
}
