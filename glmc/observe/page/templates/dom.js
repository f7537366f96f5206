// Elements are made by hand: text is always text, never markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    made.append(child instanceof Node ? child : String(child));
  }
  return made;
}

const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

// The address of a view: "#pass=moe_gate&layer=3&node=model.layers.3.mlp.gate%23gather".
function parseAddress(text) {
  const address = {};
  for (const part of text.replace(/^#+/, "").split("&")) {
    const at = part.indexOf("=");
    if (!part) continue;
    const [name, value] = at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
    try {
      address[name] = decodeURIComponent(value);
    } catch {
      address[name] = value;
    }
  }
  return address;
}

function addressOf(parts) {
  const present = Object.entries(parts).filter(([, value]) => value !== null && value !== undefined);
  const code = (value) => encodeURIComponent(value).replace(/%2C/g, ",").replace(/%3A/g, ":");
  return "#" + present.map(([name, value]) => (value === "" ? name : `${name}=${code(value)}`)).join("&");
}

// The same view with other parts; a part that is null goes away.
const withParts = (parts) => addressOf({ ...parseAddress(location.hash), ...parts });
const go = (address) => { location.hash = address; };

function select(label, options, current, change) {
  const list = el("select", { onchange: (event) => change(event.target.value) },
    options.map(([value, text]) =>
      el("option", { value, selected: String(value) === String(current) }, text)));
  return el("label", { class: "field" }, el("span", {}, label), list);
}

function segmented(label, options, current, address) {
  return el("div", { class: "segmented", role: "group", "aria-label": label },
    options.map(([value, text]) =>
      el("a", { href: address(value), "aria-current": value === current ? "true" : null }, text)));
}

// A table in a frame that scrolls by itself where the window is narrow.
function table(name, heads, rows, kind = "") {
  return el("div", { class: "wide", role: "region", "aria-label": name, tabindex: "0" },
    el("table", { class: kind },
      el("thead", {}, el("tr", {}, heads.map((head) => {
        const [text, type] = Array.isArray(head) ? head : [head, ""];
        return el("th", { scope: "col", class: type }, text);
      }))),
      el("tbody", {}, rows)));
}

const facts = (rows) =>
  el("dl", { class: "facts" }, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

// Swatches with what they mean.
const legend = (rows) => el("ul", { class: "legend", "aria-label": "colours" },
  rows.map(([kind, text]) => el("li", {}, el("i", { class: `swatch ${kind}` }), text)));

function bytes(count) {
  if (count === null || count === undefined) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit += 1) count /= 1024;
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(1)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 2 : 0)} ms`;
  return seconds < 120 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

const plural = (count, word) =>
  `${count.toLocaleString("en")} ${word}${count === 1 ? "" : /[sxh]$/.test(word) ? "es" : "s"}`;
const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
