// A pass: the graph before and after it, side by side, with what is new at the top of its place.
const CONTEXT = 2; // unchanged rows shown around a change

function showPass(address) {
  const step = stepNamed(address.pass) || firstChange();
  const wanted = layerOfKey(address.layer);
  const all = groups(step);
  const busiest = all.filter((group) => group.layers[0] !== null)
    .reduce((best, group) => (!best || group.changes > best.changes ? group : best), null);
  const group = all.find((each) => wanted !== undefined && each.layers.includes(wanted)) || busiest || all[0];
  const layer = wanted !== undefined && group.layers.includes(wanted) ? wanted : group.layers[0];
  const at = steps.indexOf(step);
  const move = (by) => steps[at + by] && addressOf({ pass: steps[at + by].name, layer: address.layer || null });
  keys["["] = move(-1);
  keys["]"] = move(1);
  return el("section", { class: "pass" },
    el("h1", {}, step.name, " ", el("small", {}, step.stage === step.name ? "" : step.stage)),
    el("div", { class: "bar" },
      select("step", steps.map((each) => [each.name, `${each.number}  ${each.name}`]), step.name,
        (name) => go(addressOf({ pass: name, layer: address.layer || null }))),
      select("layer", [null, ...layers].map((each) => [layerKey(each), layerName(each)]), layerKey(layer),
        (key) => go(addressOf({ pass: step.name, layer: key }))),
      layer === null ? null : el("a", { href: addressOf({ layer: layerKey(layer) }) }, `story of layer ${layer}`),
      el("a", { href: addressOf({ graph: layerKey(layer), step: step.name }) }, "as a picture"),
      el("span", { class: "hint" }, el("kbd", {}, "["), el("kbd", {}, "]"), " step")),
    passFacts(step),
    el("nav", { class: "chips", "aria-label": "layers" }, all.map((each) =>
      el("a", { href: addressOf({ pass: step.name, layer: layerKey(each.layers[0]) }), "aria-current": each === group ? "true" : null,
        class: each.changes ? "" : "quiet" },
      layerSpan(each.layers), el("span", { class: "count" }, !before(step) ? plural(operations(each.right), "node")
        : each.changes ? plural(each.changes, "change") : "unchanged")))),
    before(step) ? [summary(step, layer), sides(step, group, layer, address.node)]
      : [el("p", { class: "muted" }, "The first step: the model as it was captured."), single(group, layer, address.node)]);
}

function passFacts(step) {
  const total = step.matches.reduce((sum, [, some]) => sum + some.length, 0);
  const parts = [
    step.numerics,
    step.before === null ? plural(step.after, "node") : `${step.before.toLocaleString("en")} → ${plural(step.after, "node")} in the model`,
    step.seconds === null ? null : `${duration(step.seconds)}${step.isPhase ? " for all phases" : ""}`,
  ].filter(Boolean);
  const matches = step.numerics === null ? null : step.matches.map(([id, some]) =>
    el("li", {}, id === "" ? null : nodeLink(whole(id, some[0]), id), " ", el("span", { class: "muted" }, layerSpan(some))));
  return el("div", { class: "pass-facts" },
    el("p", {}, parts.join(" · "), step.rewrites ? [" · ", verdictOf(step)] : null),
    matches === null ? null : el("details", {},
      el("summary", {}, plural(total, "match"), step.expected === null ? "" : `, ${step.expected} expected`,
        `, ${plural(step.near.length, "near miss")}`),
      el("ul", { class: "columns" }, matches)),
    step.near.length ? [el("h2", {}, "Not fused"), nearTable(step.near)] : null);
}

const nearTable = (some) => table("near misses", ["layer", "node", "condition that failed", "source"], some.map((miss) => el("tr", {},
  el("td", {}, miss.layer === null ? "–" : el("a", { href: addressOf({ layer: String(miss.layer) }) }, miss.layer)),
  el("td", {}, nodeLink(miss.node)), el("td", {}, miss.condition), el("td", {}, miss.source || "–"))), "near");

// What is new in the layer, before all rows.
function summary(step, layer) {
  const { taken, made, moved } = effect(step, layer);
  if (!taken.length && !made.length) {
    return el("p", { class: "effect" }, moved ? `${layerName(layer)}: only operands or shapes changed.` : `${layerName(layer)}: nothing changed.`);
  }
  return el("p", { class: "effect" }, `${layerName(layer)}: `, opList(taken), " became ", opList(made), ".");
}

function opList(some) {
  if (!some.length) return el("span", { class: "muted" }, "nothing");
  const counts = opCounts(some);
  const most = Math.min(counts.length, 6);
  const shown = counts.slice(0, most).map(([op, count], at) => el("span", { class: "counted" }, el("code", { class: op.startsWith("glmc.") ? "op fused" : "op" }, op),
    count > 1 ? ` × ${count}` : "", at < most - 1 ? ", " : ""));
  const rest = counts.slice(most).reduce((sum, [, count]) => sum + count, 0);
  return [shown, rest ? ` and ${rest} more` : ""];
}

