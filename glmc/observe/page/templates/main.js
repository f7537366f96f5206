// What the address says is what is shown; nothing is drawn before it is asked for.
const VIEWS = { pass: showPass, graph: showGraph, kernels: showKernels, memory: showMemory };
const view = document.getElementById("view");
let drawn_ = null;

function show() {
  const address = parseAddress(location.hash);
  let name = Object.keys(VIEWS).find((one) => one in address);
  const section = ["pipeline", "checks"].find((one) => one in address);
  if (!name && !section && address.node) {
    const last = lastWith(address.node);
    if (last) {
      name = "graph";
      address.graph = layerKey(split(address.node).layer);
      address.step = last.name;
    }
  }
  for (const part of ["pipeline", "checks"]) {
    document.getElementById(part).hidden = Boolean(name) || part !== (section || "pipeline");
  }
  for (const tab of document.querySelectorAll("#tabs a")) {
    const current = tab.dataset.view === (name || section || "pipeline");
    if (current) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  view.hidden = !name;
  const { node, ...rest } = address;
  showNode(node || null);
  const asked = JSON.stringify(rest);
  if (name && asked !== drawn_) {
    delete keys["["];
    delete keys["]"];
    view.replaceChildren(VIEWS[name](address));
    scrollTo(0, 0);
  } else if (name) {
    mark(node);
  }
  drawn_ = name ? asked : null;
}

// The chosen node, where the view is the same as before: the place on the screen is kept.
function mark(id) {
  for (const one of view.querySelectorAll(".chosen:not(tr)")) one.classList.remove("chosen");
  if (!id) return;
  for (const link of view.querySelectorAll("a.box, .cell a.id")) {
    const there = parseAddress(link.getAttribute("href")).node;
    if (there === id) (link.closest(".cell") || link).classList.add("chosen");
  }
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "Escape" && parseAddress(location.hash).node) go(withParts({ node: null }));
  else if (keys[event.key]) go(keys[event.key]);
});
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== wide && "memory" in parseAddress(location.hash)) { drawn_ = null; show(); }
  wide = innerWidth;
});
addEventListener("hashchange", show);
show();
