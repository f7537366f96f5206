// The details of a cell, from the data of the page, and the way from cell to cell by keys.
const data = JSON.parse(document.getElementById("data").textContent);
const panel = document.getElementById("panel");
const marks = [...document.querySelectorAll("a.heat[data-value]")];
const cellOf = new Map(marks.map((mark) => [Number(mark.dataset.value), mark]));
const text = (at) => (at === undefined ? "" : data.texts[at]);
const texts = (places) => (places || []).map((at) => data.texts[at]);
const NUMBERS = ["largest error", "largest relative", "RMS of the error", "relative RMS", "cosine", "close"];
const COUNTS = ["NaN expected", "NaN actual", "inf expected", "inf actual", "not finite on one side"];
const STATISTICS = ["minimum", "maximum", "mean", "std", "NaN", "inf"];
const SIDES = ["total", "own", "inherited"];
const WRONG = ["own", "fail"];
const number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : value);

// The value of an address; of several the first that is wrong.
function valueAt(address) {
  if (!address.node && !address.name) return -1;
  const fits = (value) => (!address.node || text(value.node) === address.node)
    && (!address.name || text(value.name) === address.name)
    && (address.step === undefined || String(value.step) === address.step);
  const wrong = data.values.findIndex((value) => fits(value) && WRONG.includes(text(value.verdict)));
  return wrong < 0 ? data.values.findIndex(fits) : wrong;
}

// No element has this id, so that nothing scrolls.
const closed = (address) => addressOf({ step: address.step || "0" });

