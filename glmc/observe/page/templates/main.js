// What the address says is what is shown; nothing is drawn before it is asked for.
const VIEWS = { layer: showStory, pass: showPass, graph: showGraph, kernels: showKernels, memory: showMemory };
const SECTIONS = ["start", "checks"]; // made without a script
const view = document.getElementById("view");
let drawn_ = null;
let opener = null; // what a node was opened from

// The view that an address names first: a story may name a phase of kernels besides.
const viewOf = (address) => Object.keys(address).find((name) => name in VIEWS);

function show() {
  const address = parseAddress(location.hash);
  let name = viewOf(address);
  const section = SECTIONS.find((each) => each in address);
  if (!name && !section && address.node) {
    const last = lastWith(address.node);
    if (last) {
      name = "graph";
      address.graph = layerKey(split(address.node).layer);
      address.step = last.name;
    }
  }
  for (const part of SECTIONS) {
    document.getElementById(`section-${part}`).hidden = Boolean(name) || part !== (section || "start");
  }
  const current = name || section || "start";
  for (const tab of TABS) {
    if (tab.dataset.view === current) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  view.hidden = !name;
  const { node, ...rest } = address;
  const wanted = JSON.stringify(rest);
  const moved = drawn_ !== null && wanted !== drawn_;
  showNode(node || null);
  if (name && wanted !== drawn_) {
    for (const key of Object.keys(keys)) delete keys[key];
    view.replaceChildren(VIEWS[name](address));
  } else if (name) {
    markNode(node);
  }
  if (moved) scrollTo(0, 0);
  moveFocus(moved, node, current);
  drawn_ = wanted;
}

// Whoever uses the keyboard or a reader goes on where something new is.
function moveFocus(moved, node, current) {
  if (node) {
    if (!opener) opener = document.activeElement;
    if (document.activeElement?.closest("main, #results")) panel.focus({ preventScroll: true });
  } else if (opener) {
    if (opener.isConnected && !moved) opener.focus({ preventScroll: true });
    opener = null;
  }
  if (moved && !node && drawn_ !== null) {
    const title = document.querySelector(`${VIEWS[current] ? "#view" : `#section-${current}`} h1`);
    title?.setAttribute("tabindex", "-1");
    title?.focus({ preventScroll: true });
  }
}

// The current node, where the view is the same as before: the place on the screen stays.
function markNode(id) {
  for (const each of view.querySelectorAll(".current:not(tr)")) each.classList.remove("current");
  if (!id) return;
  for (const link of view.querySelectorAll("a.box, a.port, .cell a.id")) {
    const there = parseAddress(link.getAttribute("href")).node;
    if (there === id) (link.closest(".cell") || link).classList.add("current");
  }
}

let windowWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== windowWidth && "memory" in parseAddress(location.hash)) { drawn_ = null; show(); }
  windowWidth = innerWidth;
});
// On paper everything is open.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
addEventListener("hashchange", show);
show();
