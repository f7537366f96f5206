// The arena over the schedule: a bar for each buffer, calls to the right, bytes upwards.
const TALL = 300;
const FOOT = 44;
const LEFT = 84;

function chart(plan, range, marked, close, address) {
  const width = Math.max(320, document.getElementById("view").clientWidth - 4);
  const count = range.last - range.first + 1;
  const x = (call) => LEFT + ((call - range.first) / count) * (width - LEFT - 8);
  const y = (place) => TALL - (place / (plan.arenaBytes || 1)) * (TALL - 16);
  const picture = svg("svg", { class: `chart${close ? " near" : ""}`, width, height: TALL + FOOT, role: "group",
    "aria-label": close ? "buffers of these calls" : "buffers of all calls" });
  picture.append(...axes(plan, y, width, close));
  if (close) picture.append(...callTicks(range, count, x));
  else picture.append(...layerTicks(plan, range, marked, x));
  for (const buffer of buffersOf(plan)) {
    if (buffer.last < range.first || buffer.first > range.last) continue;
    picture.append(barOf(plan, buffer, range, x, y, close, address));
  }
  const { peak } = alive(plan);
  if (peak >= range.first && peak <= range.last) {
    const right = x(peak) > width * 0.7;
    picture.append(svg("line", { class: "peak", x1: x(peak + 0.5), x2: x(peak + 0.5), y1: 0, y2: TALL }),
      svg("text", { class: "peak", x: x(peak + 0.5) + (right ? -6 : 6), y: 11, "text-anchor": right ? "end" : "start" }, `peak, call ${peak}`));
  }
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": close ? "buffers of these calls, scrolls" : "all buffers, scrolls" }, picture);
}

function axes(plan, y, width, close) {
  const parts = [];
  for (let part = 0; part <= 4; part += 1) {
    const place = (plan.arenaBytes * part) / 4;
    parts.push(svg("line", { class: part === 4 ? "top" : "grid", x1: LEFT, x2: width - 8, y1: y(place), y2: y(place) }),
      svg("text", { x: LEFT - 6, y: y(place) + 4, "text-anchor": "end" }, part ? bytes(place) : "0"));
  }
  parts.push(
    svg("text", { class: "axis", x: 12, y: TALL / 2, transform: `rotate(-90 12 ${TALL / 2})`, "text-anchor": "middle" }, "place in the arena"),
    svg("text", { class: "axis", x: (LEFT + width) / 2, y: TALL + FOOT - 6, "text-anchor": "middle" }, close ? "number of the call" : "layer, in the order of the calls"));
  return parts;
}

function layerTicks(plan, range, marked, x) {
  const parts = [];
  for (const stretch of stretches(plan)) {
    const wide = x(stretch.last + 1) - x(stretch.first);
    const current = marked && stretch.layer === marked.layer;
    parts.push(svg("a", { href: addressOf({ memory: plan.phase, layer: layerKey(stretch.layer) }), "aria-label": `memory of layer ${stretch.layer}`, tabindex: "-1" },
      svg("rect", { class: `stretch${current ? " current" : ""}`, x: x(stretch.first), y: 0, width: wide, height: TALL + 22 }, svg("title", {}, `layer ${stretch.layer}`))));
    const every = Math.max(1, Math.ceil(26 / Math.max(wide, 0.1)));
    const clear = !marked || marked.layer === null || Math.abs(stretch.layer - marked.layer) >= every;
    if ((stretch.layer % every === 0 && clear) || current) {
      parts.push(svg("text", { class: current ? "current" : "", x: x(stretch.first) + wide / 2, y: TALL + 17, "text-anchor": "middle" }, stretch.layer));
    }
  }
  return parts;
}

function callTicks(range, count, x) {
  const parts = [];
  const every = Math.max(1, Math.ceil(40 / Math.max(x(range.first + 1) - x(range.first), 0.1)));
  for (let call = range.first; call <= range.last; call += every) {
    parts.push(svg("text", { x: x(call + 0.5), y: TALL + 17, "text-anchor": "middle" }, call));
  }
  return parts;
}

function barOf(plan, buffer, range, x, y, close, address) {
  const [first, last] = [Math.max(buffer.first, range.first), Math.min(buffer.last, range.last)];
  const [wide, high] = [x(last + 1) - x(first), y(buffer.start) - y(buffer.start + buffer.size)];
  const current = address.node && buffer.name === address.node;
  const parts = [svg("title", {}, `${buffer.name}\nmade for ${opOf(plan, buffer)}\n${buffer.shape} ${buffer.dtype}, ${bytes(buffer.size)} at ${buffer.offset}\ncalls ${buffer.first} to ${buffer.last}`),
    svg("rect", { class: `buffer tint${tints(plan).of(buffer)}${current ? " current" : ""}`, x: x(first), y: y(buffer.start + buffer.size), width: Math.max(wide - (close ? 1 : 0), 0.8), height: Math.max(high - (close ? 1 : 0), 1) })];
  if (close && high > 13 && wide > 60) {
    parts.push(svg("text", { class: "label", x: x(first) + 5, y: y(buffer.start + buffer.size) + Math.min(high / 2 + 4, 14) }, fitting(split(buffer.name).id, wide - 10)));
  }
  return close ? svg("a", { href: withParts({ node: buffer.name }), "aria-label": `buffer ${buffer.name}` }, parts) : svg("g", { class: "still" }, parts);
}

// A text that is cut to a width.
function fitting(text, width) {
  const letters = Math.floor(width / (textWidth("m".repeat(20)) / 20));
  return letters < 3 ? "" : short(text, letters);
}
