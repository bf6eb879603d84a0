/* Section 4's list of operations, from the token to the 27 chances.

   Read: EMBED_OPERATIONS -> ATTENTION_OPERATIONS -> LATE_OPERATIONS -> OPERATIONS. */
"use strict";

const square = { in: 16, out: 16 };
const EMBED_OPERATIONS = [
  {
    id: "token",
    part: "embed",
    title: "Look up the token",
    regions: ["lookUp", "w:token"],
    text:
      "The token’s number picks one row of the table “token”: 16 numbers that stand for " +
      "this letter.",
    formula: "row number = token number",
    inputs: () => [],
    outputs: (x, t) => [
      {
        label: "row of token",
        numbers: row(x.tokenRow, t),
        spell: (i) =>
          `token[${tokenText(wordTokens()[t])}][${i}] = ${fmt(row(x.tokenRow, t)[i], 4)}, as ` +
          `stored`,
      },
    ],
  },
  {
    id: "position",
    part: "embed",
    title: "Look up the position",
    regions: ["lookUp", "w:position"],
    text:
      "The same letter means something else at the start of a name than at its end, so the " +
      "position has a row of its own.",
    formula: "row number = position",
    inputs: () => [],
    outputs: (x, t) => [
      {
        label: "row of position",
        numbers: row(x.positionRow, t),
        spell: (i) => `position[${t}][${i}] = ${fmt(row(x.positionRow, t)[i], 4)}, as stored`,
      },
    ],
  },
  addOperation(
    "embedded",
    "embed",
    "Add the two",
    "What it is, plus where it stands: the 16 numbers that will travel down the page.",
    "tokenRow",
    "positionRow",
    "embedded",
    ["embed"],
  ),
  normOperation(
    "norm0",
    "embed",
    "Normalise",
    "The 16 numbers are scaled to a typical size of 1. Their proportions stay.",
    "embedded",
    "norm0",
    "scale0",
    ["embed"],
  ),
];
EMBED_OPERATIONS[2].inputs = (x, t) => [
  { label: "token", numbers: row(x.tokenRow, t) },
  { label: "position", numbers: row(x.positionRow, t) },
];

const ATTENTION_OPERATIONS = [
  normOperation(
    "norm1",
    "attn",
    "Normalise before attention",
    "A copy is normalised for attention to read; the original waits on the bypass. (It was " +
      "normalised just now, so little changes the first time.)",
    "norm0",
    "norm1",
    "scale1",
    ["attnBlock"],
  ),
  matrixOperation(
    "query",
    "attn",
    "Make the query",
    "What is this position looking for? Four numbers for each of four heads.",
    ["query", "linear"],
    "norm1",
    "q",
    square,
  ),
  matrixOperation(
    "key",
    "attn",
    "Make the key",
    "What does this position offer to later ones? The key is kept for them.",
    ["key", "linear"],
    "norm1",
    "k",
    square,
  ),
  matrixOperation(
    "value",
    "attn",
    "Make the value",
    "What will be handed to those who listen? It is kept, too.",
    ["valueRow", "linear"],
    "norm1",
    "v",
    square,
  ),
  {
    id: "scores",
    part: "attn",
    title: "Compare the query with every key",
    regions: ["scores"],
    text:
      "In each head the query meets the key of every position so far. A large score says: " +
      "these match.",
    formula: "query · key ÷ √4, in each head",
    inputs: (x, t) => [{ label: "query", numbers: row(x.q, t) }],
    outputs: (x, t) =>
      heads.map((h) => ({
        label: `head ${h}`,
        names: positionNames(t),
        showNumbers: true,
        numbers: attentionRow(x.scores, x, h, t),
        spell: (s) =>
          `${spellProducts(
            `head ${h}, key of ${positionNames(t)[s]}: query · key`,
            headPart(row(x.q, t), h),
            headPart(row(x.k, s), h),
            attentionRow(x.scores, x, h, t)[s] * 2,
          )}; ÷ √4 = ${fmt(attentionRow(x.scores, x, h, t)[s], 4)}`,
      })),
  },
  {
    id: "share",
    part: "attn",
    title: "Softmax: scores become shares",
    regions: ["share", "softmax"],
    text: "Each head has 100% of attention to give away and divides it by the scores.",
    formula: "e to the score ÷ sum of them all",
    inputs: (x, t) =>
      heads.map((h) => ({ label: `scores, head ${h}`, numbers: attentionRow(x.scores, x, h, t) })),
    outputs: (x, t) =>
      heads.map((h) => ({
        label: `head ${h}`,
        names: positionNames(t),
        showNumbers: true,
        numbers: attentionRow(x.weights, x, h, t),
        spell: spellSoftmax(attentionRow(x.scores, x, h, t), attentionRow(x.weights, x, h, t)),
      })),
  },
  {
    id: "gather",
    part: "attn",
    title: "Gather the values",
    regions: ["gather"],
    text: "Each head takes every position’s value in proportion to its share, and adds up.",
    formula: "share × value, added up over positions",
    inputs: (x, t) => [{ label: "own value", numbers: row(x.v, t) }],
    outputs: (x, t) => [
      {
        label: "gathered by the four heads",
        numbers: row(x.gathered, t),
        spell: (i) => {
          const shares = attentionRow(x.weights, x, Math.floor(i / CONFIG.headSize), t);
          return spellProducts(
            `head ${Math.floor(i / CONFIG.headSize)}: shares · values`,
            shares,
            Array.from(shares, (_, s) => row(x.v, s)[i]),
            row(x.gathered, t)[i],
          );
        },
      },
    ],
  },
  matrixOperation(
    "mix",
    "attn",
    "Mix the heads",
    "One more matrix lets the four heads’ findings work together.",
    ["mix", "linear"],
    "gathered",
    "attnOut",
    square,
  ),
  addOperation(
    "resid1",
    "attn",
    "Add to the bypass",
    "What attention found is added to the 16 numbers that waited on the bypass.",
    "attnOut",
    "norm0",
    "resid1",
    ["attnBlock"],
  ),
];

