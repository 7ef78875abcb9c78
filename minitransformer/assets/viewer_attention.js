// Attention weights, three ways: lines from queries to keys, thumbnails of all heads, the matrix of one head.

const MOST_LINES = 1500; // as long as no token is looked at
const LEAST_WEIGHT = 0.01; // of a line from or to the token looked at
const PAIRS = [["all", "All"], ["aa", "Sentence A -> Sentence A"], ["ab", "Sentence A -> Sentence B"], ["ba", "Sentence B -> Sentence A"], ["bb", "Sentence B -> Sentence B"]];

const hasPair = (group) => group.query_second !== null && group.key_second !== null;
const headName = (group) => `layer ${group.layers[now.layer]}, head ${group.heads[now.head]}`;
const headsOn = (group) => now.heads ?? [...group.heads.keys()];

/** The queries and keys that the filter of sentence pairs lets through, where the view has one, [from, to), with their tokens. */
function shownRange(group) {
  const filtered = hasPair(group) && now.pair !== "all" && currentView().controls.includes("pair");
  const side = (tokens, second, letter) => {
    const [from, to] = !filtered ? [0, tokens.length] : letter === "a" ? [0, second] : [second, tokens.length];
    const all = shownTokens(tokens, now.raw);
    return { from, to, tokens: all, shown: all.slice(from, to) };
  };
  return { q: side(group.queries, group.query_second, now.pair[0]), k: side(group.keys, group.key_second, now.pair[1]) };
}

/** What a head says about the queries and keys shown, as a grid. */
function shownWeights(group, layer, head) {
  const { q, k } = shownRange(group);
  const all = headWeights(group, layer, head);
  if (q.shown.length === all.rows && k.shown.length === all.columns) return all;
  const some = new Float32Array(q.shown.length * k.shown.length);
  for (let row = 0; row < q.shown.length; row++) {
    const from = (q.from + row) * all.columns;
    some.set(all.values.subarray(from + k.from, from + k.to), row * k.shown.length);
  }
  return grid(some, q.shown.length, k.shown.length);
}

/** The key that a query attends to most, among those from `first` on, before `end`. */
function strongest(weights, query, first = 0, end = weights.columns) {
  let best = first;
  for (let key = first; key < end; key++) if (weights.at(query, key) > weights.at(query, best)) best = key;
  return best;
}

/** What is looked at, as a sentence: layer 3, head 7: “sat” attends 0.61 to “cat”. */
function attentionSentence(group, query = now.query, key = now.key) {
  const { q, k } = shownRange(group);
  if (query === null && key !== null) return `${headName(group)}: the tokens that attend to ${quoted(k.tokens[key])}.`;
  if (query === null) return `${headName(group)}: choose a token to see what it attends to.`;
  const weights = headWeights(group, now.layer, now.head);
  const most = key ?? strongest(weights, query, k.from, k.to);
  const weight = weights.at(query, most);
  const size = group.largest && !weight ? "too little to be shown" : decimals(weight, placesOf(group));
  const said = `${quoted(q.tokens[query])} attends ${size} to ${quoted(k.tokens[most])}`;
  return `${headName(group)}: ${said}${key === null ? ", most of all" : ""}.`;
}

/** A grid as a table. */
function gridTable(caption, corner, rows, columns, at) {
  return { caption, columns: [corner, ...columns], rows: rows.map((name, row) => [name, ...columns.map((_, column) => at(row, column))]) };
}

function attentionTable(group) {
  const { q, k } = shownRange(group);
  const weights = shownWeights(group, now.layer, now.head);
  const at = (row, column) => Number(weights.at(row, column).toFixed(placesOf(group)));
  return gridTable(`${headName(group)}: weights from queries (rows) to keys (columns)`, "query", q.shown, k.shown, at);
}

// Heads

