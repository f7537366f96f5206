// Keys: what each does, in one table that the help shows as well.
const keys = {}; // what a key leads to in the current view
const TABS = [...document.querySelectorAll("#tabs a")];
const HELP = [
  ["/", "search; arrows choose, Enter opens"],
  [TABS.map((tab, at) => at + 1).join(" "), TABS.map((tab) => tab.textContent.toLowerCase()).join(", ")],
  ["[ ]", "a step back and on, in passes and graph"],
  ["p n", "the previous and the next layer, in the story"],
  ["arrows", "from layer to layer, in the row of layers"],
  ["Tab Enter", "from link to link, and into one"],
  ["Esc", "close the node, or this"],
  ["?", "these keys"],
];
const help = document.getElementById("help");

function showHelp() {
  help.replaceChildren(
    el("h2", { id: "help-title" }, "Keys"),
    el("dl", { class: "facts" }, HELP.map(([key, what]) => [
      el("dt", {}, key.split(" ").map((each) => [el("kbd", {}, each), " "])), el("dd", {}, what)])),
    el("form", { method: "dialog" }, el("button", { class: "quiet-button" }, "Close")));
  help.showModal();
}

document.getElementById("keys").addEventListener("click", showHelp);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || typing || help.open) return;
  const tab = /^[1-9]$/.test(event.key) ? TABS[Number(event.key) - 1] : undefined;
  if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "?") showHelp();
  else if (tab) go(tab.getAttribute("href"));
  else if (event.key === "Escape" && parseAddress(location.hash).node) go(withParts({ node: null }));
  else if (keys[event.key]) go(keys[event.key]);
});

// The row of layers is one stop of Tab; arrows move inside it.
const cells = [...document.querySelectorAll(".layers a")];
cells.forEach((link, at) => {
  link.tabIndex = at ? -1 : 0;
  link.addEventListener("keydown", (event) => {
    const across = cells.findIndex((each) => each.offsetTop > cells[0].offsetTop);
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across < 0 ? 0 : across, ArrowUp: across < 0 ? 0 : -across }[event.key];
    const next = by && cells[at + by];
    if (!next) return;
    event.preventDefault();
    cells.forEach((each) => { each.tabIndex = each === next ? 0 : -1; });
    next.focus();
  });
});
