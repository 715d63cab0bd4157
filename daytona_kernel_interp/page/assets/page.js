(() => {
  "use strict";
  const find = (selector, root = document) => root.querySelector(selector);
  const every = (selector, root = document) => [...root.querySelectorAll(selector)];
  const steps = every("details.step");
  const railOf = new Map(every(".rail a").map((link) => [link.dataset.step, link]));
  const search = find("#search"), filter = find("#filter"), found = find("#found");

  // --- theme ----------------------------------------------------------------------------------------
  const memory = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
                   set: (value) => { try { localStorage.setItem("theme", value); } catch { /* storage is not available */ } } };
  const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const switchTheme = () => { const next = isDark() ? "light" : "dark"; document.documentElement.dataset.theme = next; memory.set(next); };
  if (["dark", "light"].includes(memory.get())) document.documentElement.dataset.theme = memory.get();
  find("#theme").addEventListener("click", switchTheme);

  // --- opening --------------------------------------------------------------------------------------
  const openAround = (node) => { for (let at = node.nodeType === 1 ? node : node.parentElement; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true; };
  const reveal = (id) => {
    const target = id && document.getElementById(id);
    if (!target) return;
    const step = target.closest("details.step");
    if (step && step.hidden) { search.value = ""; filter.value = ""; narrow(); }
    openAround(target);
    target.scrollIntoView({ block: "start" });
    target.classList.remove("flash"); void target.offsetWidth; target.classList.add("flash");
  };
  const hash = () => { try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; } };
  addEventListener("hashchange", () => reveal(hash()));
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    const id = link.getAttribute("href").slice(1);
    if (id === hash()) { event.preventDefault(); reveal(id); }
  });
  const toggleAll = () => {
    const open = !steps.every((step) => step.open);
    for (const step of steps) step.open = open;
    find("#toggle-all").textContent = open ? "Close all" : "Open all";
    find("#toggle-all").setAttribute("aria-pressed", String(open));
  };
  find("#toggle-all").addEventListener("click", toggleAll);
  addEventListener("beforeprint", () => { for (const step of steps) step.open = true; });
  for (const button of every(".copy")) button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(find("pre", button.parentElement).textContent); button.textContent = "copied"; }
    catch { getSelection().selectAllChildren(find("pre", button.parentElement)); button.textContent = "selected"; }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });

  // --- searching ------------------------------------------------------------------------------------
  const index = new Map(); // by step: its text nodes, their offsets, and their joined text
  const textOf = (step) => {
    if (!index.has(step)) {
      const nodes = [], starts = [], walker = document.createTreeWalker(step, NodeFilter.SHOW_TEXT);
      let text = "";
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        if (node.parentElement.closest(".hits, .copy, title")) continue;
        nodes.push(node); starts.push(text.length); text += node.data.toLowerCase().length === node.data.length ? node.data.toLowerCase() : node.data;
      }
      index.set(step, { nodes, starts, text });
    }
    return index.get(step);
  };
  const place = ({ nodes, starts }, at) => {
    let low = 0, high = starts.length - 1;
    while (low < high) { const middle = (low + high + 1) >> 1; if (starts[middle] <= at) low = middle; else high = middle - 1; }
    return [nodes[low], Math.min(at - starts[low], nodes[low].length)];
  };
  let hits = [], current = -1;
  const paint = () => {
    if (!("highlights" in CSS)) return;
    CSS.highlights.set("hit", new Highlight(...hits));
    CSS.highlights.set("now", new Highlight(...hits.slice(current, current + 1)));
  };
  const goTo = (number) => {
    if (!hits.length) return;
    current = (number + hits.length) % hits.length;
    openAround(hits[current].startContainer);
    hits[current].startContainer.parentElement.scrollIntoView({ block: "center" });
    tell(); paint();
  };
  let shown = steps.length;
  const tell = () => {
    const places = hits.length ? `${current + 1} of ${hits.length >= 2000 ? "2000+" : hits.length} in ` : "";
    found.textContent = search.value || filter.value ? `${places}${shown} of ${steps.length} steps` : "";
  };
  const narrow = () => {
    const wanted = search.value.trim().toLowerCase();
    hits = []; current = -1; shown = 0;
    for (const step of steps) {
      let count = 0;
      const before = hits.length;
      if (wanted) {
        const all = textOf(step);
        for (let at = all.text.indexOf(wanted); at >= 0; at = all.text.indexOf(wanted, at + wanted.length)) {
          count += 1;
          if (hits.length >= 2000) continue;
          const range = new Range(), [first, from] = place(all, at), [last, to] = place(all, at + wanted.length - 1);
          range.setStart(first, from); range.setEnd(last, Math.min(to + 1, last.length)); hits.push(range);
        }
      }
      const kept = (!wanted || count > 0) && (!filter.value || step.classList.contains(filter.value));
      step.hidden = !kept;
      railOf.get(step.id).parentElement.hidden = !kept;
      if (!kept) hits.length = before;
      find(".hits", step).textContent = count ? String(count) : "";
      shown += kept;
    }
    find(".empty.none")?.toggleAttribute("hidden", shown > 0 || !steps.length);
    tell(); paint();
    if (hits.length) goTo(0);
  };
  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(narrow, 120); });
  filter.addEventListener("change", narrow);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); clearTimeout(waiting); if (current < 0) narrow(); else goTo(current + (event.shiftKey ? -1 : 1)); }
    if (event.key === "Escape") { search.value = ""; narrow(); search.blur(); }
  });

  // --- the timeline ---------------------------------------------------------------------------------
  let zoom = 1;
  const zoomBy = (factor) => {
    const box = find(".timeline .scroll");
    if (!box) return;
    const middle = (box.scrollLeft + box.clientWidth / 2) / box.scrollWidth;
    zoom = factor ? Math.min(64, Math.max(1, zoom * factor)) : 1;
    find("svg", box).style.setProperty("--zoom", zoom);
    box.scrollLeft = middle * box.scrollWidth - box.clientWidth / 2;
  };
  for (const button of every("[data-zoom]")) button.addEventListener("click", () => zoomBy(Number(button.dataset.zoom)));

  // --- keys -----------------------------------------------------------------------------------------
  const keys = find("#keys");
  find("#help").addEventListener("click", () => keys.showModal());
  const move = (by) => {
    const visible = steps.filter((step) => !step.hidden);
    const at = visible.findIndex((step) => step.contains(document.activeElement));
    const next = at < 0 ? visible[by > 0 ? 0 : visible.length - 1] : visible[Math.min(visible.length - 1, Math.max(0, at + by))];
    if (!next) return;
    next.scrollIntoView({ block: "start" });
    find("summary", next).focus({ preventScroll: true });
  };
  const actions = { j: () => move(1), k: () => move(-1), e: toggleAll, t: switchTheme, "?": () => keys.showModal(),
                    "+": () => zoomBy(2), "-": () => zoomBy(0.5), 0: () => zoomBy(0),
                    "/": () => { search.focus(); search.select(); }, Escape: () => { if (search.value || filter.value) { search.value = filter.value = ""; narrow(); } } };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open || event.target.closest("input, select, textarea")) return;
    const action = Object.hasOwn(actions, event.key) && actions[event.key];
    if (action) { event.preventDefault(); action(); }
  });

  // --- position in the list of steps ----------------------------------------------------------------
  const seen = new Set();
  const watcher = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) seen[isIntersecting ? "add" : "delete"](target);
    const first = steps.find((step) => seen.has(step));
    for (const link of every(".rail a[aria-current]")) link.removeAttribute("aria-current");
    const link = first && railOf.get(first.id);
    if (!link) return;
    link.setAttribute("aria-current", "true");
    const rail = find(".rail"), box = link.getBoundingClientRect();
    if (box.top < 70 || box.bottom > innerHeight - 10) rail.scrollTop += box.top - innerHeight / 2;
  }, { rootMargin: "-84px 0px -45% 0px" });
  for (const step of steps) watcher.observe(step);
  reveal(hash());
})();
