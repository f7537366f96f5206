// What the memory view asks of a plan: its buffers, how many bytes are alive, and where layers are.
function buffersOf(plan) {
  return (plan.made ||= plan.buffers.map(([name, dtype, shape, offset, start, size, first, last]) => (
    { name: TEXT[name], dtype: TEXT[dtype], shape: TEXT[shape], offset: TEXT[offset], start, size, first, last })));
}

// Bytes that are alive at each call, and where they are most.
function alive(plan) {
  if (plan.alive) return plan.alive;
  const calls = callCount(plan);
  const change = new Float64Array(calls + 1);
  for (const buffer of buffersOf(plan)) {
    change[buffer.first] += buffer.size;
    change[Math.min(buffer.last + 1, calls)] -= buffer.size;
  }
  let now = 0;
  const live = Array.from({ length: calls }, (_, at) => (now += change[at]));
  const most = Math.max(0, ...live);
  plan.alive = { calls, most, peak: Math.max(0, live.indexOf(most)) };
  return plan.alive;
}

// The calls of each layer, in the order of the schedule.
function stretches(plan) {
  return (plan.stretches ||= plan.blocks.flatMap((block) => [block.layer, ...block.like].filter((layer) => layer !== null).map((layer) => {
    const numbers = block.calls.map((call) => callNumber(block, call, layer));
    return { layer, first: Math.min(...numbers), last: Math.max(...numbers) };
  })).sort((a, b) => a.first - b.first));
}

// The op whose calls write a buffer first: buffers of one op have one colour.
function opOf(plan, buffer) {
  if (!plan.ops) {
    plan.ops = new Map();
    for (const block of plan.blocks) {
      for (const layer of [block.layer, ...block.like]) {
        for (const call of block.calls) plan.ops.set(callNumber(block, call, layer), TEXT[call.op]);
      }
    }
  }
  return plan.ops.get(buffer.first) || "";
}

// The ops with the most bytes over time, each with a colour; the others share the last one.
const COLOURS = 6;
function tints(plan) {
  if (plan.tints) return plan.tints;
  const weight = new Map();
  for (const buffer of buffersOf(plan)) {
    const op = opOf(plan, buffer);
    weight.set(op, (weight.get(op) || 0) + buffer.size * (buffer.last - buffer.first + 1));
  }
  const sorted = [...weight].sort((a, b) => b[1] - a[1]).map(([op]) => op);
  const own = sorted.length > COLOURS ? sorted.slice(0, COLOURS - 1) : sorted;
  plan.tints = { of: (buffer) => { const at = own.indexOf(opOf(plan, buffer)); return at < 0 ? COLOURS - 1 : at; },
    names: [...own, ...(sorted.length > own.length ? ["other ops"] : [])] };
  return plan.tints;
}