const LATE_OPERATIONS = [
  normOperation(
    "norm2",
    "mlp",
    "Normalise before thinking",
    "Again a copy is scaled to size 1; the original waits.",
    "resid1",
    "norm2",
    "scale2",
    ["mlpBlock"],
  ),
  matrixOperation(
    "up",
    "mlp",
    "Widen to 64",
    "64 small detectors each look for their own pattern in the 16 numbers.",
    ["think", "w:up"],
    "norm2",
    "hidden",
    { in: 16, out: 64 },
  ),
  {
    id: "relu",
    part: "mlp",
    title: "ReLU: keep what was found",
    regions: ["relu", "think"],
    text:
      "A detector that found nothing (a negative number) is set to 0. Without this bend, " +
      "two matrices in a row would be no more than one.",
    formula: "max(0, number)",
    inputs: (x, t) => [{ label: "detectors", numbers: row(x.hidden, t, 64) }],
    outputs: (x, t) => [
      {
        label: "kept",
        numbers: row(x.active, t, 64),
        spell: (i) =>
          `max(0, ${fmt(row(x.hidden, t, 64)[i], 4)}) = ${fmt(row(x.active, t, 64)[i], 4)}`,
      },
    ],
  },
  matrixOperation(
    "down",
    "mlp",
    "Narrow to 16",
    "Each detector that fired adds its own 16 numbers, the more the stronger it fired.",
    ["think", "w:down"],
    "active",
    "mlpOut",
    { in: 64, out: 16 },
  ),
  addOperation(
    "resid2",
    "mlp",
    "Add to the bypass",
    "The conclusions are added to what was known before.",
    "mlpOut",
    "resid1",
    "resid2",
    ["mlpBlock"],
  ),
  matrixOperation(
    "head",
    "output",
    "Score every next token",
    "Each of the 27 tokens has a row here. Its dot product with the 16 numbers is its score, " +
      "the logit.",
    ["headRow", "w:head"],
    "resid2",
    "logits",
    { in: 16, out: 27 },
  ),
  {
    id: "chances",
    part: "output",
    title: "Softmax: scores become chances",
    regions: ["softmax"],
    text:
      "The 27 scores become 27 chances that add up to 100%. This is the model’s guess for " +
      "the next token.",
    formula: "e to the score ÷ sum of them all",
    inputs: (x, t) => [{ label: "scores", numbers: row(x.logits, t, 27), names: TOKEN_NAMES }],
    outputs: (x, t) => [
      {
        label: "chances",
        numbers: row(x.probs, t, 27),
        names: TOKEN_NAMES,
        bars: true,
        spell: spellSoftmax(row(x.logits, t, 27), row(x.probs, t, 27)),
      },
    ],
  },
];

const OPERATIONS = [...EMBED_OPERATIONS, ...ATTENTION_OPERATIONS, ...LATE_OPERATIONS];