const SWATCHES = [["removed", "gone, or part of another node"], ["added", "new"], ["changed", "rewritten"], ["rewired", "operands or shape changed"]];

function sides(step, group, layer, current) {
  const from = before(step);
  const grid = el("div", { class: "diff" },
    el("div", { class: "head" }, `before, as ${from.name} left it: ${plural(nodesOf(group.left).length, "node")}`),
    el("div", { class: "gutter head" }),
    el("div", { class: "head" }, `after ${step.name}: ${plural(nodesOf(group.right).length, "node")}`));
  const into = byOrigin(group.right);
  const draw = { layer, current, into, right: byId(group.right) };
  const pairs = (rows) => rows.flatMap((row) => pair(row, draw));
  const runs = stretchesOf(group);
  runs.forEach(([changed, rows], at) => {
    // Around a change some rows are shown: none before the first one and after the last.
    const [head, foot] = [at ? CONTEXT : 0, at < runs.length - 1 ? CONTEXT : 0];
    if (changed) grid.append(...hunk(rows, draw));
    else if (rows.length <= head + foot + 1 || !group.changes) grid.append(...pairs(rows));
    else {
      const folded = rows.slice(head, rows.length - foot);
      const more = el("button", { class: "more", type: "button", onclick: () => {
        more.replaceWith(...pairs(folded));
        joinLater(grid, into);
      } }, `${plural(folded.length, "node")} unchanged: show`);
      grid.append(...pairs(rows.slice(0, head)), more, ...pairs(rows.slice(rows.length - foot)));
    }
  });
  joinLater(grid, into);
  requestAnimationFrame(() => grid.querySelector(".current")?.scrollIntoView({ block: "center" }));
  return el("div", {}, group.changes ? legend(SWATCHES) : null, grid);
}

// Runs of rows that changed and that did not. A short unchanged stretch inside a change is part of it.
function stretchesOf(group) {
  const runs = [];
  for (const row of group.rows) {
    const changed = row.kind !== "same";
    const run = runs[runs.length - 1];
    if (run && run[0] === changed) run[1].push(row);
    else runs.push([changed, [row]]);
  }
  return runs;
}

const pair = (row, draw) => [cell(row.left, "left", row.kind, draw), el("div", { class: "gutter" }), cell(row.right, "right", row.kind, draw)];

// A change: what was there at the left, what is there now at the top of the right.
function hunk(rows, draw) {
  const old = rows.filter((row) => row.left);
  const now = rows.filter((row) => row.right);
  const order = (row) => (row.kind === "rewired" ? 3 : row.right.op === GETITEM ? 2 : row.right.op.startsWith("glmc.") ? 0 : 1);
  now.sort((a, b) => order(a) - order(b));
  const here = new Set(now.map((row) => row.right.id));
  return [
    el("div", { class: "side left" }, old.map((row) => cell(row.left, "left", row.kind, draw))),
    el("div", { class: "gutter" }),
    el("div", { class: "side right" }, el("div", { class: "pinned" },
      now.map((row) => cell(row.right, "right", row.kind, draw)),
      notes(old.filter((row) => row.kind === "removed").map((row) => row.left), here, draw))),
  ];
}

// Where the nodes of a change went that are part of a node elsewhere, or of none.
function notes(gone, here, draw) {
  const became = new Map();
  for (const node of gone) {
    const targets = draw.into.get(node.id) || [];
    if (targets.some((target) => here.has(target.id))) continue;
    const target = targets.find((each) => each.op !== GETITEM) || targets[0] || null;
    if (!became.has(target)) became.set(target, []);
    became.get(target).push(node.id);
  }
  return [...became].map(([target, some]) => el("div", { class: `became${target ? "" : " none"}`, "data-from": some.join("\n"), "data-to": target ? target.id : "" },
    target ? [`${some.length === 1 ? "this is" : `${some.length} of these are`} now part of `, nodeLink(whole(target.id, draw.layer), target.id), " ", el("b", {}, target.op)]
      : `${plural(some.length, "node")} gone: nothing reads ${some.length === 1 ? "it" : "them"} any more`));
}

function cell(node, side, kind, draw) {
  if (!node) return el("div", { class: `cell blank ${side}` });
  const id = whole(node.id, draw.layer);
  return el("div", { class: `cell ${side} ${kind}${draw.current === id ? " current" : ""}`, "data-id": node.id },
    el("div", { class: "first" }, nodeLink(id, node.id), el("span", { class: "value" }, node.value)),
    el("div", { class: "call" }, isCall(node) ? [el("b", {}, node.op), `(${node.args})`] : node.op));
}

function single(group, layer, current) {
  const draw = { layer, current, into: new Map() };
  return el("div", { class: "diff single" }, nodesOf(group.right).map((node) => cell(node, "left", "same", draw)));
}
