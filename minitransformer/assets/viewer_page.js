// The page around the pictures: tabs, controls, keys, themes.

/** The views of all tabs, in their order; the second of a kind is called heads-2. */
function viewsOf(tabs) {
  const made = [];
  const add = (make, kind, label, data) => {
    const count = made.filter((view) => view.kind === kind).length + 1;
    const alike = made.filter((view) => view.named === label).length + 1;
    const shown = `${label[0].toUpperCase()}${label.slice(1)}${alike > 1 ? ` ${alike}` : ""}`;
    made.push(Object.assign(make(count > 1 ? `${kind}-${count}` : kind, visible(shown), data), { kind, named: label }));
  };
  for (const tab of tabs) {
    if (tab.kind === "attention") {
      add(headsView, "heads", "Heads", tab.groups);
      add(modelView, "model", "Model", tab.groups);
      add(matrixView, "matrix", "Matrix", tab.groups);
    } else {
      const [make, label] = { compare: [compareView, "Compare"], steps: [stepsView, tab.group === "attention" ? "Steps" : `Steps: ${tab.group}`], layers: [layersView, "Layers"], grid: [gridView, tab.name], table: [tableView, tab.name] }[tab.kind];
      add(make, tab.kind, label, tab);
    }
  }
  return made;
}

const VIEWS = viewsOf(HEADER.tabs);
const part = {}; // the elements of the page that change
let themeChosen = false;
let drawing = null;
let width = 0; // of the window when it was drawn; 0: the page had no size yet, as in a frame that nobody has scrolled to

/** Changes the selection, and whatever shows it. */
function select(changes) {
  const before = JSON.stringify(now);
  const old = { ...now };
  if (changes.view && changes.view !== now.view) now.row = now.column = 0; // they mean something else there
  Object.assign(now, changes);
  keepInside();
  keepAddress();
  if (JSON.stringify(now) === before) return;
  const view = currentView();
  if (now.view !== old.view) show();
  else if (view.redrawnBy.some((name) => String(now[name]) !== String(old[name]))) draw();
  else refresh();
}

/** Shows the current view: its tab, its controls, its picture. */
function show() {
  for (const tab of part.tabs.children) {
    const on = tab.id === `tab-${now.view}`;
    dress(tab, { "aria-selected": String(on), tabindex: on ? 0 : -1 });
  }
  part.panel.setAttribute("aria-labelledby", `tab-${now.view}`);
  draw();
}

/** Draws the current view anew. */
function draw() {
  const view = currentView();
  const typing = document.activeElement?.dataset?.control;
  part.controls.replaceChildren(...view.controls.flatMap((name) => CONTROLS[name](view) ?? []));
  if (typing) part.controls.querySelector(`[data-control="${typing}"]`)?.focus();
  const stepAt = document.activeElement?.closest(".chips") && part.before.contains(document.activeElement);
  part.before.replaceChildren(...[view.before?.()].filter(Boolean));
  if (stepAt) part.before.querySelector("[aria-current]")?.focus();
  const room = part.panel.clientWidth;
  width = room && innerWidth;
  drawing = view.draw(Math.max(280, room - 38));
  const bare = drawing === null;
  part.picture.hidden = bare;
  part.bar.querySelectorAll(".of-picture").forEach((button) => { button.hidden = bare; });
  part.picture.replaceChildren(...[drawing].filter(Boolean));
  part.picture.setAttribute("aria-label", `${view.label}: a picture. Keys: ${view.keys ?? ""}`);
  refresh();
  showTable();
}

/** Shows what has changed without drawing anew. */
function refresh() {
  const view = currentView();
  if (drawing) view.move?.();
  part.after.replaceChildren(...[view.after?.()].filter(Boolean));
  part.note.textContent = view.note();
  say(view.sentence());
}

/** Says what is looked at; to those who listen as well, unless it is only under the pointer. */
function say(sentence, pointed = false) {
  part.said.textContent = sentence;
  part.said.hidden = !sentence;
  if (!pointed) part.live.textContent = sentence;
}

