// Predictions of each layer, two models beside each other, grids of scores, and tables.

/** What views with rows and columns of their own have in common: one cell that is looked at. */
function cellView(view, rows, columns) {
  const cell = () => [clamp(view.row?.() ?? now.row, rows), clamp(view.column?.() ?? now.column, columns)];
  return Object.assign(view, {
    cell,
    keys: view.keys ?? "← ↑ → ↓ cell",
    move: () => view.drawn.mark(...cell()),
    arrows: (down, right) => view.choose(clamp(cell()[0] + down, rows), clamp(cell()[1] + right, columns)),
    pick: (row, column, click) => (click ? view.choose(row, column) : say(view.sentence(row, column), true)),
    choose: view.choose ?? ((row, column) => select({ row, column })),
  });
}

// Layers: the logit lens. The output stands at the top, the embedding at the bottom. A column is a query of the stack.

function layersView(id, label, tab) {
  const [R, T, K] = tab.shape;
  const probability = (row, column, k = 0) => block(tab.block, Float32Array)[((R - 1 - row) * T + column) * K + k];
  let shown = []; // the tokens read, then those predicted: one rule for the marks of all
  const token = (row, column, k = 0) => shown[T + ((R - 1 - row) * T + column) * K + k];
  const stages = tab.stages.map(visible).reverse();
  const view = cellView({
    id, label, controls: ["tokens"], redrawnBy: ["raw"],
    column: () => (now.group === "encoder" ? null : now.query) ?? tab.place,
    choose: (row, query) => select({ row, query, group: now.group === "encoder" ? "decoder" : now.group }),
    draw(room) {
      shown = shownTokens([...tab.tokens, ...tab.top.flat(2)], now.raw, tab.tokens);
      const columns = shown.slice(0, T);
      const values = grid(Float32Array.from({ length: R * T }, (_, i) => probability(Math.floor(i / T), i % T)), R, T);
      view.drawn = matrix({
        values, rows: stages, columns, room, scale: scaleOf(values.values, false, 1), cell: { width: Math.max(70, Math.min(120, Math.floor((room - 160) / T))), height: 34 },
        text: (row, column) => token(row, column), pick: view.pick,
      });
      return picture(room, view.drawn);
    },
    after() {
      const [row, column] = view.cell();
      const bars = Array.from({ length: K }, (_, k) => el("li", {}, el("span", {}, token(row, column, k)),
        el("progress", { max: 1, value: probability(row, column, k), "aria-label": `probability of ${token(row, column, k)}` }),
        el("span", {}, percent(probability(row, column, k)))));
      return el("ol", { class: "bars" }, ...bars);
    },
    sentence(row = view.cell()[0], column = view.cell()[1]) {
      return `${stages[row]}, ${tab.where} ${quoted(shown[column])}: ${quoted(token(row, column))} with ${percent(probability(row, column))}.`;
    },
    note: () => "Each cell: the likeliest token, were the model to stop there; the shade is its probability.",
    table() {
      const rows = stages.flatMap((stage, row) => tab.tokens.flatMap((at, column) => Array.from({ length: K }, (_, k) => [
        stage, column, visible(at), k + 1, token(row, column, k), Number(probability(row, column, k).toPrecision(4))])));
      return { caption: "The likeliest tokens", columns: ["stage", "position", "token", "rank", "prediction", "probability"], rows };
    },
  }, R, T);
  return view;
}

// Grid: any scores with rows and columns.