function show() {
  const address = parseAddress(location.hash);
  const at = valueAt(address);
  const asked = Boolean(address.node || address.name);
  const last = marks.find((mark) => mark.hasAttribute("aria-current"));
  for (const mark of marks) mark.removeAttribute("aria-current");
  panel.hidden = !asked;
  document.body.classList.toggle("with-panel", asked);
  panel.replaceChildren();
  if (!asked) {
    last?.focus();
    return;
  }
  panel.append(el("header", {},
    el("h2", {}, address.node || address.name),
    el("a", { class: "close", href: closed(address), "aria-label": "close the details" }, "×")));
  if (at < 0) panel.append(el("p", { class: "absent" }, "No value of this alignment has this id."));
  else {
    panel.append(...about(data.values[at]));
    const mark = cellOf.get(at);
    mark.setAttribute("aria-current", "true");
    enter(mark);
    if (!last) mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
}

const code = (some) => (some ? el("code", {}, some) : null);
const lines = (some) => (some.length ? some.map((each) => el("div", {}, code(each))) : null);

function about(value) {
  const verdict = text(value.verdict);
  const rows = [
    ["verdict", el("span", { class: WRONG.includes(verdict) ? "wrong" : "" }, verdict, value.reason === undefined ? "" : `: ${text(value.reason)}`)],
    ["error", text(value.error)],
    ["step", text(value.title)],
    ["layer", value.layer === undefined ? "outside the layers" : String(value.layer)],
    ["id", linked(text(value.node))],
    ["name", code(text(value.name))],
    ["name in B", code(text(value.other))],
    ["also", lines(texts(value.also))],
    ["module", code(text(value.module))],
    ["op", code(text(value.op))],
    ["source line", code(text(value.source))],
    ["passes", lines(texts(value.passes))],
    ["kernel calls", code(text(value.function))],
    ["dtype", code(`${text(value.dtype)} ${text(value.shape)}`)],
    ["numerics", text(value.numerics)],
    ["bound", value.bound === undefined ? null : number(value.bound)],
    ["of what is allowed", value.share === undefined ? null : number(value.share)],
    ["paired by", text(value.paired)],
  ];
  return [
    facts(rows.filter(([, shown]) => shown !== null && shown !== "")),
    next(value), differences(value), statistics(value), router(value), ...histograms(value),
  ].filter(Boolean);
}

function linked(node) {
  if (!node || !data.compile) return code(node);
  return el("a", { class: "id", href: data.compile + addressOf({ node }) }, node);
}

const section = (title, ...parts) => el("section", {}, el("h3", {}, title), parts);

function next(value) {
  const advice = texts(value.advice);
  return advice.length ? section("What to try next", el("ul", {}, advice.map((each) => el("li", {}, each)))) : null;
}

function grid(name, heads, rows) {
  return table(name, ["", ...heads.map((head) => [head, "number"])],
    rows.map(([title, cells]) => el("tr", {}, el("th", { scope: "row" }, title),
      cells.map((cell) => el("td", { class: "number" }, number(cell))))), "counts numbers");
}

function differences(value) {
  const known = SIDES.filter((side) => value[side]);
  const row = (names, of) => names.map((name, at) => [name, known.map((side) => value[side][of][at])]);
  return section("Errors", grid("errors", known, [
    ["elements", known.map((side) => value[side].elements)],
    ...row(NUMBERS, "numbers"), ...row(COUNTS, "counts").filter(([, cells]) => cells.some(Boolean))]));
}

function statistics(value) {
  if (!value.statistics) return null;
  return section("Statistics", grid("statistics", ["expected", "actual"],
    STATISTICS.map((name, at) => [name, value.statistics.map((side) => side[at])])));
}

function router(value) {
  const found = value.router;
  if (!found) return null;
  const said = found.tied === null ? "nothing says whether errors before explain the rest"
    : found.tied ? "errors before explain the rest" : "errors before do not explain the rest";
  const rows = (found.margins || []).map((margin, at) => [at + 1, [margin, found.ties ? found.ties[at] : "not known"]]);
  return section("Router",
    el("p", {}, `${found.agreeing} of ${found.tokens} tokens have the same experts`, found.agreeing < found.tokens ? `; ${said}.` : "."),
    rows.length ? grid("margins of the tokens that do not", ["margin", "explained up to"], rows) : null);
}

// 0, 1, 2, 3 to 4, 5 to 8, ...
const binText = (at) => (at < 3 ? String(at) : `${2 ** (at - 2) + 1} to ${2 ** (at - 1)}`);

function histograms(value) {
  return SIDES.filter((side) => value[side]?.ulps.length).map((side) => {
    const counts = value[side].ulps;
    const most = Math.max(...counts);
    return section(`ULP, ${side}`, el("ul", { class: "ulps" }, counts.map((count, at) =>
      el("li", {}, el("span", {}, at === data.last ? `above ${2 ** (at - 2)}` : binText(at)),
        el("i", { style: `--share:${count / most}`, hidden: !count }), count ? null : el("span"),
        el("span", {}, count.toLocaleString("en"))))));
  });
}

// Each map is one stop of Tab; arrows move to the nearest cell of a direction.
const mapOf = (mark) => mark.closest(".map");

function enter(mark) {
  for (const each of marks) if (mapOf(each) === mapOf(mark)) each.tabIndex = each === mark ? 0 : -1;
}

function neighbour(mark, key) {
  const row = mark.closest("tr");
  const some = [...mapOf(mark).querySelectorAll("a.heat[data-value]")];
  if (!row || key === "ArrowLeft" || key === "ArrowRight") return some[some.indexOf(mark) + (key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1)];
  const column = mark.closest("td").cellIndex;
  const step = key === "ArrowUp" ? "previousElementSibling" : "nextElementSibling";
  for (let other = row[step]; other; other = other[step]) {
    const found = other.cells[column].querySelector("a.heat");
    if (found) return found;
  }
  const edge = [...row.parentElement.querySelectorAll("a.heat")];
  return some[key === "ArrowUp" ? some.indexOf(edge[0]) - 1 : some.indexOf(edge[edge.length - 1]) + 1];
}

for (const map of document.querySelectorAll(".map")) {
  const first = map.querySelector("a.heat");
  if (first) enter(first);
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && !panel.hidden) location.hash = closed(parseAddress(location.hash));
  const mark = event.target.closest?.("a.heat[data-value]");
  if (!mark || !/^Arrow(Up|Down|Left|Right)$/.test(event.key)) return;
  const found = neighbour(mark, event.key);
  if (!found) return;
  event.preventDefault();
  enter(found);
  found.focus();
});
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("a.heat[data-value]");
  if (mark && !mark.title) mark.title = `${text(data.values[mark.dataset.value].name)}: ${mark.getAttribute("aria-label")}`;
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
addEventListener("hashchange", show);
show();
