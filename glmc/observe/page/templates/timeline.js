const data = JSON.parse(document.getElementById("data").textContent);
const zoom = document.getElementById("zoom"), scroll = document.getElementById("scroll");
const picture = document.getElementById("picture"), picked = document.getElementById("picked");
const marked = document.querySelectorAll("[data-row], [data-node]");
const numbers = new Map(data.nodes.map(([id], at) => [id, String(at)]));

// The middle of what is seen stays in the middle.
zoom.addEventListener("input", () => {
  const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth;
  picture.setAttribute("width", `${100 * zoom.value}%`);
  scroll.scrollLeft = middle * scroll.scrollWidth - scroll.clientWidth / 2;
});

picture.addEventListener("click", event => {
  const bar = event.target.closest("[data-row], [data-node]");
  if (bar) location.hash = bar.dataset.node ? addressOf({ node: data.nodes[bar.dataset.node][0] }) : `row-${bar.dataset.row}`;
});

// The times of a node in the step that is drawn, of each side that has it.
const timesOf = (node) => data.sides.flatMap(([letter, how], at) => (node[2][at]
  ? [`${letter ? `${letter} ` : ""}${node[2][at].toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} us${how ? ` (${how})` : ""}`] : [])).join(", ");

function about(id, node) {
  if (!node) return [el("p", {}, el("code", { class: "id" }, id), " ", el("span", { class: "absent" }, "No event of this step has this node."))];
  return [el("p", {}, el("code", { class: "id" }, id), " ", el("b", {}, timesOf(node)), " in this step"),
    el("p", { class: "actions" },
      data.compile ? el("a", { href: data.compile + addressOf({ node: id }) }, "on the page of the compile") : null,
      node[1] === null ? null : el("a", { href: `#row-${node[1]}` }, "its row"),
      el("a", { href: "#content" }, "all events"))];
}

// Under a row that is shown: its nodes, which lead to their bars.
function listNodes(row) {
  const some = data.nodes.filter((node) => String(node[1]) === row);
  if (!some.length) return;
  const place = document.getElementById(`row-${row}`);
  const name = (id) => (/\blayers\.(\d+)/.exec(id) ? `layer ${/\blayers\.(\d+)/.exec(id)[1]}` : id);
  place.after(el("tr", { class: "of" }, el("td", { colspan: place.cells.length }, el("ul", { class: "legend", "aria-label": "nodes of the row" },
    some.map((node) => el("li", {}, el("a", { href: addressOf({ node: node[0] }), title: node[0] }, name(node[0])), ` ${timesOf(node)}`))))));
}

function show() {
  const { node } = parseAddress(location.hash);
  const at = numbers.get(node);
  const row = at === undefined ? /^#row-(\d+)$/.exec(location.hash)?.[1] : String(data.nodes[at][1]);
  const isShown = (each) => (at !== undefined && each.localName === "rect" ? each.dataset.node === at : row !== undefined && each.dataset.row === row);
  picture.classList.toggle("picked", row !== undefined);
  for (const each of marked) each.classList.toggle("shown", isShown(each));
  for (const each of document.querySelectorAll("tr.of")) each.remove();
  picked.hidden = node === undefined;
  if (node === undefined) {
    if (row !== undefined) listNodes(row);
    return;
  }
  picked.replaceChildren(...about(node, data.nodes[at]));
  picked.focus({ preventScroll: true });
  picked.scrollIntoView({ block: "nearest" });
  const bar = picture.querySelector("rect.shown");
  if (bar) scroll.scrollLeft += bar.getBoundingClientRect().left - scroll.getBoundingClientRect().left - scroll.clientWidth / 2;
}
addEventListener("hashchange", show);
show();