function gridView(id, label, tab) {
  const values = numbers(tab);
  const heads = () => groupsOf()?.find((group) => group.name === tab.selects); // what its rows and columns are, if anything
  const mine = () => (tab.selects === now.group ? heads() : undefined);
  let alone = null; // a cell chosen here, whose head the other views do not have; no address keeps it
  const marked = [...tab.rows, ...tab.columns].some((name) => /^(Ġ|▁|##)./.test(name));
  let [rows, columns] = [[], []];
  const view = cellView({
    id, label, controls: marked ? ["tokens"] : [], redrawnBy: ["raw"],
    row: () => alone?.[0] ?? mine()?.layers[now.layer],
    column: () => alone?.[1] ?? mine()?.heads[now.head],
    choose(row, column) {
      const [layer, head] = [heads()?.layers.indexOf(row) ?? -1, heads()?.heads.indexOf(column) ?? -1];
      alone = layer < 0 || head < 0 ? [row, column] : null;
      select({ row, column, ...(alone ? {} : { group: tab.selects, layer, head, heads: [head] }) });
      refresh();
    },
    draw(room) {
      alone = null;
      [rows, columns] = [tab.rows, tab.columns].map((names) => shownTokens(names, now.raw));
      view.drawn = matrix({
        values, rows, columns, room, title: visible(`${tab.row_name} (rows) × ${tab.column_name} (columns)`), scale: scaleOf(values.values, tab.signed),
        text: (row, column) => decimals(values.at(row, column)), pick: view.pick,
      });
      return picture(room, view.drawn);
    },
    sentence(row = view.cell()[0], column = view.cell()[1]) {
      const value = Number.isNaN(values.at(row, column)) ? "nothing" : digits(values.at(row, column));
      return `${visible(tab.row_name)} ${rows[row]}, ${visible(tab.column_name)} ${columns[column]}: ${value}.`;
    },
    note: () => (!heads() ? "" : "The head chosen here is the one that the other views show."),
    table: () => gridTable(label, visible(tab.row_name), rows, columns, values.at),
  }, values.rows, values.columns);
  return view;
}

// Compare: two models on one text.

function compareView(id, label, tab) {
  const groups = tab.groups;
  let panels = null;
  const other = (group) => tab.others.find((one) => one.name === group.name);
  const view = {
    id, label, groups,
    controls: ["group", "layer", "head", "tokens"],
    redrawnBy: ["group", "layer", "head", "raw"],
    keys: "← ↑ → ↓ query and key, Page Up and Page Down layer",
    draw(room) {
      const group = selectedGroup();
      const [a, b] = [headWeights(group, now.layer, now.head), headWeights(other(group), now.layer, now.head)];
      const difference = grid(a.values.map((value, i) => b.values[i] - value), a.rows, a.columns);
      const divergence = numbers(tab.divergence[group.name]);
      const most = scaleOf([a, b].map(({ values }) => values.reduce((one, other) => Math.max(one, other), 0)), false);
      const { q, k } = shownRange(group);
      const wide = room > 900 && a.columns <= 40 ? (room - 48) / 3 : room;
      const panel = (values, heading, scale) => matrix({
        values, title: heading, scale, rows: q.tokens, columns: k.tokens, room: wide, text: (row, column) => decimals(values.at(row, column)),
        pick: (row, column, click) => click && select({ query: row, key: column }),
      });
      const map = matrix({
        values: divergence, title: "How far apart each head is: layers (rows) × heads (columns)", scale: scaleOf(divergence.values, false), room,
        rows: group.layers.map(String), columns: group.heads.map(String), text: (row, column) => decimals(divergence.at(row, column)),
        pick: (layer, head, click) => click && select({ layer, head }),
      });
      map.mark(now.layer, now.head);
      panels = [panel(a, `A: ${visible(tab.names[0])}`, most), panel(b, `B: ${visible(tab.names[1])}`, most), panel(difference, "B − A", scaleOf(difference.values, true))];
      return picture(room, { ...map, width: Math.max(map.width, room) }, ...panels);
    },
    move: () => panels.forEach((panel) => panel.mark(now.query, now.key)),
    arrows(down, right) {
      const group = selectedGroup();
      select({ query: clamp((now.query ?? 0) + down, group.queries.length), key: clamp((now.key ?? 0) + right, group.keys.length) });
    },
    sentence() {
      const group = selectedGroup();
      const apart = `${headName(group)}: divergence ${digits(numbers(tab.divergence[group.name]).at(now.layer, now.head))}.`;
      if (now.query === null || now.key === null) return apart;
      const [a, b] = [group, other(group)].map((one) => headWeights(one, now.layer, now.head).at(now.query, now.key));
      const { q, k } = shownRange(group);
      return `${apart} ${quoted(q.tokens[now.query])} attends to ${quoted(k.tokens[now.key])}: ${decimals(a, 3)} in A, ${decimals(b, 3)} in B, ${b < a ? "" : "+"}${decimals(b - a, 3)}.`;
    },
    note: () => precision(selectedGroup()),
    table() {
      const group = selectedGroup();
      const { q, k } = shownRange(group);
      const [a, b] = [group, other(group)].map((one) => headWeights(one, now.layer, now.head));
      const rows = q.tokens.flatMap((query, i) => k.tokens.map((key, j) => [query, key, ...[a.at(i, j), b.at(i, j), b.at(i, j) - a.at(i, j)].map((x) => Number(x.toFixed(4)))]));
      return { caption: `${headName(group)}: weights`, columns: ["query", "key", "A", "B", "B − A"], rows };
    },
  };
  return view;
}

// Table: the twin is all there is.

function tableView(id, label, tab) {
  return {
    id, label, tableOnly: true, controls: [], redrawnBy: [], draw: () => null, sentence: () => "", note: () => "",
    table: () => ({ caption: label, columns: tab.columns.map((name) => visible(String(name))), rows: tab.rows.map((row) => row.map((cell) => (typeof cell === "string" && cell ? visible(cell) : cell))) }),
  };
}