function showTable() {
  const wanted = currentView().tableOnly || part.tableButton.getAttribute("aria-pressed") === "true";
  part.table.hidden = !wanted;
  part.table.replaceChildren(...(wanted ? [tableOf(currentView().table())] : []));
}

// Controls

/** A labelled list to choose from. */
function chooser(name, label, options, chosen, change) {
  const list = el("select", { "data-control": name, onchange: () => change(list.value) },
    ...options.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text)));
  return el("label", {}, `${label} `, list);
}

/** A button that is on or off. */
const toggle = (text, on, onclick, more = {}) => button(text, onclick, { "aria-pressed": String(on), ...more });

const CONTROLS = {
  group: (view) => (view.groups.length < 2 ? null : el("div", { class: "chips", role: "group", "aria-label": "attention" },
    ...view.groups.map(({ name }) => toggle(visible(name), name === now.group, () => select({ group: name, query: null, key: null }), { "data-control": `group ${name}` })))),
  layer: (view) => chooser("layer", "layer", selectedGroup().layers.map((number, layer) => [layer, number]), now.layer, (layer) => select({ layer: Number(layer) })),
  head: (view) => chooser("head", "head", selectedGroup().heads.map((number, head) => [head, number]), now.head, (head) => select({ head: Number(head) })),
  pair: (view) => (hasPair(selectedGroup()) ? chooser("pair", "pairs", PAIRS, now.pair, (pair) => select({ pair })) : null),
  tokens: () => toggle("raw tokens", now.raw, () => select({ raw: !now.raw }), { "data-control": "tokens" }),
  heads(view) {
    const group = selectedGroup();
    const on = now.heads ?? group.heads.map((_, head) => head);
    const change = (head) => {
      const next = on.includes(head) ? on.filter((one) => one !== head) : [...on, head].sort((a, b) => a - b);
      select({ heads: next.length === group.heads.length || !next.length ? null : next, head: next.includes(head) ? head : (next[0] ?? now.head) });
    };
    const chips = group.heads.map((number, head) => toggle(String(number), on.includes(head), () => change(head), {
      "data-control": `head ${head}`, tabindex: head === now.head ? 0 : -1, "aria-label": `head ${number}`, class: head === now.head && "selected" }));
    return el("div", { class: "chips", role: "toolbar", "aria-label": "heads that are on", onkeydown: roving }, el("span", { "aria-hidden": "true" }, "heads"), ...chips,
      button("all", () => select({ heads: null }), { "data-control": "all heads", tabindex: -1 }),
      button("only one", () => select({ heads: [now.head] }), { "data-control": "one head", tabindex: -1 }));
  },
};

/** Arrow keys move the focus among the buttons of a row, of which one is in the order of Tab. */
function roving(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
  buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
  next.focus();
  if (next.role === "tab") next.click();
  event.preventDefault();
}

// Keys

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function pictureKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const view = currentView();
  if (ARROWS[event.key] && view.arrows) view.arrows(...ARROWS[event.key]);
  else if (view.groups && (event.key === "PageUp" || event.key === "PageDown")) select({ layer: now.layer + (event.key === "PageUp" ? -1 : 1) });
  else if (event.key === "Enter" && view.enter) view.enter();
  else if (event.key === "Escape") select({ query: null, key: null });
  else if (view.letters?.[event.key]) view.letters[event.key]();
  else return;
  [...part.picture.querySelectorAll(`[stroke="${ink.mark}"]`)].at(-1)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  event.preventDefault();
}

function showKeys() {
  const lines = VIEWS.filter((view) => view.keys).map((view) => [view.label, view.keys]);
  lines.unshift(["everywhere", "Tab goes on, ← → between the tabs, ? shows this list"]);
  part.keys.replaceChildren(el("h2", {}, "Keys"), el("dl", {}, ...lines.flatMap(([name, keys]) => [el("dt", {}, name), el("dd", {}, keys)])),
    button("close", () => part.keys.close(), { autofocus: true }));
  part.keys.showModal();
}

