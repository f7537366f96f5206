// Lines in the gutter of a pass, from what went away to what stands for it now.
function joinLater(grid, into) {
  const draw = () => join(grid, into);
  requestAnimationFrame(draw);
  if (!grid.watched) {
    grid.watched = new ResizeObserver(draw);
    grid.watched.observe(grid);
  }
}

function join(grid, into) {
  grid.querySelector("svg.joins")?.remove();
  const gutter = grid.querySelector(".gutter");
  if (!gutter || !grid.isConnected) return;
  const [frame, between] = [grid.getBoundingClientRect(), gutter.getBoundingClientRect()];
  const right = new Map([...grid.querySelectorAll(".cell.right[data-id]")].map((each) => [each.dataset.id, each]));
  const elsewhere = [...grid.querySelectorAll(".became")];
  const drawing = svg("svg", { class: "joins", width: between.width, height: frame.height, "aria-hidden": "true",
    style: `left:${between.left - frame.left}px` });
  const middle = (part) => {
    const box = part.getBoundingClientRect();
    return box.top - frame.top + Math.min(box.height / 2, 14);
  };
  for (const old of grid.querySelectorAll(".cell.left.removed[data-id], .cell.left.changed[data-id]")) {
    const note = elsewhere.find((each) => each.dataset.from.split("\n").includes(old.dataset.id));
    const heirs = into.get(old.dataset.id) || [];
    const makers = heirs.filter((node) => node.op !== GETITEM);
    const targets = note ? [note] : (makers.length ? makers : heirs).map((node) => right.get(node.id))
      .filter((each) => each && !each.classList.contains("same"));
    if (!targets.length) old.title = "nothing stands for this node any more";
    for (const target of note && !note.dataset.to ? [] : targets) {
      const [a, b, w] = [middle(old), middle(target), between.width];
      const path = svg("path", { d: `M0 ${a} C${w / 2} ${a} ${w / 2} ${b} ${w} ${b}` });
      drawing.append(path);
      const light = (on) => () => { [path, old, target].forEach((each) => each.classList.toggle("lit", on)); };
      for (const each of [old, target]) {
        each.addEventListener("mouseenter", light(true));
        each.addEventListener("mouseleave", light(false));
      }
    }
  }
  grid.append(drawing);
}
