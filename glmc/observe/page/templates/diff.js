// A pass: the graph before and after it, side by side, with what became what.
const CONTEXT = 2; // unchanged rows shown around a change

// The layers in groups that read the same both before and after.
function groups(step) {
  const from = before(step);
  const found = new Map();
  for (const layer of [null, ...layers]) {
    const [left, right] = [from && blockOf(from, layer), blockOf(step, layer)];
    if (!left && !right) continue;
    const key = [left, right].map((block) => (block ? block.layer : "-")).join("/");
    if (!found.has(key)) found.set(key, { left, right, layers: [] });
    found.get(key).layers.push(layer);
  }
  for (const group of found.values()) {
    group.rows = from ? compare(nodesOf(group.left), nodesOf(group.right)) : nodesOf(group.right).map((node) => ({ right: node, kind: "same" }));
    group.changes = group.rows.filter((row) => row.kind !== "same").length;
  }
  return [...found.values()];
}

// Rows of a longest common subsequence of ids; removed and added runs stand beside each other.
function compare(left, right) {
  const [n, m] = [left.length, right.length];
  const width = m + 1;
  const length = new Uint16Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i -= 1) {
    for (let j = m - 1; j >= 0; j -= 1) {
      length[i * width + j] = left[i].id === right[j].id
        ? length[(i + 1) * width + j + 1] + 1
        : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const rows = [];
  let removed = [];
  let added = [];
  const flush = () => {
    for (let at = 0; at < Math.max(removed.length, added.length); at += 1) {
      rows.push({ left: removed[at], right: added[at], kind: "moved" });
    }
    removed = [];
    added = [];
  };
  let [i, j] = [0, 0];
  while (i < n || j < m) {
    if (i < n && j < m && left[i].id === right[j].id) {
      flush();
      rows.push({ left: left[i], right: right[j], kind: kindOf(left[i], right[j]) });
      i += 1;
      j += 1;
    } else if (j >= m || (i < n && length[(i + 1) * width + j] >= length[i * width + j + 1])) {
      removed.push(left[i]);
      i += 1;
    } else {
      added.push(right[j]);
      j += 1;
    }
  }
  flush();
  return rows;
}

function kindOf(left, right) {
  if (left.index === right.index) return "same";
  return left.op === right.op && left.passes.length === right.passes.length ? "rewired" : "changed";
}

function showPass(address) {
  const step = stepNamed(address.pass) || steps[0];
  const made = groups(step);
  const wanted = layerOfKey(address.layer);
  const busiest = made.filter((group) => group.layers[0] !== null)
    .reduce((best, group) => (!best || group.changes > best.changes ? group : best), null);
  const group = made.find((one) => wanted !== undefined && one.layers.includes(wanted)) || busiest || made[0];
  const layer = wanted !== undefined && group.layers.includes(wanted) ? wanted : group.layers[0];
  const at = steps.indexOf(step);
  const move = (by) => steps[at + by] && addressOf({ pass: steps[at + by].name, layer: address.layer || null });
  keys["["] = move(-1);
  keys["]"] = move(1);
  return el("section", { class: "pass" },
    el("div", { class: "bar" },
      select("step", steps.map((one) => [one.name, `${one.number}  ${one.name}`]), step.name,
        (name) => go(addressOf({ pass: name, layer: address.layer || null }))),
      select("layer", [null, ...layers].map((one) => [layerKey(one), layerName(one)]), layerKey(layer),
        (key) => go(addressOf({ pass: step.name, layer: key }))),
      el("a", { href: addressOf({ graph: layerKey(layer), step: step.name }) }, "as a picture"),
      el("span", { class: "keys" }, el("kbd", {}, "["), el("kbd", {}, "]"), " step")),
    passFacts(step),
    el("nav", { class: "chips", "aria-label": "layers" }, made.map((one) =>
      el("a", { href: addressOf({ pass: step.name, layer: layerKey(one.layers[0]) }), "aria-current": one === group ? "true" : null,
        class: one.changes ? "" : "quiet" },
      layerSpan(one.layers), el("span", { class: "count" }, one.changes ? `${one.changes}` : "–")))),
    before(step) ? sides(step, group, layer, address.node) : el("div", {},
      el("p", { class: "absent" }, "The first step: there is nothing before it."), sides(step, group, layer, address.node)));
}

function passFacts(step) {
  const matches = step.numerics === null ? null : step.matches.map(([id, some]) =>
    el("li", {}, id === "" ? null : nodeLink(whole(id, some[0]), id), " ", el("span", { class: "muted" }, layerSpan(some))));
  const total = step.matches.reduce((sum, [, some]) => sum + some.length, 0);
  return el("div", { class: "pass-facts" },
    el("p", {}, el("b", {}, step.name), ` · ${step.stage} · `,
      step.numerics === null ? `no rewriting pass${step.verdict ? `, ${step.verdict}` : ""}` : `${step.numerics}, ${step.verdict || "not verified"}`, " · ",
      step.seconds === null ? "" : `${(step.seconds * 1000).toFixed(0)} ms · `,
      step.before === null ? `${step.after} nodes` : `${step.before} → ${step.after} nodes`),
    matches === null ? null : el("details", {},
      el("summary", {}, plural(total, "match"), step.expected === null ? "" : `, ${step.expected} expected`,
        `, ${plural(step.near.length, "near miss")}`),
      el("ul", { class: "columns" }, matches)),
    step.near.length ? nearTable(step) : null);
}

function nearTable(step) {
  return el("table", { class: "near" }, el("caption", {}, "Not fused"),
    el("thead", {}, el("tr", {}, ["layer", "node", "condition that failed", "source"].map((name) => el("th", {}, name)))),
    el("tbody", {}, step.near.map((miss) => el("tr", {},
      el("td", {}, miss.layer === null ? "–" : miss.layer), el("td", {}, nodeLink(miss.node)),
      el("td", {}, miss.condition), el("td", {}, miss.source || "–")))));
}

function sides(step, group, layer, chosen) {
  const table = el("div", { class: "diff" });
  const from = before(step);
  table.append(el("div", { class: "head" }, from ? `before, as ${from.name} left it: ${plural(nodesOf(group.left).length, "node")}` : ""),
    el("div", { class: "gutter head" }),
    el("div", { class: "head" }, `after ${step.name}: ${plural(nodesOf(group.right).length, "node")}`));
  const into = new Map();
  for (const node of nodesOf(group.right)) for (const origin of node.origins) {
    if (!into.has(origin)) into.set(origin, []);
    into.get(origin).push(node);
  }
  const visible = group.changes ? group.rows.map((row, at) =>
    group.rows.slice(Math.max(0, at - CONTEXT), at + CONTEXT + 1).some((one) => one.kind !== "same")) : group.rows.map(() => true);
  let next = 0;
  for (let at = 0; at < group.rows.length;) {
    if (visible[at]) {
      const start = at;
      while (at < group.rows.length && visible[at] && alone(group.rows[at])) at += 1;
      if (at - start > 2) table.append(...runOf(step, group.rows.slice(start, at), layer, chosen, into));
      else for (at = Math.max(at, start + 1), next = start; next < at; next += 1) table.append(...rowOf(step, group.rows[next], layer, chosen));
      continue;
    }
    const start = at;
    while (at < group.rows.length && !visible[at]) at += 1;
    const hidden = group.rows.slice(start, at);
    const more = el("button", { class: "more", onclick: () => {
      more.replaceWith(...hidden.flatMap((row) => rowOf(step, row, layer, chosen)));
      joinLater(table, into);
    } }, `${hidden.length} unchanged`);
    table.append(more);
  }
  joinLater(table, into);
  requestAnimationFrame(() => table.querySelector(".chosen")?.scrollIntoView({ block: "center" }));
  return el("div", {}, group.changes ? legend() : null, table);
}

const legend = () => el("p", { class: "legend" }, [["removed", "gone, or part of another node"], ["added", "new"], ["changed", "rewritten"], ["rewired", "operands or shape changed"]]
  .map(([kind, text]) => el("span", {}, el("i", { class: `cell ${kind}` }), text)));

const alone = (row) => row.kind === "moved" && row.left && !row.right;

// Nodes that went away, with what stands for them now at their side.
function runOf(step, rows, layer, chosen, into) {
  const became = new Map();
  for (const { left } of rows) {
    const targets = into.get(left.id) || [];
    const target = targets.find((node) => node.op !== "getitem") || targets[0] || null;
    if (!became.has(target)) became.set(target, []);
    became.get(target).push(left.id);
  }
  const notes = [...became].map(([target, some]) => el("div", { class: `became${target ? "" : " none"}`, "data-from": some.join("\n"), "data-to": target ? target.id : "" },
    target ? [some.length === 1 ? "one of these is now " : `${some.length} of these are now `, nodeLink(whole(target.id, layer), target.id), " ", el("b", {}, target.op)]
      : `${plural(some.length, "node")} gone: nothing reads ${some.length === 1 ? "it" : "them"} any more`));
  return rows.flatMap((row, at) => {
    const [left, gutter, right] = rowOf(step, row, layer, chosen);
    if (at) return [left, gutter];
    right.style.gridRow = `span ${rows.length}`;
    right.classList.add("run");
    right.append(...notes);
    return [left, gutter, right];
  });
}

function rowOf(step, row, layer, chosen) {
  const cell = (node, side) => {
    if (!node) return el("div", { class: `cell blank ${side}` });
    const id = whole(node.id, layer);
    const kind = row.kind === "moved" ? (side === "left" ? "removed" : "added") : row.kind;
    return el("div", { class: `cell ${side} ${kind}${chosen === id ? " chosen" : ""}`, "data-id": node.id },
      el("div", { class: "first" }, nodeLink(id, node.id), el("span", { class: "value" }, node.value)),
      isWeight(node) || isInput(node) ? el("div", { class: "call" }, node.op)
        : el("div", { class: "call" }, el("b", {}, node.op), `(${node.args})`));
  };
  return [cell(row.left, "left"), el("div", { class: "gutter" }), cell(row.right, "right")];
}

// Lines in the gutter, from what went away to what stands for it now.
function joinLater(table, into) {
  const draw = () => join(table, into);
  requestAnimationFrame(draw);
  if (!table.watched) {
    table.watched = new ResizeObserver(draw);
    table.watched.observe(table);
  }
}

function join(table, into) {
  table.querySelector("svg.joins")?.remove();
  const gutter = table.querySelector(".gutter");
  if (!gutter || !table.isConnected) return;
  const [box, between] = [table.getBoundingClientRect(), gutter.getBoundingClientRect()];
  const right = new Map([...table.querySelectorAll(".cell.right[data-id]")].map((cell) => [cell.dataset.id, cell]));
  const notes = [...table.querySelectorAll(".became")];
  const drawing = svg("svg", { class: "joins", width: between.width, height: box.height,
    style: `left:${between.left - box.left}px` });
  for (const cell of table.querySelectorAll(".cell.left.removed[data-id], .cell.left.changed[data-id]")) {
    const note = notes.find((one) => one.dataset.from.split("\n").includes(cell.dataset.id));
    const targets = note ? [note] : (into.get(cell.dataset.id) || []).map((node) => right.get(node.id)).filter((one) => one && !one.classList.contains("same"));
    if (!targets.length) cell.title = "nothing stands for this node any more";
    for (const target of note && !note.dataset.to ? [] : targets) {
      const height = (one) => { const r = one.getBoundingClientRect(); return r.top - box.top + Math.min(r.height / 2, 14); };
      const [a, b, w] = [height(cell), height(target), between.width];
      const path = svg("path", { d: `M0 ${a} C${w / 2} ${a} ${w / 2} ${b} ${w} ${b}` });
      drawing.append(path);
      const light = (on) => () => { [path, cell, target].forEach((one) => one.classList.toggle("lit", on)); };
      for (const one of [cell, target]) {
        one.addEventListener("mouseenter", light(true));
        one.addEventListener("mouseleave", light(false));
      }
    }
  }
  table.append(drawing);
}
