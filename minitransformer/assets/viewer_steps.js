// One head explained: each step with its formula, its line of Python, its numbers, and each number with its own sum.

const MOST_TERMS = 5;

function stepsView(id, label, tab) {
  let drawn = null;
  const step = () => tab.steps[clamp(now.step, tab.steps.length)];
  const cell = () => [clamp(now.row, step().value.shape[0]), clamp(now.column, step().value.shape[1])];
  const named = (names) => shownTokens(names, now.raw, tab.tokens);
  const rowNames = () => named(step().rows);
  const columnNames = () => named(step().columns.length ? step().columns : Array.from({ length: step().value.shape[1] }, (_, column) => String(column)));
  const sum = (row, column) => `${visible(step().symbol)}[${rowNames()[row]}, ${columnNames()[column]}] = ${cellSum(step(), row, column)}`;
  const view = {
    id, label, controls: ["tokens"], redrawnBy: ["step", "raw"],
    keys: "n next step, p previous step, ← ↑ → ↓ cell",
    before: stepsHead,
    draw(room) {
      const values = numbers(step().value);
      drawn = matrix({
        values, room, rows: rowNames(), columns: columnNames(),
        scale: scaleOf(values.values, values.values.some((value) => value < 0 && Number.isFinite(value))),
        text: (row, column) => decimals(values.at(row, column)),
        pick: (row, column, click) => (click ? select({ row, column }) : say(sum(row, column), true)),
      });
      return picture(room, drawn);
    },
    move: () => drawn.mark(...cell()),
    arrows(down, right) {
      const [row, column] = cell();
      select({ row: clamp(row + down, step().value.shape[0]), column: clamp(column + right, step().value.shape[1]) });
    },
    letters: { n: () => goToStep(now.step + 1), p: () => goToStep(now.step - 1) },
    sentence: () => sum(...cell()),
    note: () => step().note,
    table() {
      const values = numbers(step().value);
      return gridTable(visible(step().formula), visible(step().symbol), rowNames(), columnNames(), values.at);
    },
  };
  const goToStep = (to) => select({ step: clamp(to, tab.steps.length), row: 0, column: 0 });
  return view;

  /** The list of steps, and the formula, the code and the shape of this one. */
  function stepsHead() {
    const buttons = tab.steps.map((one, number) => button(`${number + 1} ${visible(one.symbol)}`, () => goToStep(number), { "aria-current": one === step() && "step" }));
    const about = `${tab.group}, layer ${tab.layer}, head ${tab.head}, query ${quoted(named(tab.tokens)[tab.query] ?? tab.query)}`;
    return el("div", {}, el("p", { class: "quiet" }, about),
      el("div", { class: "chips", role: "group", "aria-label": "steps" }, ...buttons),
      el("div", { class: "formula" }, el("p", { class: "symbols" }, ...withSubscripts(step().formula)), el("code", {}, visible(step().code))),
      el("p", { class: "quiet" }, `shape ${visible(step().shape)}`));
  }
}

const signed = (value) => (value < 0 ? `(${digits(value)})` : digits(value));

/** A formula, in which W_Q has its Q below the line. */
function withSubscripts(formula) {
  return visible(formula).split(/_(\w+)/).map((text, at) => (at % 2 ? el("sub", {}, text) : text));
}

/** A cell's number as the sum that it is: 2.31 = 0.12·1.40 + 0.80·1.10 + … (32 terms). */
function cellSum(step, row, column) {
  const value = numbers(step.value).at(row, column);
  if (!step.product) return digits(value);
  const { left, right, factor, plus } = step.product;
  const [x, w] = [numbers(step.product.left_value), numbers(step.product.right_value)];
  const sum = { terms: [], total: 0 };
  for (let k = 0; k < x.columns; k++) {
    sum.total += x.at(row, k) * w.at(k, column);
    if (k < MOST_TERMS) sum.terms.push(`${signed(x.at(row, k))}·${signed(w.at(k, column))}`);
  }
  if (x.columns > MOST_TERMS) sum.terms.push(`… (${x.columns} terms)`);
  const added = plus ? numbers(plus).at(plus.shape[0] === 1 ? 0 : row, column) : 0;
  const all = sum.terms.join(" + ");
  const scaled = factor === 1 ? all : `(${all}) · ${digits(factor)}`;
  const again = sum.total * factor + added;
  return visible(`${digits(value)} = ${scaled}${plus ? ` + ${digits(added)}` : ""}; the sum of ${left}·${right}, added up here, is ${digits(again)}.`);
}
