// How pictures are drawn: elements, colours, text that fits. A picture is one SVG: what is seen is what is saved.

const SVG = "http://www.w3.org/2000/svg";
const FONT = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif';

/** An HTML element: el("a", {href}, "text"). Children that are text stay text. */
const el = (tag, attributes = {}, ...children) => dress(document.createElement(tag), attributes, children);

const button = (text, onclick, more = {}) => el("button", { type: "button", onclick, ...more }, text);

/** An SVG element. */
const svg = (tag, attributes = {}, ...children) => dress(document.createElementNS(SVG, tag), attributes, children);

function dress(node, attributes, children = []) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, typeof value === "number" ? Math.round(value * 100) / 100 : value);
  }
  node.append(...children.filter((child) => child || child === 0));
  return node;
}

/** Text in a picture. */
const words = (x, y, text, attributes = {}) => svg("text", { x, y, fill: ink.text, "font-size": 14, ...attributes }, text);

/** A frame without filling. */
const outline = (attributes) => svg("rect", { fill: "none", stroke: ink.line, ...attributes });

const shifted = (x, y, ...children) => svg("g", { transform: `translate(${Math.round(x)} ${Math.round(y)})` }, ...children);

// Colours. They are written into the picture as they are, so that a saved picture keeps them.

let ink = {};

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const css = (colour) => `rgb(${colour})`;

/** Reads the theme's colours from the style sheet. */
function readInk() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(`--${name}`).trim();
  ink = Object.fromEntries(["paper", "text", "quiet", "line", "accent", "neutral", "mark"].map((name) => [name, get(name)]));
  ink.plus = ["paper", "plus-1", "plus-2"].map((name) => rgb(get(name)));
  ink.minus = ["paper", "minus-1", "minus-2"].map((name) => rgb(get(name)));
}

/** The colour at a place from 0 to 1 on a ramp of three colours. */
function onRamp(ramp, share) {
  const at = 2 * Math.max(0, Math.min(1, share));
  const from = at < 1 ? 0 : 1;
  return ramp[from].map((value, i) => Math.round(value + (ramp[from + 1][i] - value) * (at - from)));
}

/** What turns values into colours: from 0 to the largest, or both ways from 0. nan and ∞ have none. */
function scaleOf(values, signed, largest = 0) {
  let top = largest;
  if (!top) for (const value of values) if (Number.isFinite(value)) top = Math.max(top, Math.abs(value));
  const colour = (value) => (Number.isFinite(value) && top ? onRamp(signed && value < 0 ? ink.minus : ink.plus, Math.abs(value) / top) : rgb(ink.paper));
  return { top, signed, colour };
}

/** Black or white, whichever can be read on a colour. */
function readableOn(colour) {
  const [r, g, b] = colour.map((value) => (value / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000000" : "#ffffff";
}

// Text that fits.

const pen = el("canvas").getContext("2d");
const widths = new Map();

/** How wide a text is, in pixels. */
function widthOf(text, size = 14) {
  const key = `${size} ${text}`;
  if (!widths.has(key)) {
    pen.font = `${size}px ${FONT}`;
    widths.set(key, pen.measureText(text).width);
  }
  return widths.get(key);
}

/** The text, cut with … where it is wider than so many pixels. */
function fitted(text, width, size = 14) {
  const chars = Array.from(text.slice(0, 99));
  if (chars.join("") === text && widthOf(text, size) <= width) return text;
  while (chars.length > 1 && widthOf(`${chars.join("")}…`, size) > width) chars.pop();
  return `${chars.join("")}…`;
}

const widest = (texts, limit, size = 14) => texts.reduce((most, text) => Math.max(most, widthOf(fitted(text, limit, size), size)), 0);

/** An image of small squares with sharp edges, one for each value. */
function squares(rows, columns, colourAt, place) {
  const canvas = el("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  for (let row = 0, to = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, to += 4) {
      const colour = colourAt(row, column);
      for (let i = 0; i < 3; i++) pixels.data[to + i] = colour[i];
      pixels.data[to + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
  return svg("image", { href: canvas.toDataURL(), preserveAspectRatio: "none", "image-rendering": "pixelated", ...place });
}

/** Parts {node, width, height} side by side, and below where there is no room, as one SVG. */
function picture(room, ...parts) {
  let [x, y, line, width] = [0, 0, 0, 0];
  const placed = parts.map((piece) => {
    if (x && x + piece.width > room) [x, y, line] = [0, y + line + 24, 0];
    const node = shifted(x, y, piece.node);
    width = Math.max(width, x + piece.width);
    line = Math.max(line, piece.height);
    x += piece.width + 24;
    return node;
  });
  return sized(svg("svg", { xmlns: SVG, "font-family": FONT, "aria-hidden": "true" }, ...placed), 0, Math.ceil(width), Math.ceil(y + line));
}

const sized = (node, from, width, height) => dress(node, { width, height, viewBox: `${from} ${from} ${width} ${height}` });

/** Where in a part of the picture the pointer is, in the part's own units. */
function pointer(event, node) {
  const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(node.getScreenCTM().inverse());
  return [x, y];
}