function headsView(id, label, groups) {
  let layout = null;
  let hover = null;
  const selected = () => ({ query: now.query, key: now.query === null ? now.key : null });
  const view = {
    id, label, groups,
    controls: ["group", "layer", "pair", "tokens", "heads"],
    redrawnBy: ["group", "layer", "head", "heads", "pair", "raw"],
    keys: "↑ ↓ token, ← → head, k keys or queries, Page Up and Page Down layer, Escape no token",
    draw(room) {
      layout = headsLayout(selectedGroup(), room);
      hover = null;
      layout.lines = svg("g");
      layout.marks = svg("g");
      const node = svg("g", {}, svg("rect", { width: layout.width, height: layout.height, fill: ink.paper }), layout.lines, ...headsTokens(layout), layout.marks);
      dress(node, {
        onpointermove: (event) => look(tokenAt(layout, pointer(event, node))),
        onpointerleave: () => look(null),
        onclick: (event) => select(tokenAt(layout, pointer(event, node)) ?? {}),
      });
      return picture(room, { node, width: layout.width, height: layout.height });
    },
    move: () => drawLines(selectedGroup(), layout, hover ?? selected()),
    arrows(down, right) {
      const head = clamp(now.head + right, selectedGroup().heads.length);
      if (right) return select({ head, heads: now.heads?.length === 1 ? [head] : now.heads });
      const side = selected().key === null ? "query" : "key";
      const { from, to } = layout[side];
      const at = now[side] === null ? (down > 0 ? from : to - 1) : now[side] + down;
      return select({ query: null, key: null, [side]: Math.max(from, Math.min(to - 1, at)) });
    },
    letters: { k: () => select(now.query === null ? { query: now.key ?? layout.query.from, key: null } : { query: null, key: now.query }) },
    sentence: () => attentionSentence(selectedGroup(), now.query, selected().key),
    note: () => headsNote(selectedGroup(), layout),
    table: () => attentionTable(selectedGroup()),
  };

  function look(token) {
    if (token?.query === hover?.query && token?.key === hover?.key) return;
    hover = token;
    view.move();
    say(token ? attentionSentence(selectedGroup(), token.query, token.key) : view.sentence(), true);
  }
  return view;
}

/** Where everything stands: the ends of the lines, the height of a line, the tokens. */
function headsLayout(group, room) {
  const { q, k } = shownRange(group);
  const rows = Math.max(q.shown.length, k.shown.length);
  const width = Math.min(room, 1000);
  const side = Math.min(180, width * 0.3);
  const [line, top] = [rows > 100 ? 22 : 28, 32];
  const beyond = widest(k.shown, side, 16) + 12 + (width > 600 ? 210 : 52);
  return { query: q, key: k, side, line, top, width, from: Math.max(60, widest(q.shown, side, 16) + 14), to: width - Math.min(beyond, width * 0.55), height: top + rows * line + 4 };
}

function headsTokens(layout) {
  return [["query", layout.from - 8, "end"], ["key", layout.to + 8, "start"]].flatMap(([side, x, anchor]) => [
    words(x, 18, side, { fill: ink.quiet, "text-anchor": anchor }),
    ...layout[side].shown.map((token, row) => words(x, layout.top + (row + 0.5) * layout.line + 5, fitted(token, layout.side, 16), { "font-size": 16, "text-anchor": anchor })),
  ]);
}

/** The token under the pointer, as a selection. */
function tokenAt(layout, [x, y]) {
  const side = x < layout.from + 12 ? "query" : x > layout.to - 12 ? "key" : null;
  const row = Math.floor((y - layout.top) / layout.line);
  if (!side || row < 0 || row >= layout[side].shown.length) return null;
  return { query: null, key: null, [side]: layout[side].from + row };
}

/** The lines of all heads that are on, the selected head's in colour and above, and what is said beside the keys. */
function drawLines(group, layout, { query, key }) {
  const on = headsOn(group);
  layout.least = query === null && key === null ? leastOfMany(group, layout, on) : LEAST_WEIGHT;
  const ends = (side, only) => (only === null ? [side.from, side.to] : [only, only + 1]);
  const [[q0, q1], [k0, k1]] = [ends(layout.query, query), ends(layout.key, key)];
  const lines = [];
  for (const head of [...on.filter((one) => one !== now.head), ...on.filter((one) => one === now.head)]) {
    const weights = headWeights(group, now.layer, head);
    const stroke = head === now.head || on.length === 1 ? ink.accent : ink.neutral;
    for (let q = q0; q < q1; q++) {
      for (let k = k0; k < k1; k++) {
        const weight = weights.at(q, k);
        if (weight < layout.least || weight === 0) continue;
        const [y1, y2] = [q - layout.query.from, k - layout.key.from].map((row) => layout.top + (row + 0.5) * layout.line);
        lines.push(svg("line", { x1: layout.from, y1, x2: layout.to, y2, stroke, "stroke-width": 0.6 + 3 * weight, "stroke-opacity": 0.1 + 0.9 * weight }));
      }
    }
  }
  layout.lines.replaceChildren(...lines);
  layout.none = !lines.length;
  layout.marks.replaceChildren(...headMarks(group, layout, on, query, key));
}