// Themes

function setTheme(theme) {
  themeChosen = true;
  applyTheme(theme);
}

function applyTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readInk();
  if (drawing) draw();
}

const systemTheme = matchMedia("(prefers-color-scheme: dark)");
const preferred = () => (systemTheme.matches ? "dark" : "light");

// The page

function build() {
  part.tabs = el("div", { role: "tablist", "aria-label": "views", onkeydown: roving },
    ...VIEWS.map((view) => button(view.label, () => select({ view: view.id }), { role: "tab", id: `tab-${view.id}`, "aria-controls": "panel" })));
  part.controls = el("div", { class: "controls" });
  part.picture = el("div", { class: "picture", tabindex: 0, role: "application", "aria-describedby": "said", onkeydown: pictureKey, onpointerleave: () => say(currentView().sentence(), true) });
  part.said = el("p", { class: "said", id: "said" });
  part.live = el("p", { class: "unseen", "aria-live": "polite" });
  part.note = el("p", { class: "quiet" });
  part.tableButton = toggle("table", false, () => {
    part.tableButton.setAttribute("aria-pressed", String(part.table.hidden));
    showTable();
  }, { class: "of-picture" });
  part.bar = el("div", { class: "controls" }, part.tableButton, button("SVG", () => saveSvg(drawing), { class: "of-picture", "aria-label": "save the picture as SVG" }),
    button("PNG", () => savePng(drawing), { class: "of-picture", "aria-label": "save the picture as PNG" }),
    button("CSV", () => saveCsv(currentView().table()), { "aria-label": "save the table as CSV" }));
  part.before = el("div", { onkeydown: pictureKey });
  part.after = el("div");
  part.table = el("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": "table", hidden: true });
  part.panel = el("div", { role: "tabpanel", id: "panel", class: "panel" }, part.controls, part.before, part.picture, part.said, part.after, part.note, part.bar, part.table, part.live);
  part.keys = el("dialog", { "aria-label": "Keys" });
  const theme = button("light or dark", () => { setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); keepAddress(); });
  document.body.append(
    el("header", {}, el("div", { class: "titles" }, el("h1", { dir: "auto" }, visible(HEADER.title))),
      el("div", { class: "controls" }, theme, button("?", showKeys, { "aria-label": "keys" }))),
    el("main", {}, part.tabs, part.panel), el("footer", {}, ...HEADER.notes.map((note) => el("p", { class: "quiet" }, visible(note)))), part.keys);
}

function start() {
  applyTheme(preferred());
  const tab = HEADER.tabs.find(({ kind }) => kind === "attention");
  if (tab) {
    now.layer = Math.max(0, tab.groups[0].layers.indexOf(tab.layer));
    now.heads = tab.heads && tab.heads.map((number) => tab.groups[0].heads.indexOf(number)).filter((head) => head >= 0);
    now.head = now.heads?.[0] ?? 0;
  }
  build();
  readAddress(HEADER.start);
  if (location.hash) readAddress(location.hash);
  show();
  requestAnimationFrame(() => setTimeout(() => performance.mark("first-picture")));
}

addEventListener("hashchange", () => {
  readAddress(location.hash);
  show();
});
addEventListener("keydown", (event) => {
  if (event.key === "?" && !/INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) showKeys();
});
systemTheme.addEventListener("change", () => { if (!themeChosen) applyTheme(preferred()); });
let theme = "";
addEventListener("beforeprint", () => { theme = document.documentElement.dataset.theme; applyTheme("light"); });
addEventListener("afterprint", () => applyTheme(theme));
new ResizeObserver(() => {
  if (innerWidth !== width) requestAnimationFrame(draw);
}).observe(document.documentElement);

start();
