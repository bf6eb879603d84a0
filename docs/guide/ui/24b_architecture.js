/* Section 4: the drawing of the model, and one operation at a time beside it.

   Read: PLACES -> drawDiagram -> showOperation -> startArchitecture. */
"use strict";

/** Where each operation's box stands in the drawing: [x, y, width]. Units of the viewBox. */
const PLACES = {
  token: [20, 14, 124],
  position: [156, 14, 124],
  embedded: [88, 54, 124],
  norm0: [88, 92, 124],
  norm1: [88, 158, 124],
  query: [46, 198, 64],
  key: [118, 198, 64],
  value: [190, 198, 64],
  scores: [46, 238, 136],
  share: [46, 276, 136],
  gather: [46, 314, 208],
  mix: [88, 352, 124],
  resid1: [88, 402, 124],
  norm2: [88, 456, 124],
  up: [60, 494, 180],
  relu: [60, 532, 180],
  down: [88, 570, 124],
  resid2: [88, 620, 124],
  head: [60, 674, 180],
  chances: [60, 712, 180],
};
const BOX_HEIGHT = 28;
const LABELS = {
  token: "token",
  position: "position",
  embedded: "+",
  norm0: "normalise",
  norm1: "normalise",
  query: "query",
  key: "key",
  value: "value",
  scores: "scores",
  share: "softmax",
  gather: "shares × values",
  mix: "mix",
  resid1: "+",
  norm2: "normalise",
  up: "up: 16 → 64",
  relu: "relu",
  down: "down: 64 → 16",
  resid2: "+",
  head: "head: 27 scores",
  chances: "27 chances",
};
const ARROWS = [
  ["token", "embedded"],
  ["position", "embedded"],
  ["embedded", "norm0"],
  ["norm0", "norm1"],
  ["norm1", "query"],
  ["norm1", "key"],
  ["norm1", "value"],
  ["query", "scores"],
  ["key", "scores"],
  ["scores", "share"],
  ["share", "gather"],
  ["value", "gather"],
  ["gather", "mix"],
  ["mix", "resid1"],
  ["resid1", "norm2"],
  ["norm2", "up"],
  ["up", "relu"],
  ["relu", "down"],
  ["down", "resid2"],
  ["resid2", "head"],
  ["head", "chances"],
];
const BYPASSES = [
  ["norm0", "resid1"],
  ["resid1", "resid2"],
];
const BLOCKS = [
  ["attn", 146, 240, "attention"],
  ["mlp", 446, 158, "thinking"],
];

function arrowPath(from, to) {
  const [x1, y1, w1] = PLACES[from];
  const [x2, y2, w2] = PLACES[to];
  const end = Math.max(x2 + 12, Math.min(x2 + w2 - 12, x1 + w1 / 2)); // straight down if possible
  const start = Math.max(x1 + 12, Math.min(x1 + w1 - 12, end));
  return `M${start} ${y1 + BOX_HEIGHT} L${end} ${y2 - 3}`;
}

function bypassPath(from, to) {
  const [x1, y1, w1] = PLACES[from];
  const [x2, y2, w2] = PLACES[to];
  const [right, top, bottom] = [292, y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2];
  return (
    `M${x1 + w1} ${top} H${right - 14} Q${right} ${top} ${right} ${top + 14} ` +
    `V${bottom - 14} Q${right} ${bottom} ${right - 14} ${bottom} H${x2 + w2 + 4}`
  );
}

function drawDiagram() {
  const boxes = OPERATIONS.map((op, i) => {
    const [x, y, width] = PLACES[op.id];
    return svg(
      "g",
      {
        class: `op ${op.part}`,
        role: "button",
        tabindex: "-1",
        "data-op": i,
        "aria-label": `${i + 1}: ${op.title}`,
        onclick: () => state.set({ op: i }),
      },
      svg("rect", { x, y, width, height: BOX_HEIGHT, rx: 7 }),
      svg("text", { x: x + width / 2, y: y + 18 }, LABELS[op.id]),
    );
  });
  const marker = svg(
    "marker",
    {
      id: "tip-arrow",
      viewBox: "0 0 8 8",
      refX: 6,
      refY: 4,
      markerWidth: 7,
      markerHeight: 7,
      orient: "auto",
    },
    svg("path", { d: "M0 0 L8 4 L0 8 z" }),
  );
  $("#diagram").replaceChildren(
    svg(
      "svg",
      { viewBox: "0 0 310 752", "aria-label": "The model as boxes; the steps beside it list them" },
      svg("defs", {}, marker),
      BLOCKS.map(([part, y, height, label]) =>
        svg(
          "g",
          { class: `block ${part}` },
          svg("rect", { x: 8, y, width: 262, height, rx: 12 }),
          svg("text", { x: 20, y: y + height - 10 }, label),
        ),
      ),
      ARROWS.map(([from, to]) =>
        svg("path.arrow", {
          d: arrowPath(from, to),
          "data-to": to,
          "marker-end": "url(#tip-arrow)",
        }),
      ),
      BYPASSES.map(([from, to]) =>
        svg("path.arrow.bypass", {
          d: bypassPath(from, to),
          "data-to": to,
          "marker-end": "url(#tip-arrow)",
        }),
      ),
      boxes,
    ),
  );
}

