// The picture as a file, and the numbers as a table.

const MOST_ROWS = 500;
const MOST_COLUMNS = 80;

/** Hands a file to the reader. */
function download(name, url) {
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

const dataUrl = (kind, text) => `data:${kind};charset=utf-8,${encodeURIComponent(text)}`;

/** The picture by itself: on paper of its own colour, with a margin. */
function alone(drawing) {
  const copy = drawing.cloneNode(true);
  const [width, height] = [Number(drawing.getAttribute("width")) + 32, Number(drawing.getAttribute("height")) + 32];
  sized(copy, -16, width, height);
  copy.prepend(svg("rect", { x: -16, y: -16, width, height, fill: ink.paper }));
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}

const fileName = () => [now.view, ...(currentView().groups ? [now.group, headName(selectedGroup()).replace(", ", "-").replaceAll(" ", "")] : [])].join("-").replace(/[^\w-]+/g, "_");

function saveSvg(drawing) {
  download(`${fileName()}.svg`, dataUrl("image/svg+xml", alone(drawing).text));
}

/** As pixels, twice as fine as on the screen where a canvas can be that large. */
async function savePng(drawing) {
  const { text, width, height } = alone(drawing);
  const fine = Math.min(2, 8000 / Math.max(width, height));
  const image = new Image();
  image.src = dataUrl("image/svg+xml", text);
  await image.decode();
  const canvas = el("canvas", { width: Math.round(width * fine), height: Math.round(height * fine) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  download(`${fileName()}.png`, canvas.toDataURL("image/png"));
}

/** A cell of a CSV file. A text that a spreadsheet would take for a formula gets an apostrophe. */
function csvCell(cell) {
  const text = typeof cell === "string" && /^[=+\-@\t\r]./.test(cell) ? `'${cell}` : String(cell ?? "");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function saveCsv({ columns, rows }) {
  const lines = [columns, ...rows].map((row) => row.map(csvCell).join());
  download(`${fileName()}.csv`, dataUrl("text/csv", `${lines.join("\r\n")}\r\n`));
}

/** The numbers of a picture as an HTML table, as far as a page can hold them. */
function tableOf({ caption, columns, rows }) {
  const cut = rows.length > MOST_ROWS || columns.length > MOST_COLUMNS;
  const said = cut ? `${caption} (at most ${MOST_ROWS} rows and ${MOST_COLUMNS} columns; the CSV file has all ${rows.length} × ${columns.length})` : caption;
  const body = rows.slice(0, MOST_ROWS).map((row) => el("tr", {}, ...row.slice(0, MOST_COLUMNS).map((cell, at) => (
    at || tableText(cell) === "" ? el("td", { class: typeof cell === "number" && "number" }, tableText(cell)) : el("th", { scope: "row" }, tableText(cell))))));
  const head = columns.slice(0, MOST_COLUMNS).map((name) => el("th", { scope: "col" }, name));
  return el("table", {}, el("caption", {}, said), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
}

function tableText(cell) {
  if (typeof cell !== "number") return String(cell ?? "");
  return Number.isInteger(cell) ? cell.toLocaleString("en") : decimals(cell, 4);
}
