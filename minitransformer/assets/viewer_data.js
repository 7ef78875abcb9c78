// The numbers that the page carries, unpacked when they are first looked at.

const HEADER = JSON.parse(document.getElementById("header").textContent);
const unpacked = new Map();
const headsSeen = new Map();

/** A block as an array of numbers: Float32Array, Uint16Array or Uint8Array. */
function block(name, Kind) {
  if (!unpacked.has(name)) unpacked.set(name, new Kind(bytes(document.getElementById(name).textContent).buffer));
  return unpacked.get(name);
}

function bytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  return Uint8Array.from({ length: raw.length }, (_, i) => raw.charCodeAt(i));
}

/** Numbers in rows and columns. */
function grid(values, rows, columns) {
  return { values, rows, columns, at: (row, column) => values[row * columns + column] };
}

/** The numbers that a header points to, as a grid. */
const numbers = ({ shape, block: name }) => grid(block(name, Float32Array), ...shape);

/** The weights of one head, [T S], from 0 to 1. The heads looked at last are kept. */
function headWeights(group, layer, head) {
  const key = [group.blocks[layer], group.places?.[layer], group.tops?.[layer], head].join();
  if (!headsSeen.has(key)) {
    if (headsSeen.size >= 24) headsSeen.delete(headsSeen.keys().next().value);
    headsSeen.set(key, unpackHead(group, layer, head));
  }
  return headsSeen.get(key);
}

function unpackHead(group, layer, head) {
  const [T, S] = [group.queries.length, group.keys.length];
  const rounded = block(group.blocks[layer], group.levels > 255 ? Uint16Array : Uint8Array);
  const kept = group.largest ?? S; // of each row
  const keys = group.largest && block(group.places[layer], Uint16Array);
  const tops = group.tops && block(group.tops[layer], Float32Array); // the largest weight of each row: the others are shares of it
  const weights = new Float32Array(T * S);
  for (let i = 0, from = head * T * kept; i < T * kept; i++, from++) {
    const row = Math.floor(i / kept);
    weights[keys ? row * S + keys[from] : i] = (rounded[from] / group.levels) * (tops ? tops[head * T + row] : 1);
  }
  return grid(weights, T, S);
}

/** How exact a group's weights are, in a sentence. */
function precision(group) {
  const rounding = `Weights are rounded to 1/${group.levels}${group.tops ? " of their row's largest" : ""}: each is at most ${digits(0.5 / group.levels)} off.`;
  if (!group.largest) return rounding;
  const weights = headWeights(group, now.layer, now.head);
  const kept = weights.values.reduce((sum, weight) => sum + weight, 0) / weights.rows;
  return `Shown are the ${group.largest} largest weights of each row: ${percent(kept)} of this head's attention, ${percent(group.share)} of all heads'; the others count as 0. ${rounding}`;
}

/** How many decimals of a group's weights are worth writing. */
const placesOf = (group) => (group.levels > 255 ? 4 : 3);
