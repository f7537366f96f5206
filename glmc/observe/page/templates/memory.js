// The arena over the schedule: a bar for each buffer, calls to the right, bytes upwards.
const TALL = 300;
const FOOT = 26;
const AROUND = 14; // calls shown on each side of the peak

function buffersOf(plan) {
  return (plan.made ||= plan.buffers.map(([name, dtype, shape, offset, start, size, first, last]) => (
    { name: TEXT[name], dtype: TEXT[dtype], shape: TEXT[shape], offset: TEXT[offset], start, size, first, last })));
}

// Bytes that are alive at each call, and where they are most.
function alive(plan) {
  if (plan.alive) return plan.alive;
  const calls = plan.blocks.reduce((sum, one) => sum + one.calls.length * (1 + one.like.length), 0);
  const change = new Float64Array(calls + 1);
  for (const buffer of buffersOf(plan)) {
    change[buffer.first] += buffer.size;
    change[Math.min(buffer.last + 1, calls)] -= buffer.size;
  }
  let now = 0;
  const live = Array.from({ length: calls }, (_, at) => (now += change[at]));
  const most = Math.max(0, ...live);
  plan.alive = { calls, most, peak: live.indexOf(most) };
  return plan.alive;
}

// The calls of each layer, in the order of the schedule.
function stretches(plan) {
  return (plan.stretches ||= plan.blocks.flatMap((block) => [block.layer, ...block.like].filter((layer) => layer !== null).map((layer) => {
    const numbers = block.calls.map((call) => callNumber(block, call, layer));
    return { layer, first: Math.min(...numbers), last: Math.max(...numbers) };
  })).sort((a, b) => a.first - b.first));
}

function showMemory(address) {
  const plan = planNamed(address.memory);
  if (!plan) return noPlan();
  const { calls, most, peak } = alive(plan);
  const wanted = layerOfKey(address.layer);
  const at = stretches(plan).find((one) => one.layer === wanted) ||
    { layer: null, first: Math.max(0, peak - AROUND), last: Math.min(calls - 1, peak + AROUND) };
  const near = { first: Math.max(0, at.first - 1), last: Math.min(calls - 1, at.last + 1) };
  return el("section", { class: "memory" },
    el("div", { class: "bar" },
      segmented("phase", plans.map((one) => [one.phase, one.phase]), plan.phase, (phase) => addressOf({ memory: phase, layer: address.layer || null })),
      select("layer", [["", "around the peak"], ...layers.map((one) => [layerKey(one), layerName(one)])], at.layer ?? "",
        (key) => go(addressOf({ memory: plan.phase, layer: key || null }))),
      el("a", { href: addressOf({ kernels: plan.phase, layer: layerKey(at.layer), call: peak >= at.first && peak <= at.last ? peak : null }) }, "the calls")),
    el("p", { class: "muted" }, "At the largest bucket (", el("b", {}, `${plural(plan.tokens, "token")}, ${plural(plan.sequences, "sequence")}`),
      "): arena ", el("b", {}, bytes(plan.arenaBytes)), ` (${plan.arena} bytes at any bucket), `, plural(plan.buffers.length, "buffer"), ", at most ",
      el("b", {}, bytes(most)), ` alive at once, at call ${peak}. Computed from the plan, not measured.`),
    el("h3", {}, "Whole schedule"),
    chart(plan, { first: 0, last: calls - 1 }, at, false, address),
    el("h3", {}, `${at.layer === null ? "Around the peak" : `Layer ${at.layer}`}, calls ${at.first} to ${at.last}`),
    chart(plan, near, null, true, address),
    bufferTable(plan, near, address));
}