const architecture = {
  refreshTable: () => {},
  chosen: 0,
  guess: new ChanceBars("Chances of the next token"),
};

function operationNow() {
  return OPERATIONS[Math.min(state.values.op, OPERATIONS.length - 1)];
}

function markDiagram() {
  const op = operationNow();
  $$("#diagram .op").forEach((g, i) => {
    g.classList.toggle("now", OPERATIONS[i] === op);
    g.classList.toggle("past", i < OPERATIONS.indexOf(op));
  });
  $$("#diagram .arrow").forEach((a) => a.classList.toggle("now", a.dataset.to === op.id));
}

/** One vector of an operation with its caption. */
function vectorRow({ label, numbers, names, showNumbers }, part, choose) {
  const range = `${numbers.length} ${numbers.length === 1 ? "number" : "numbers"}`;
  return el(
    "div.vector",
    {},
    el(
      "p.vector-label",
      {},
      label,
      el("span.quiet", {}, ` ${range}`),
      names && showNumbers && el("span.vector-names", {}, names.join(" ")),
    ),
    strip(label, numbers, { part, names: showNumbers ? null : names, choose }),
  );
}

function showOperation() {
  const op = operationNow();
  const t = positionNow();
  const x = traceNow();
  const outputs = op.outputs(x, t);
  $("#op-title").className = op.part;
  $("#op-title").textContent = `${OPERATIONS.indexOf(op) + 1}. ${op.title}`;
  $("#op-text").textContent = op.text;
  $("#op-formula").textContent = op.formula;
  const spell = (output) => (i) => {
    architecture.chosen = i;
    $("#op-spell").textContent = output.spell(i);
  };
  $("#op-inputs").replaceChildren(
    ...op.inputs(x, t).map((v) =>
      vectorRow(v, "", (i) => {
        $("#op-spell").textContent = `${v.label}, number ${i}: ${fmt(v.numbers[i], 6)}`;
      }),
    ),
  );
  $("#op-output").replaceChildren(
    ...outputs.map((v) => vectorRow(v, op.part, spell(v))),
    ...outputs
      .filter((v) => v.bars)
      .map((v) =>
        new ChanceBars(architecture.guess.label).show(v.numbers, { wanted: wordTokens()[t + 1] }),
      ),
  );
  $("#op-guess").hidden = outputs.some((v) => v.bars);
  architecture.guess.show(probsAt(x, t), { wanted: wordTokens()[t + 1] });
  const first = outputs[0];
  const index = Math.min(architecture.chosen, first.numbers.length - 1);
  $("#op-output .strip").pick(index);
  markDiagram();
  architecture.refreshTable();
  codePanels.architecture?.show(op.regions);
}

function operationTable() {
  const op = operationNow();
  const outputs = op.outputs(traceNow(), positionNow());
  const longest = Math.max(...outputs.map((o) => o.numbers.length));
  return table(
    `${op.title}, position ${positionNow()}`,
    ["number", ...outputs.map((o) => o.label)],
    Array.from({ length: longest }, (_, i) => [
      outputs[0].names ? outputs[0].names[i] : i,
      ...outputs.map((o) => fmt(o.numbers[i], 6)),
    ]),
  );
}

function startArchitecture() {
  $("#op-count").textContent = String(OPERATIONS.length);
  positionPicker($("#arch-positions"));
  drawDiagram();
  $("#op-guess").append(
    el("p.vector-label", {}, "Where all this leads: the chances of the next token"),
    architecture.guess.node,
  );
  architecture.refreshTable = tableTwin($("#op-table"), operationTable);
  live("architecture", ["word", "pos", "op", "model"], showOperation);
  new Stepper($("#arch-stepper"), "architecture", "op", () => OPERATIONS.length - 1, {
    name: "operation",
    delay: 1400,
    from: 1,
  });
}
