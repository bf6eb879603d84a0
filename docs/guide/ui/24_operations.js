/* How an operation of the model is described, and how each number it makes is spelled out.

   An operation: part (its colour), title, text, formula, regions (lines of microgpt.py), and
   inputs(x, t), outputs(x, t): lists of {label, numbers, names?, spell?}. x is a trace, t a
   position. Read: row -> spellProducts -> matrixOperation, normOperation, addOperation. */
"use strict";

const C = CONFIG.channels;

/** Row t of a trace array whose rows have `width` numbers. */
function row(numbers, t, width = C) {
  return numbers.subarray(t * width, (t + 1) * width);
}

const bracket = (x) => (x < 0 ? `(${fmt(x, 2)})` : fmt(x, 2));

/** "0.12 × 1.05 + … = 0.33", zeros left out and counted. */
function spellProducts(name, a, b, total) {
  const terms = [];
  let zeros = 0;
  for (let i = 0; i < a.length; i++) {
    if (a[i] === 0 || b[i] === 0) zeros++;
    else terms.push(`${bracket(a[i])}·${bracket(b[i])}`);
  }
  const left = zeros ? ` (${zeros} more terms are 0)` : "";
  return `${name} = ${terms.join(" + ") || "0"}${left} = ${fmt(total, 4)}`;
}

/** spell() of a matrix: row i of `name`, times the input, added up. */
function spellRow(name, input, output) {
  const { cols, start } = LAYOUT[name];
  return (i) =>
    spellProducts(
      `${name} row ${rowName(name, i)} · input`,
      models.current.subarray(start + i * cols, start + (i + 1) * cols),
      input,
      output[i],
    );
}

function spellNorm(input, scale, output) {
  const squares = input.reduce((sum, v) => sum + v * v, 0) / input.length;
  return (i) =>
    `mean of squares = ${fmt(squares, 4)}; scale = 1 / √(${fmt(squares, 4)} + 0.00001) = ` +
    `${fmt(scale, 4)}; number ${i} = ${fmt(input[i], 4)} × ${fmt(scale, 4)} = ${fmt(output[i], 4)}`;
}

const spellSum = (a, b, out) => (i) => `${fmt(a[i], 4)} + ${bracket(b[i])} = ${fmt(out[i], 4)}`;

/** Numbers of head h: which of the 16 channels are its own. */
const headPart = (numbers, h) => numbers.subarray(h * CONFIG.headSize, (h + 1) * CONFIG.headSize);

/** Row t of attention scores or weights of head h, without the future. */
function attentionRow(numbers, x, h, t) {
  const at = (h * x.T + t) * x.T;
  return numbers.subarray(at, at + t + 1);
}

const heads = [0, 1, 2, 3];
const wordTokens = () => tokenize(readableWord());
const positionNames = (t) =>
  wordTokens()
    .slice(0, t + 1)
    .map(tokenText);

/** An operation that is one matrix times one vector. */
function matrixOperation(name, part, title, text, regions, from, to, width) {
  return {
    part,
    title,
    text,
    regions,
    id: name,
    formula:
      `${width.out} rows of ${name}, each multiplied with the ${width.in} numbers and ` +
      `added up`,
    inputs: (x, t) => [{ label: "input", numbers: row(x[from], t, width.in) }],
    outputs: (x, t) => {
      const [input, output] = [row(x[from], t, width.in), row(x[to], t, width.out)];
      const names = name === "head" ? TOKEN_NAMES : null;
      return [
        { label: `${name} × input`, numbers: output, names, spell: spellRow(name, input, output) },
      ];
    },
  };
}

function normOperation(id, part, title, text, from, to, scale, regions) {
  return {
    id,
    part,
    title,
    text,
    regions: [...regions, "normalise"],
    formula: "each number ÷ √(mean of all 16 squared)",
    inputs: (x, t) => [{ label: "before", numbers: row(x[from], t) }],
    outputs: (x, t) => [
      {
        label: "after",
        numbers: row(x[to], t),
        spell: spellNorm(row(x[from], t), x[scale][t], row(x[to], t)),
      },
    ],
  };
}

function addOperation(id, part, title, text, from, bypass, to, regions) {
  return {
    id,
    part,
    title,
    text,
    regions,
    formula: "sum, number by number",
    inputs: (x, t) => [
      { label: "the block’s result", numbers: row(x[from], t) },
      { label: "from the bypass", numbers: row(x[bypass], t) },
    ],
    outputs: (x, t) => [
      {
        label: "sum",
        numbers: row(x[to], t),
        spell: spellSum(row(x[from], t), row(x[bypass], t), row(x[to], t)),
      },
    ],
  };
}

function spellSoftmax(scores, shares) {
  const top = Math.max(...scores);
  const total = scores.reduce((sum, s) => sum + Math.exp(s - top), 0);
  return (i) =>
    `e^(${fmt(scores[i], 3)} − ${bracket(top)}) ÷ ${fmt(total, 4)} = ` +
    `${fmt(Math.exp(scores[i] - top), 4)} ÷ ${fmt(total, 4)} = ${fmt(shares[i], 4)}`;
}
