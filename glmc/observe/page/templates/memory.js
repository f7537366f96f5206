// Memory: weights, cache and arena in one bar, then the arena over the schedule.
const AROUND = 14; // calls shown on each side of the peak

function showMemory(address) {
  const plan = planNamed(address.memory);
  if (!plan) return noPlan();
  const { calls, most, peak } = alive(plan);
  const wanted = layerOfKey(address.layer);
  const at = stretches(plan).find((each) => each.layer === wanted) ||
    { layer: null, first: Math.max(0, peak - AROUND), last: Math.min(calls - 1, peak + AROUND) };
  const near = { first: Math.max(0, at.first - 1), last: Math.min(calls - 1, at.last + 1) };
  return el("section", { class: "memory" },
    el("h1", {}, "Memory", " ", el("small", {}, plan.phase)),
    devicePart(plan),
    el("h2", {}, "Arena"),
    el("div", { class: "bar" },
      segmented("phase", plans.map((each) => [each.phase, each.phase]), plan.phase, (phase) => addressOf({ memory: phase, layer: address.layer || null })),
      select("layer", [["", "around the peak"], ...layers.map((each) => [layerKey(each), layerName(each)])], at.layer ?? "",
        (key) => go(addressOf({ memory: plan.phase, layer: key || null }))),
      el("a", { href: addressOf({ kernels: plan.phase, layer: layerKey(at.layer), call: peak >= at.first && peak <= at.last ? peak : null }) }, "the calls")),
    el("p", { class: "muted" }, "At the largest bucket (", el("b", {}, bucketOf(plan)),
      "): arena ", el("b", {}, bytes(plan.arenaBytes)), ` (${plan.arena} bytes at any bucket), `, plural(plan.buffers.length, "buffer"), ", at most ",
      el("b", {}, bytes(most)), ` alive at once, at call ${peak}. Computed from the plan, not measured.`),
    legend(tints(plan).names.map((name, tint) => [`tint${tint}`, name || "no op"])),
    el("h3", {}, "Whole schedule"),
    chart(plan, { first: 0, last: calls - 1 }, at, false, address),
    el("h3", {}, `${at.layer === null ? "Around the peak" : `Layer ${at.layer}`}, calls ${at.first} to ${at.last}`),
    chart(plan, near, null, true, address),
    bufferTable(plan, near, address));
}

// All that a device must have, as parts of a bar.
function devicePart(plan) {
  const memory = DATA.memory;
  if (!memory) return el("p", { class: "absent" }, "Sizes of weights and cache are not recorded: this compile wrote no artifact.");
  const arena = Math.max(...plans.map((each) => each.arenaBytes));
  const parts = [
    ["weights", memory.weights, ""],
    ["cache", memory.cache, `${bytes(memory.token)} a token, ${plural(memory.sequences, "sequence")} of ${plural(memory.context, "token")}`],
    ["arena", arena, "shared by all phases, at the largest bucket"],
  ];
  const sum = parts.reduce((total, [, size]) => total + size, 0);
  return el("div", {},
    el("p", { class: "lead" }, el("b", {}, bytes(sum)), " at most: weights, the cache at its largest batch and longest context, and the arena."),
    el("div", { class: "stack", "aria-hidden": "true" }, parts.map(([, size], at) => el("i", { class: `tint${at}`, style: `flex-grow:${size / sum}` }))),
    el("dl", { class: "sums" }, parts.map(([name, size, more], at) => el("div", {},
      el("dt", {}, el("i", { class: `swatch tint${at}` }), name),
      el("dd", {}, el("b", {}, bytes(size)), more ? el("span", { class: "muted" }, more) : null)))));
}

function bufferTable(plan, range, address) {
  const some = buffersOf(plan).filter((each) => each.last >= range.first && each.first <= range.last);
  return table("buffers", ["buffer", "made for", "shape", ["bytes", "number"], "offset", ["calls", "number"]],
    some.map((each) => el("tr", { class: each.name === address.node ? "current" : "" },
      el("td", {}, lastWith(each.name) ? nodeLink(each.name) : el("span", { class: "id" }, each.name)),
      el("td", {}, opOf(plan, each)),
      el("td", {}, `${each.shape} ${each.dtype}`), el("td", { class: "number" }, bytes(each.size)),
      el("td", {}, each.offset), el("td", { class: "number" }, each.first === each.last ? each.first : `${each.first} to ${each.last}`))), "buffers");
}
