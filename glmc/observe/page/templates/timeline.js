const zoom = document.getElementById("zoom"), scroll = document.getElementById("scroll");
const picture = document.getElementById("picture");
const marked = document.querySelectorAll("[data-row]");

// The middle of what is seen stays in the middle.
zoom.addEventListener("input", () => {
  const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth;
  picture.setAttribute("width", `${100 * zoom.value}%`);
  scroll.scrollLeft = middle * scroll.scrollWidth - scroll.clientWidth / 2;
});

picture.addEventListener("click", event => {
  const bar = event.target.closest("[data-row]");
  if (bar) location.hash = `row-${bar.dataset.row}`;
});

function show() {
  const found = /^#row-(\d+)$/.exec(location.hash);
  picture.classList.toggle("picked", found !== null);
  for (const each of marked) each.classList.toggle("shown", found !== null && each.dataset.row === found[1]);
}
addEventListener("hashchange", show);
show();
