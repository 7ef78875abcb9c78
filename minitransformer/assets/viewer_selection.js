// What is selected, the same in every view, and kept in the page's address: #view=heads&group=cross&layer=3&head=7
// In here layers and heads are places (0, 1, ...); the address has their numbers, as they are shown.

const now = {
  view: "", group: "", layer: 0, head: 0,
  query: null, key: null,     // places of tokens; null: none
  heads: null,                // the heads switched on; null: all
  pair: "all",                // which sentences of a pair: all, aa, ab, ba, bb
  raw: false,                 // tokens with the marks of their tokenizer
  row: 0, column: 0, step: 0, // in pictures with rows and columns of their own
};

const currentView = () => VIEWS.find((view) => view.id === now.view);
const groupsOf = () => currentView().groups ?? VIEWS.find((view) => view.groups)?.groups;
const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));

/** The selected group of attention, or the first; undefined on a page without attention. */
const selectedGroup = () => groupsOf()?.find((group) => group.name === now.group) ?? groupsOf()?.[0];

/** Takes over what an address says; what makes no sense there counts as absent. */
function readAddress(text) {
  const said = new URLSearchParams(text.replace(/^#/, ""));
  const oneOf = (name, list) => (list.includes(said.get(name)) ? said.get(name) : null);
  const whole = (name, absent) => (/^\d{1,6}$/.test(said.get(name) ?? "") ? Number(said.get(name)) : absent);
  now.view = oneOf("view", VIEWS.map((view) => view.id)) ?? (now.view || VIEWS[0].id);
  now.group = said.get("group") ?? now.group;
  now.pair = oneOf("pair", PAIRS.map(([name]) => name)) ?? "all";
  now.raw = said.get("tokens") === "raw";
  for (const name of ["row", "column", "step"]) now[name] = whole(name, 0);
  for (const name of ["query", "key"]) now[name] = whole(name, null);
  const group = selectedGroup();
  if (group) {
    const placeIn = (list, number, absent) => (list.includes(number) ? list.indexOf(number) : absent);
    now.layer = placeIn(group.layers, whole("layer"), now.layer);
    now.head = placeIn(group.heads, whole("head"), now.head);
    if (said.has("heads")) now.heads = said.get("heads").split(",").map((number) => placeIn(group.heads, Number(number), -1));
  }
  if (oneOf("theme", ["light", "dark"])) setTheme(said.get("theme"));
  keepInside();
}

/** The selection as an address. */
function address() {
  const said = new URLSearchParams({ view: now.view });
  const group = selectedGroup();
  if (group) {
    if (groupsOf().length > 1) said.set("group", group.name);
    said.set("layer", group.layers[now.layer]);
    said.set("head", group.heads[now.head]);
    said.set("heads", now.heads?.map((head) => group.heads[head]) ?? "all");
  }
  for (const name of ["query", "key"]) if (now[name] !== null) said.set(name, now[name]);
  for (const name of ["row", "column", "step"]) if (now[name]) said.set(name, now[name]);
  if (now.pair !== "all") said.set("pair", now.pair);
  if (now.raw) said.set("tokens", "raw");
  if (themeChosen) said.set("theme", document.documentElement.dataset.theme);
  return `#${said.toString().replaceAll("%2C", ",")}`;
}

let waiting;

/** Writes the address a moment later: browsers refuse hundreds of changes a second. */
function keepAddress() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    try {
      history.replaceState(null, "", address());
    } catch {
      // A frame without an address of its own: the selection is kept here all the same.
    }
  }, 120);
}

/** Keeps every place inside what there is. */
function keepInside() {
  const group = selectedGroup();
  if (!group) return;
  now.group = group.name;
  now.layer = clamp(now.layer, group.layers.length);
  now.head = clamp(now.head, group.heads.length);
  const { q, k } = shownRange(group);
  const inside = (place, side, size) => {
    const kept = place === null ? null : clamp(place, size);
    return kept < side.from || kept >= side.to ? null : kept;
  };
  now.query = inside(now.query, q, group.queries.length);
  now.key = inside(now.key, k, group.keys.length);
  now.heads = now.heads?.filter((head) => group.heads[head] !== undefined) ?? null;
  if (!now.heads?.length) now.heads = null;
}
