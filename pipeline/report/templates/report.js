"use strict";
// Search, filter, order, and picking out one kind of token. Without it the page is whole, only long.
(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const search = document.getElementById("search");
  const mark = document.getElementById("mark");
  const order = document.getElementById("order");
  const shown = document.getElementById("shown");
  const none = document.getElementById("none");
  const sample = shown.textContent.replace(/^[^,]*clips/, "");
  const clips = [...gallery.children].map((element, place) => ({
    element,
    place,
    text: `${element.textContent} ${element.querySelector("h3").title}`.toLowerCase(),
    marks: element.dataset.marks.split(" "),
    keys: element.dataset.keys.split(" ").map(Number),
  }));

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const clip of clips) {
      const matches = (!mark.value || clip.marks.includes(mark.value))
        && words.every((word) => clip.text.includes(word));
      clip.element.hidden = !matches;
      count += matches;
    }
    shown.textContent = `${count} of ${clips.length} clips${sample}`;
    none.hidden = count > 0;
  }

  function sort() {
    const [key, direction] = order.value.split(" ");
    const sign = direction === "down" ? -1 : 1;
    const value = (clip) => (order.value ? sign * clip.keys[Number(key)] : 0);
    clips.sort((a, b) => value(a) - value(b) || a.place - b.place);
    gallery.append(...clips.map((clip) => clip.element));
  }

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 80);
  });
  mark.addEventListener("change", filter);
  order.addEventListener("change", sort);
  const kinds = [...document.querySelectorAll(".legend button")];
  for (const button of kinds) {
    button.addEventListener("click", () => {
      const only = button.getAttribute("aria-pressed") === "true" ? null : button.dataset.kind;
      for (const other of kinds) {
        other.setAttribute("aria-pressed", String(other.dataset.kind === only));
      }
      if (only) gallery.dataset.only = only;
      else delete gallery.dataset.only;
    });
  }
  // What a browser kept of an earlier visit is in force.
  filter();
  sort();
})();
