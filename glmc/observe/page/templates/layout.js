// Layered drawing, top to bottom: layers by longest path, order by barycentres, then places.
// Boxes are {key, width, height}; edges are [from, to, offset], where offset is how far from the
// middle of its box a line begins. Gives each box x and y (its centre) and each edge the points it
// passes; see Sugiyama, Tagawa and Toda (1981).
const GAP_X = 22;
const GAP_Y = 34;
const SWEEPS = 12;

function layout(boxes, edges) {
  const cells = new Map(boxes.map((box) => [box.key, { ...box, box, up: [], down: [], rank: 0 }]));
  const known = edges.filter(([from, to]) => cells.has(from) && cells.has(to));
  rankCells([...cells.values()], known, cells);
  const all = [...cells.values()];
  const routes = known.map(([from, to]) => thread(cells.get(from), cells.get(to), all));
  const offsets = known.map(([, , offset]) => offset || 0);
  const ranks = [];
  for (const cell of all) (ranks[cell.rank] ||= []).push(cell);
  orderRanks(ranks);
  placeCells(ranks);
  const left = Math.min(...all.map((cell) => cell.x - cell.width / 2));
  for (const cell of all) cell.x -= left;
  let y = 0;
  for (const rank of ranks) {
    const height = Math.max(...rank.map((cell) => cell.height));
    for (const cell of rank) Object.assign(cell, { y: y + height / 2, top: y, bottom: y + height });
    y += height + GAP_Y;
  }
  for (const cell of cells.values()) Object.assign(cell.box, { x: cell.x, y: cell.y });
  return {
    width: Math.max(...all.map((cell) => cell.x + cell.width / 2)), height: y - GAP_Y,
    routes: routes.map((route, edge) => route.flatMap((cell, index) => points(cell, index, route.length, offsets[edge]))),
  };
}

// A line leaves the whole row before it turns, so that it passes behind no box of its row.
function points({ x, y, top, bottom, height, thin }, index, count, offset) {
  if (thin) return [{ x, y: top }, { x, y: bottom }];
  if (index === 0) return [{ x: x + offset, y: y + height / 2 }, { x: x + offset, y: bottom }];
  return index === count - 1 ? [{ x, y: top }, { x, y: y - height / 2 }] : [];
}

// The nodes come in the order of the graph, so that operands stand before their users.
function rankCells(all, edges, cells) {
  const into = new Map();
  const from = new Map();
  for (const [a, b] of edges) {
    into.set(b, [...(into.get(b) || []), a]);
    from.set(a, [...(from.get(a) || []), b]);
  }
  for (const cell of all) {
    cell.rank = Math.max(0, ...(into.get(cell.key) || []).map((key) => cells.get(key).rank + 1));
  }
  // Where that makes lines shorter, a cell goes down to right above its first reader.
  for (const cell of [...all].reverse()) {
    const readers = (from.get(cell.key) || []).map((key) => cells.get(key).rank);
    const operands = into.get(cell.key) || [];
    const free = operands.every((key) => !into.has(key));
    if (readers.length && (operands.length < readers.length || free)) cell.rank = Math.min(...readers) - 1;
  }
}

function thread(from, to, all) {
  const route = [from];
  for (let rank = from.rank + 1; rank < to.rank; rank += 1) {
    const bend = { thin: true, width: 8, height: 0, rank, up: [], down: [] };
    all.push(bend);
    route.push(bend);
  }
  route.push(to);
  for (let at = 1; at < route.length; at += 1) {
    route[at - 1].down.push(route[at]);
    route[at].up.push(route[at - 1]);
  }
  return route;
}

function orderRanks(ranks) {
  for (const rank of ranks) rank.forEach((cell, at) => { cell.at = at; });
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const rank of down ? ranks : [...ranks].reverse()) {
      for (const cell of rank) {
        const near = down ? cell.up : cell.down;
        cell.weight = near.length ? near.reduce((sum, other) => sum + other.at, 0) / near.length : cell.at;
      }
      rank.sort((a, b) => a.weight - b.weight || a.at - b.at);
      rank.forEach((cell, at) => { cell.at = at; });
    }
  }
}

const apart = (left, right) => (left.width + right.width) / 2 + (left.thin && right.thin ? 10 : GAP_X);

// Each cell goes where its neighbours want it; where two want the same place, they meet halfway.
function placeCells(ranks) {
  for (const rank of ranks) {
    let x = 0;
    rank.forEach((cell, at) => {
      x += at ? apart(rank[at - 1], cell) : 0;
      cell.x = x;
    });
    const middle = (rank[0].x + rank[rank.length - 1].x) / 2;
    for (const cell of rank) cell.x -= middle;
  }
  for (let sweep = 0; sweep < 2 * SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const rank of down ? ranks : [...ranks].reverse()) {
      for (const cell of rank) {
        const near = down ? cell.up : cell.down;
        cell.wish = near.length ? wish(cell, near) : cell.x;
        cell.pull = cell.thin ? 8 : near.length ? 2 : 1;
      }
      settle(rank);
    }
  }
}

function wish(cell, near) {
  const straight = near.filter((other) => other.thin === cell.thin);
  const some = cell.thin && straight.length ? straight : near;
  const places = some.map((other) => other.x).sort((a, b) => a - b);
  const half = (places.length - 1) / 2;
  return (places[Math.floor(half)] + places[Math.ceil(half)]) / 2;
}

// Least squares with distances that stay: clusters that collide merge (pool adjacent violators).
function settle(rank) {
  const clusters = [];
  let offset = 0;
  rank.forEach((cell, at) => {
    offset += at ? apart(rank[at - 1], cell) : 0;
    cell.offset = offset;
    clusters.push({ cells: [cell], sum: cell.pull * (cell.wish - offset), pull: cell.pull });
    while (clusters.length > 1) {
      const [a, b] = clusters.slice(-2);
      if (a.sum / a.pull <= b.sum / b.pull) break;
      clusters.splice(-2, 2, { cells: [...a.cells, ...b.cells], sum: a.sum + b.sum, pull: a.pull + b.pull });
    }
  });
  for (const cluster of clusters) {
    for (const cell of cluster.cells) cell.x = cluster.sum / cluster.pull + cell.offset;
  }
}