/** The weight from which lines are drawn while no token is looked at: MOST_LINES of them. */
function leastOfMany(group, layout, on) {
  const counts = new Uint32Array(1001);
  for (const head of on) for (const weight of shownWeights(group, now.layer, head).values) counts[Math.floor(weight * 1000)]++;
  let [level, sum] = [1000, counts[1000]];
  while (level > 1 && sum + counts[level - 1] <= MOST_LINES) sum += counts[--level];
  return level / 1000;
}

/** A frame around the token looked at; beside each key the heads that attend most to it: "7: 0.61 · 3: 0.40". */
function headMarks(group, layout, on, query, key) {
  if (query === null && key === null) return [];
  const end = (row) => layout.to + 14 + widthOf(fitted(layout.key.shown[row], layout.side, 16), 16);
  const row = query === null ? key - layout.key.from : query - layout.query.from;
  const [x, width] = query === null ? [layout.to + 2, end(row) - layout.to] : [1, layout.from - 2];
  const marks = [outline({ x, width, y: layout.top + row * layout.line + 1, height: layout.line - 2, rx: 5, stroke: ink.mark, "stroke-width": 2 })];
  if (query === null) return marks;
  const most = layout.width > 600 ? 3 : 1;
  layout.key.shown.forEach((_, at) => {
    const said = on.map((head) => [headWeights(group, now.layer, head).at(query, layout.key.from + at), group.heads[head]])
      .filter(([weight]) => weight >= 0.05).sort(([one], [other]) => other - one);
    const text = said.slice(0, most).map(([weight, head]) => (on.length > 1 ? `${head}: ${decimals(weight)}` : decimals(weight))).join(" · ");
    if (text) marks.push(words(end(at) + 4, layout.top + (at + 0.5) * layout.line + 5, text + (said.length > most ? " …" : ""), { "font-size": 13, fill: ink.quiet }));
  });
  return marks;
}

function headsNote(group, layout) {
  const beside = headsOn(group).length > 1 ? "The selected head is in colour, the others are grey; beside a key, the heads that attend to it most. " : "";
  const least = layout.none ? "No weight stands out: choose a token. " : layout.least > 0.001 ? `Only lines from ${digits(layout.least)} up are drawn. ` : "";
  return `The thicker a line, the larger the weight. ${beside}${least}${precision(group)}`;
}

// Model

