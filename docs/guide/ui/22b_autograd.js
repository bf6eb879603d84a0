/* Section 2: the graph of a small calculation and the walk backwards through it.

   Read: layOut (columns) -> drawGraph -> replayBackward -> explainStep -> startAutograd. */
"use strict";

const NODE = { width: 92, height: 64, across: 158, down: 84 };

/** The expression in use as text. */
function expressionNow() {
  const { graph, expr } = state.values;
  return graph === "own" ? expr : GRAPHS[graph].text;
}

const autograd = { graph: null, passes: [], refreshTable: () => {} };

/** Column: how many operations lie before a box. Row: near the middle of its inputs. */
function layOut(order) {
  const columns = [];
  for (const v of order) {
    v.column = v.inputs.length ? Math.max(...v.inputs.map((i) => i.column)) + 1 : 0;
  }
  for (const v of order) {
    // constants stand right before the box that uses them
    if (!v.inputs.length && !v.name) {
      v.column = Math.min(...order.filter((u) => u.inputs.includes(v)).map((u) => u.column)) - 1;
    }
  }
  for (const v of order) (columns[v.column] ||= []).push(v);
  const across = columns.length > 6 ? NODE.across - 22 : NODE.across;
  const tall = Math.max(...columns.map((c) => c.length));
  for (const column of columns) {
    const wish = (v) =>
      v.inputs.length ? v.inputs.reduce((sum, i) => sum + i.y, 0) / v.inputs.length : 0;
    column.sort((u, v) => wish(u) - wish(v));
    const top = (tall - column.length) / 2;
    column.forEach((v, i) => {
      v.x = v.column * across;
      v.y = (top + i) * NODE.down;
    });
  }
  return { width: (columns.length - 1) * across + NODE.width, height: tall * NODE.down };
}

/** Gradients as they are after `steps` steps: 1 sets the result's to 1, each other hands one on. */
function replayBackward({ root, order }, steps) {
  for (const v of order) {
    v.grad = 0;
    v.reached = false;
  }
  const passes = order
    .slice()
    .reverse()
    .filter((v) => v.inputs.length);
  if (steps > 0) {
    root.grad = 1;
    root.reached = true;
  }
  for (const v of passes.slice(0, Math.max(0, steps - 1))) {
    v.passBack();
    for (const input of v.inputs) input.reached = true;
  }
  return passes;
}

const OP_WORDS = { "+": "plus", "×": "times", exp: "exp", log: "log", relu: "relu" };
const OP_REGION = { "+": "add", "×": "mul", exp: "exp", log: "log", relu: "relu" };

function boxTitle(v) {
  if (v.name) return v.name;
  return v.inputs.length
    ? OP_WORDS[v.op]
      ? v.op
      : `power ${v.op.slice(1).replace("-", MINUS)}`
    : "fixed";
}

function drawBox(v, active) {
  const kind = v.name ? "input" : v.inputs.length ? "made" : "fixed";
  const colours = [kind, active && "active", v.reached && "reached"].filter(Boolean).join(" ");
  const middle = NODE.width / 2;
  return svg(
    "g",
    { class: `node ${colours}`, transform: `translate(${v.x} ${v.y})` },
    svg("rect", { width: NODE.width, height: NODE.height, rx: 8 }),
    svg("text.node-op", { x: middle, y: 15 }, boxTitle(v)),
    svg("text.node-data", { x: middle, y: 34 }, fmt(v.data, 2)),
    svg("line", { x1: 8, x2: NODE.width - 8, y1: 41, y2: 41 }),
    svg("text.node-grad", { x: middle, y: 57 }, v.reached ? `∇ ${fmt(v.grad, 2)}` : "∇ ?"),
  );
}

