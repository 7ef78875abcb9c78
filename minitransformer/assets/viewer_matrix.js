// A matrix as a picture: coloured cells with numbers where they fit, labels at two sides, and a frame on one cell.

const BOLD = 1.25; // how much wider bold letters are, at most
const ONE_BY_ONE = 64; // more rows or columns than that are drawn as one image

/**
 * `rows` and `columns` are the labels; `text(row, column)` the words in a cell; `cell` a cell's size, where it does not
 * follow from the `room`; `pick(row, column, clicked)` is called for the cell under the pointer.
 */
function matrix({ values, rows, columns, title, scale, text, cell, room, pick }) {
  const left = widest(rows, 150) + 10;
  const size = cell ?? cellSize(values, room - left - 40);
  const labels = columnLabels(columns, size.width);
  const top = labels.height + (title ? 28 : 0);
  const [width, height] = [values.columns * size.width, values.rows * size.height];
  const cells = shifted(left, top);
  const dense = !cell && Math.max(values.rows, values.columns) > ONE_BY_ONE;
  if (dense) cells.append(squares(values.rows, values.columns, (row, column) => scale.colour(values.at(row, column)), { width, height }));
  else drawCells(cells, values, scale, size, text);
  const frame = outline({ stroke: ink.mark, "stroke-width": 3 });
  cells.append(outline({ width, height }), ...labels.nodes, ...rowLabels(rows, size.height), frame);
  if (pick) listen(cells, values, size, pick);
  const whole = left + Math.max(width + labels.beyond, scale.top ? 180 : 0) + 4;
  const head = title && words(left, 16, fitted(title, (Math.max(room, whole) - left) / BOLD, 16), { "font-size": 16, "font-weight": 600 });
  return {
    node: svg("g", {}, head, cells, scale.top > 0 && shifted(left, top + height + 14, ...legend(scale))),
    cells, frame, size,
    width: Math.max(whole, head ? left + Math.min(room - left, widthOf(title, 16) * BOLD) : 0),
    height: top + height + (scale.top ? 40 : 4),
    mark: (row, column) => dress(frame, {
      x: (column ?? 0) * size.width, y: (row ?? 0) * size.height,
      width: column === null ? width : size.width, height: row === null ? height : size.height,
      visibility: row === null && column === null ? "hidden" : "visible",
    }),
  };
}

/** How large a cell is where all have to fit into the room; few rows stay high enough to be seen. */
function cellSize(values, room) {
  const most = Math.max(values.rows, values.columns);
  const least = most > 200 ? 2 : most > ONE_BY_ONE ? 4 : 14;
  const width = Math.floor(Math.max(least, Math.min(56, room / values.columns)));
  return { width, height: Math.min(34, Math.max(width, Math.min(24, Math.floor(360 / values.rows)))) };
}

function drawCells(cells, values, scale, size, text) {
  const letters = size.width < 44 ? 12 : 14;
  for (let row = 0; row < values.rows; row++) {
    for (let column = 0; column < values.columns; column++) {
      const colour = scale.colour(values.at(row, column));
      const [x, y] = [column * size.width, row * size.height];
      cells.append(svg("rect", { x, y, width: size.width + 0.3, height: size.height + 0.3, fill: css(colour) }));
      if (!text || size.width < 33) continue;
      const said = text(row, column);
      const small = widthOf(said, letters) > size.width - 2 ? letters - 2 : letters; // where there is a minus besides
      const place = { "font-size": small, "text-anchor": "middle", fill: readableOn(colour) };
      cells.append(words(x + size.width / 2, y + size.height / 2 + small * 0.36, fitted(said, size.width - 2, small), place));
    }
  }
}

/** The labels of the columns: level where they fit, else slanted, or upright where there is little room. */
function columnLabels(labels, width) {
  const size = width < 15 ? 11 : 14;
  const every = Math.ceil(size / width);
  const longest = widest(labels, 130, size);
  const level = longest <= width - 4;
  const slanted = !level && width > 18;
  const shown = labels.map((label) => fitted(label, 130, size));
  const nodes = shown.map((label, column) => {
    if (column % every) return null;
    const x = (column + 0.5) * width + (level ? 0 : 4);
    return words(x, -6, label, { "font-size": size, ...(level ? { "text-anchor": "middle" } : { transform: `rotate(${slanted ? -55 : -90} ${Math.round(x)} -6)` }) });
  });
  const beyond = slanted ? Math.max(0, 0.6 * widthOf(shown.at(-1), size) - width / 2 + 12) : 0;
  return { nodes: nodes.filter(Boolean), beyond, height: level ? 22 : longest * (slanted ? 0.82 : 1) + 16 };
}

function rowLabels(labels, height) {
  const size = Math.min(14, Math.max(11, height));
  const every = Math.ceil(size / height);
  const place = { "font-size": size, "text-anchor": "end" };
  return labels.map((label, row) => (row % every ? null : words(-8, (row + 0.5) * height + size * 0.36, fitted(label, 150, size), place))).filter(Boolean);
}

/** The scale's colours, from end to end, with the numbers they stand for. */
function legend(scale) {
  const from = scale.signed ? -scale.top : 0;
  const x = widthOf(digits(from), 13) + 6;
  const quiet = { "font-size": 13, fill: ink.quiet };
  const colours = squares(1, 64, (_, at) => scale.colour(from + (scale.top - from) * (at / 63)), { x, width: 100, height: 14 });
  return [words(0, 12, digits(from), quiet), colours, outline({ x, width: 100, height: 14 }), words(x + 106, 12, digits(scale.top), quiet)];
}

function listen(cells, values, size, pick) {
  const look = (event) => {
    const [x, y] = pointer(event, cells);
    const [row, column] = [Math.floor(y / size.height), Math.floor(x / size.width)];
    if (row >= 0 && column >= 0 && row < values.rows && column < values.columns) pick(row, column, event.type === "click");
  };
  dress(cells, { onpointermove: look, onclick: look });
}
