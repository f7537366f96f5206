// What a step did to a layer: the nodes before and after it, paired by id.

// The layers in groups that read the same both before and after.
function groups(step) {
  if (step.groups) return step.groups;
  const from = before(step);
  const byKey = new Map();
  for (const layer of [null, ...layers]) {
    const [left, right] = [from && blockOf(from, layer), blockOf(step, layer)];
    if (!left && !right) continue;
    const key = [left, right].map((block) => (block ? block.layer : "-")).join("/");
    if (!byKey.has(key)) byKey.set(key, { left, right, layers: [] });
    byKey.get(key).layers.push(layer);
  }
  for (const group of byKey.values()) {
    group.rows = from ? compare(nodesOf(group.left), nodesOf(group.right))
      : nodesOf(group.right).map((node) => ({ right: node, kind: "same" }));
    group.changes = group.rows.filter((row) => row.kind !== "same").length;
  }
  step.groups = [...byKey.values()];
  return step.groups;
}

// Rows of a longest common subsequence of ids: a node on one side alone, or on both.
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
  let [i, j] = [0, 0];
  while (i < n || j < m) {
    if (i < n && j < m && left[i].id === right[j].id) {
      rows.push({ left: left[i], right: right[j], kind: kindOf(left[i], right[j]) });
      i += 1;
      j += 1;
    } else if (j >= m || (i < n && length[(i + 1) * width + j] >= length[i * width + j + 1])) {
      rows.push({ left: left[i], kind: "removed" });
      i += 1;
    } else {
      rows.push({ right: right[j], kind: "added" });
      j += 1;
    }
  }
  return rows;
}

function kindOf(left, right) {
  if (left.index === right.index) return "same";
  return left.op === right.op && left.passes.length === right.passes.length ? "rewired" : "changed";
}

// What a step took of a layer and what it made there; outputs of a node count with the node.
function effect(step, layer) {
  const group = groups(step).find((each) => each.layers.includes(layer));
  const rows = group && before(step) ? group.rows : [];
  const real = (node) => node && isCall(node) && node.op !== GETITEM;
  const taken = rows.filter((row) => row.kind === "removed" || row.kind === "changed").map((row) => row.left).filter(real);
  const made = rows.filter((row) => row.kind === "added" || row.kind === "changed").map((row) => row.right).filter(real);
  const moved = rows.some((row) => row.kind === "rewired");
  return { group, taken, made, changed: taken.length + made.length > 0, moved };
}

// The ops of some nodes, each once with its number.
function opCounts(some) {
  const counts = new Map();
  for (const node of some) counts.set(node.op, (counts.get(node.op) || 0) + 1);
  return [...counts];
}

// The first step that changes a layer.
const firstChange = () => steps.find((step) => before(step) &&
  groups(step).some((group) => group.layers[0] !== null && group.changes)) || steps[0];