/** `side` keeps two lines between the same boxes apart: a × a. */
function drawEdge(from, to, slope, active, side) {
  const [x1, y1] = [from.x + NODE.width, from.y + NODE.height / 2];
  const [x2, y2] = [to.x, to.y + NODE.height / 2 + side];
  const bend = (x2 - x1) / 2;
  const path = `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  return svg(
    "g",
    { class: `edge ${active ? "active" : ""}` },
    svg("path", { d: path }),
    active && svg("text", { x: (x1 + x2) / 2, y: (y1 + y2) / 2 + side + 4 }, `× ${fmt(slope, 2)}`),
  );
}

function drawGraph() {
  const {
    graph: { root, order },
  } = autograd;
  const { width, height } = layOut(order);
  const step = state.values.back;
  autograd.passes = replayBackward(autograd.graph, step);
  const passing = step > 1 ? autograd.passes[step - 2] : null;
  const edges = order.flatMap((v) =>
    v.inputs.map((input, k) =>
      drawEdge(input, v, v.slopes[k], v === passing, v.inputs.length > 1 ? (k - 0.5) * 22 : 0),
    ),
  );
  const boxes = order.map((v) => drawBox(v, v === passing || (step === 1 && v === root)));
  const view = `-6 -10 ${width + 12} ${height + 4}`;
  renew(
    $("#graph"),
    svg(
      "svg",
      {
        viewBox: view,
        role: "img",
        style: {
          "min-width": `${Math.min(width, 60 + width * 0.62)}px`,
          "max-width": `${width * 1.35}px`,
        },
        "aria-label": `Graph of ${expressionNow()}: ${order.length} boxes; ` +
        "the table below lists them",
      },
      edges.filter((edge) => !edge.matches(".active")),
      boxes,
      edges.filter((edge) => edge.matches(".active")), // on top, with their slopes
    ),
  );
}

/** What the step in view does, in words and with its numbers. */
function explainStep() {
  const step = state.values.back;
  const say = $("#graph-say");
  const lesson = GRAPHS[state.values.graph]?.lesson || "";
  if (step === 0) {
    say.textContent =
      "Forward: each box has its value. Now press → or Play and walk backwards from the result.";
    codePanels.autograd?.show(["value"]);
  } else if (step === 1) {
    say.textContent = "The result’s own gradient is 1: if it moves by 1, it moves by 1.";
    codePanels.autograd?.show(["backward"]);
  } else {
    const v = autograd.passes[step - 2];
    const parts = v.inputs.map(
      (input, k) =>
        `to ${boxTitle(input)} (${fmt(input.data, 2)}): ` +
        `${fmt(v.grad, 2)} × ${fmt(v.slopes[k], 2)} = ${fmt(v.grad * v.slopes[k], 2)}`,
    );
    const done = step === autograd.passes.length + 1 ? ` Done. ${lesson}` : "";
    say.textContent =
      `The box “${boxTitle(v)}” hands its gradient, times a slope, ` +
      `${parts.join("; ")}.${done}`;
    codePanels.autograd?.show([OP_REGION[v.op] || "pow", "backward"]);
  }
}

function showNudges() {
  const { a, b, c } = state.values;
  const numbers = { a, b, c };
  const used = Object.entries(autograd.graph.inputs)
    .filter(([, v]) => autograd.graph.order.includes(v))
    .map(([name]) => name);
  const full = buildGraph(expressionNow(), numbers);
  full.root.backward();
  const h = 0.001;
  const rows = used.map((name) => {
    const moved = buildGraph(expressionNow(), { ...numbers, [name]: numbers[name] + h });
    if (moved.problem) return [name, "not possible there", "", fmt(full.inputs[name].grad, 4)];
    const change = moved.root.data - full.root.data;
    return [name, signed(change, 6), fmt(change / h, 4), fmt(full.inputs[name].grad, 4)];
  });
  renew(
    $("#nudge"),
    table(
      "Raise one input by 0.001 and compute again",
      ["input", "result moves by", "per unit", "gradient says"],
      rows,
    ),
  );
}

/** Builds the graph anew when the expression or a slider changed. */
function rebuildGraph() {
  const { a, b, c, graph } = state.values;
  const built = buildGraph(expressionNow(), { a, b, c });
  $("#own-field").hidden = graph !== "own";
  $("#graph-problem").textContent = built.problem || "";
  const field = $("#own-expression");
  if (document.activeElement !== field) field.value = state.values.expr;
  if (built.problem) return;
  autograd.graph = built;
  const shown = expressionNow().replace(/\*\*/g, "^").replace(/\*/g, "×").replace(/-/g, MINUS);
  $("#graph-formula").textContent = `f = ${shown} = ${fmt(built.root.data, 3)}`;
  for (const name of "abc") {
    $(`#knob-${name}`).parentElement.hidden = !built.order.includes(built.inputs[name]);
  }
  autograd.passes = replayBackward(built, 0);
  if (state.values.back > autograd.passes.length + 1) {
    state.set({ back: autograd.passes.length + 1 });
  }
  steppers.autograd?.sync();
  showNudges();
  showBackward();
}

function showBackward() {
  if (!autograd.graph) return;
  drawGraph();
  explainStep();
  autograd.refreshTable();
}

function startAutograd() {
  for (const name of "abc") slider($(`#knob-${name}`), name);
  choice($("#graph-choice"), "graph");
  $("#graph-choice").addEventListener("click", (event) => {
    if (event.target.dataset.value) state.set({ back: 0 });
  });
  $("#own-expression").addEventListener("input", (event) => {
    state.set({ expr: event.target.value, back: 0 });
  });
  autograd.refreshTable = tableTwin($("#graph-table"), () =>
    table(
      "Every box of the graph",
      ["box", "value", "gradient"],
      autograd.graph.order.map((v) => [
        boxTitle(v),
        fmt(v.data, 4),
        v.reached ? fmt(v.grad, 4) : "not reached yet",
      ]),
    ),
  );
  if (!autograd.graph) autograd.graph = buildGraph("a * b", { a: 2, b: -1.5, c: 1 });
  live("autograd", ["a", "b", "c", "graph", "expr"], rebuildGraph);
  live("autograd", ["back"], showBackward);
  new Stepper($("#graph-stepper"), "autograd", "back", () => autograd.passes.length + 1, {
    name: "step backwards",
  });
}