function chart(plan, range, marked, close, address) {
  const width = Math.max(320, document.getElementById("view").clientWidth - 4);
  const left = 64;
  const count = range.last - range.first + 1;
  const x = (call) => left + ((call - range.first) / count) * (width - left - 8);
  const y = (place) => TALL - (place / (plan.arenaBytes || 1)) * (TALL - 16);
  const { peak } = alive(plan);
  const picture = svg("svg", { class: `chart${close ? " near" : ""}`, width, height: TALL + FOOT, role: "img",
    "aria-label": close ? "buffers of the layer" : "buffers of all calls" });
  for (let part = 0; part <= 4; part += 1) {
    const place = (plan.arenaBytes * part) / 4;
    picture.append(svg("line", { class: part === 4 ? "top" : "grid", x1: left, x2: width - 8, y1: y(place), y2: y(place) }),
      svg("text", { x: left - 6, y: y(place) + 4, "text-anchor": "end" }, part === 4 ? bytes(plan.arenaBytes) : part ? bytes(place) : "0"));
  }
  for (const one of stretches(plan)) {
    if (one.last < range.first || one.first > range.last) continue;
    const wide = x(one.last + 1) - x(one.first);
    const current = marked && one.layer === marked.layer;
    if (!close) picture.append(svg("a", { href: addressOf({ memory: plan.phase, layer: layerKey(one.layer) }) },
      svg("rect", { class: `stretch${current ? " current" : ""}`, x: x(one.first), y: 0, width: wide, height: TALL + FOOT }, svg("title", {}, `layer ${one.layer}`))));
    const every = Math.max(1, Math.ceil(26 / Math.max(wide, 0.1)));
    const clear = !marked || marked.layer === null || Math.abs(one.layer - marked.layer) >= every;
    if (!close && ((one.layer % every === 0 && clear) || current)) picture.append(svg("text", { class: current ? "current" : "", x: x(one.first) + wide / 2, y: TALL + 17, "text-anchor": "middle" }, one.layer));
  }
  for (const buffer of buffersOf(plan)) {
    if (buffer.last < range.first || buffer.first > range.last) continue;
    picture.append(barOf(plan, buffer, range, x, y, close, address));
  }
  if (close) {
    const every = Math.max(1, Math.ceil(count / 24));
    for (let call = range.first; call <= range.last; call += every) {
      picture.append(svg("text", { x: x(call + 0.5), y: TALL + 17, "text-anchor": "middle" }, call));
    }
  }
  if (peak >= range.first && peak <= range.last) {
    const right = x(peak) > width * 0.7;
    picture.append(svg("line", { class: "peak", x1: x(peak + 0.5), x2: x(peak + 0.5), y1: 0, y2: TALL }),
      svg("text", { class: "peak", x: x(peak + 0.5) + (right ? -6 : 6), y: 11, "text-anchor": right ? "end" : "start" }, `peak, call ${peak}`));
  }
  return el("div", { class: "chart-frame" }, picture);
}

function barOf(plan, buffer, range, x, y, close, address) {
  const [first, last] = [Math.max(buffer.first, range.first), Math.min(buffer.last, range.last)];
  const [wide, high] = [x(last + 1) - x(first), y(buffer.start) - y(buffer.start + buffer.size)];
  const chosen = address.node && (buffer.name === address.node);
  const parts = [svg("title", {}, `${buffer.name}\n${buffer.shape} ${buffer.dtype}, ${bytes(buffer.size)} at ${buffer.offset}\ncalls ${buffer.first} to ${buffer.last}`),
    svg("rect", { class: `buffer tint${tint(buffer)}${chosen ? " chosen" : ""}`, x: x(first), y: y(buffer.start + buffer.size), width: Math.max(wide - (close ? 1 : 0), 0.8), height: Math.max(high - (close ? 1 : 0), 1) })];
  if (close && high > 13 && wide > 60) {
    parts.push(svg("text", { class: "label", x: x(first) + 5, y: y(buffer.start + buffer.size) + Math.min(high / 2 + 4, 14) },
      short(split(buffer.name).id, Math.max(2, Math.floor((wide - 10) / 6.3)))));
  }
  return close ? svg("a", { href: withParts({ node: buffer.name }) }, parts) : svg("g", { class: "still" }, parts);
}

// Buffers of one name have one colour in all layers.
function tint(buffer) {
  let sum = 7;
  for (const letter of split(buffer.name).id) sum = (sum * 31 + letter.charCodeAt(0)) % 9973;
  return sum % 6;
}

function bufferTable(plan, range, address) {
  const some = buffersOf(plan).filter((one) => one.last >= range.first && one.first <= range.last);
  return el("table", { class: "buffers" },
    el("thead", {}, el("tr", {}, ["buffer", "shape", "bytes", "offset", "calls"].map((name) => el("th", {}, name)))),
    el("tbody", {}, some.map((one) => el("tr", { class: one.name === address.node ? "chosen" : "" },
      el("td", {}, lastWith(one.name) ? nodeLink(one.name) : el("span", { class: "id" }, one.name)),
      el("td", {}, `${one.shape} ${one.dtype}`), el("td", { class: "number" }, bytes(one.size)),
      el("td", {}, one.offset), el("td", { class: "number" }, one.first === one.last ? one.first : `${one.first} to ${one.last}`)))));
}