function modelView(id, label, groups) {
  let drawn = null;
  let job = 0;
  const openHead = () => select({ view: id.replace("model", "heads"), heads: [now.head] });
  const view = {
    id, label, groups,
    controls: ["group", "pair"],
    redrawnBy: ["group", "pair"],
    keys: "↑ ↓ layer, ← → head, Enter opens the head",
    draw(room) {
      const group = selectedGroup();
      const [L, H] = [group.layers.length, group.heads.length];
      const side = Math.floor(Math.max(20, Math.min(120, (room - 50) / H)));
      drawn = matrix({
        values: grid(new Float32Array(L * H), L, H), rows: group.layers.map(String), columns: group.heads.map(String), room,
        title: "Layers (rows) × heads (columns)", scale: { top: 0, colour: () => rgb(ink.line) }, cell: { width: side, height: side },
        pick(layer, head, click) { if (click) { select({ layer, head }); openHead(); } },
      });
      fill(group, ++job);
      return picture(room, drawn);
    },
    move: () => drawn.mark(now.layer, now.head),
    arrows: (down, right) => select({ layer: now.layer + down, head: now.head + right }),
    enter: openHead,
    sentence: () => `${headName(selectedGroup())}: the strongest key gets ${percent(focus(selectedGroup(), now.layer, now.head))} of a query's attention, on average.`,
    note: () => `Each square is a head: queries from top to bottom, keys from left to right; the shade grows with the square root of the weight. ${precision(selectedGroup())}`,
    table() {
      const group = selectedGroup();
      const at = (layer, head) => Number(focus(group, layer, head).toFixed(3));
      return gridTable("The largest weight of a query, on average, of each layer (rows) and head (columns)", "layer", group.layers, group.heads.map((head) => `head ${head}`), at);
    },
  };

  /** Draws the thumbnails, a few at a time, so that the page answers in between. */
  function fill(group, mine) {
    const todo = group.layers.flatMap((_, layer) => group.heads.map((__, head) => [layer, head]));
    const slice = () => {
      const end = performance.now() + 24;
      while (todo.length && mine === job && performance.now() < end) {
        const [layer, head] = todo.shift();
        const side = drawn.size.width - 2;
        const image = thumbnail(group, layer, head, side, { x: head * (side + 2) + 1, y: layer * (side + 2) + 1, width: side, height: side });
        drawn.cells.insertBefore(image, drawn.frame);
      }
      if (todo.length && mine === job) setTimeout(slice);
    };
    slice();
  }
  return view;
}

/** A head as a small image; of several weights that share a pixel, the largest counts. */
function thumbnail(group, layer, head, side, place) {
  const weights = shownWeights(group, layer, head);
  const [rows, columns] = [Math.min(weights.rows, side), Math.min(weights.columns, side)];
  const largest = new Float32Array(rows * columns);
  for (let q = 0, from = 0; q < weights.rows; q++) {
    const to = Math.floor((q * rows) / weights.rows) * columns;
    for (let k = 0; k < weights.columns; k++, from++) {
      const cell = to + Math.floor((k * columns) / weights.columns);
      largest[cell] = Math.max(largest[cell], weights.values[from]);
    }
  }
  return squares(rows, columns, (row, column) => onRamp(ink.plus, Math.sqrt(largest[row * columns + column])), place);
}

/** The mean, over the queries, of the largest weight. */
function focus(group, layer, head) {
  const weights = shownWeights(group, layer, head);
  let sum = 0;
  for (let query = 0; query < weights.rows; query++) sum += weights.at(query, strongest(weights, query));
  return sum / weights.rows;
}

// Matrix

function matrixView(id, label, groups) {
  let drawn = null;
  return {
    id, label, groups,
    controls: ["group", "layer", "head", "pair", "tokens"],
    redrawnBy: ["group", "layer", "head", "pair", "raw"],
    keys: "↑ ↓ query, ← → key, Page Up and Page Down layer, Escape no cell",
    draw(room) {
      const group = selectedGroup();
      const { q, k } = shownRange(group);
      const values = shownWeights(group, now.layer, now.head);
      drawn = matrix({
        values, rows: q.shown, columns: k.shown, room, title: `${headName(group)}: queries (rows) × keys (columns)`,
        scale: scaleOf(values.values, false), text: (row, column) => decimals(values.at(row, column)),
        pick(row, column, click) {
          const [query, key] = [q.from + row, k.from + column];
          if (click) select({ query, key });
          else say(attentionSentence(group, query, key), true);
        },
      });
      return picture(room, drawn);
    },
    move() {
      const { q, k } = shownRange(selectedGroup());
      const inside = (side, at) => (at === null || at < side.from || at >= side.to ? null : at - side.from);
      drawn.mark(inside(q, now.query), inside(k, now.key));
    },
    arrows(down, right) {
      const { q, k } = shownRange(selectedGroup());
      const step = (side, at, by) => Math.max(side.from, Math.min(side.to - 1, at === null ? side.from : at + by));
      select({ query: step(q, now.query, down), key: step(k, now.key, right) });
    },
    sentence: () => attentionSentence(selectedGroup()),
    note: () => precision(selectedGroup()),
    table: () => attentionTable(selectedGroup()),
  };
}
