/* Section 6: buttons, the document of the last step, and one parameter under the loupe.

   Read: SPEEDS -> startTraining -> showStatus -> showDocument -> Loupe. */
"use strict";

const SPEEDS = [1, 5, 25, 100, Infinity]; // steps a second
const speedWords = (i) =>
  SPEEDS[i] === Infinity
    ? "as fast as it goes"
    : `${SPEEDS[i]} ${SPEEDS[i] === 1 ? "step" : "steps"} a second`;

const EYE_MS = 150;
const trainingView = { chart: null, refreshTable: () => {}, loupe: null, documentAt: 0, pairs: 0 };

function speedNow() {
  return SPEEDS[Number($("#train-speed").value)];
}

function train(count) {
  if (training.done >= CONFIG.steps) {
    showStatus();
    return;
  }
  training.train(count, speedNow());
}

/** Where training stands, in a sentence; at the end, why it goes no further. */
function showStatus() {
  const { done, losses, running } = training;
  const finished = done >= CONFIG.steps;
  const status = $("#train-status");
  if (finished) {
    status.textContent =
      `All ${commas(CONFIG.steps)} steps are done. The learning rate has reached 0, so more ` +
      `steps would change nothing. Mean loss of the last ${MEAN_OVER}: ` +
      `${fmt(lastMean(losses), 4)}. ` +
      "“Start over” brings the random numbers back.";
  } else if (!done) {
    status.textContent =
      `Step 0: 4,192 random numbers from seed ${CONFIG.seed}. Learning rate ` +
      `${fmt(learningRateAt(0), 5)}.`;
  } else {
    status.textContent =
      `Step ${commas(done)} of ${commas(CONFIG.steps)}. Loss of the last name: ` +
      `${fmt(losses[done - 1], 4)}; ` +
      `running mean ${fmt(lastMean(losses), 4)}. Learning rate now ` +
      `${fmt(learningRateAt(done), 5)}.`;
  }
  for (const button of $$("[data-train]")) button.disabled = finished;
  $("#train-pause").disabled = !running;
}

function showLegend(step) {
  const { losses } = training;
  const looked =
    step === undefined || !losses.length
      ? ""
      : ` Step ${step + 1}, “${trainingWord(step)}”: loss ${fmt(losses[step], 4)}; Python’s ` +
        `${fmt(Python.run.losses[step], 4)}.`;
  renew(
    $("#loss-legend"),
    el("span.key-dot"),
    "each step ",
    el("span.key-line"),
    `mean of ${MEAN_OVER} `,
    el("span.key-python"),
    `Python’s own run (mean of ${MEAN_OVER}).`,
    looked,
  );
}

/** The name that step (from 0) reads, as far as the page carries the order. */
function trainingWord(step) {
  return Python.first[step] ?? `name ${step + 1} in the shuffled list`;
}

/** The last name, pair by pair: what it saw, what came, how likely the model found it. While
    training runs, names follow each other slowly enough to be seen, and the list never shrinks. */
function showDocument() {
  const { last, running } = training;
  const now = performance.now();
  if (running && now - trainingView.documentAt < EYE_MS) return;
  trainingView.documentAt = now;
  const word = last ? last.word : Python.first[0];
  const tokens = tokenize(word);
  $("#document-title").textContent = last
    ? `The last name: ${word}`
    : `The first name will be: ${word}`;
  const T = Math.min(CONFIG.context, tokens.length - 1);
  const losses = last ? last.each : lossOf(forward(models.born, tokens, T), tokens).each;
  const rows = Array.from(losses, (loss, t) =>
    el(
      "div.pair",
      {},
      el(
        "div.pair-seen",
        {},
        tokens
          .slice(0, t + 1)
          .map((id) =>
            el(id === BOS ? "span.seen.bos" : "span.seen", {}, id === BOS ? "■" : LETTERS[id]),
          ),
      ),
      el("span.pair-arrow", { "aria-label": "next" }, "→"),
      tile(tokens[t + 1], { class: "wanted" }),
      el(
        "div.pair-loss",
        {},
        el("div.loss-bar", { style: { width: `${Math.min(1, loss / 5) * 100}%` } }),
      ),
      el("span.pair-text", {}, `chance ${percent(Math.exp(-loss))}, loss ${fmt(loss, 2)}`),
    ),
  );
  const mean = Array.from(losses).reduce((a, b) => a + b, 0) / losses.length;
  trainingView.pairs = running ? Math.max(trainingView.pairs, rows.length) : rows.length;
  $("#document-pairs").style.setProperty("--pairs", trainingView.pairs);
  renew(
    $("#document-pairs"),
    rows,
    el(
      "p.readout",
      {},
      `Loss of the name: the mean of these ${losses.length}, ${fmt(mean, 4)}` +
        `${last ? " (before the step changed the weights)." : "."}`,
    ),
  );
}

/** A map of one matrix and the chosen parameter's value, gradient and memories. */
class Loupe {
  constructor() {
    this.mode = "weights";
    const select = $("#loupe-matrix");
    select.append(...SHAPES.map(([name]) => el("option", { value: name }, name)));
    select.onchange = () => state.set({ param: LAYOUT[select.value].start });
    $("#loupe-mode").addEventListener("click", (event) => {
      if (event.target.dataset.mode) {
        this.mode = event.target.dataset.mode;
        this.show();
      }
    });
    this.name = "";
  }

  numbers(mode = this.mode) {
    if (mode === "weights") return models.mine ?? models.born;
    return training[mode] ?? (this.nothing ??= new Float64Array(PARAMETERS));
  }

  show() {
    const index = state.values.param;
    const shape = matrixOf(index);
    if (this.name !== shape.name) this.frame(shape);
    const numbers = this.numbers();
    this.picture.paint(numbers, largest(numbers.subarray(shape.start, shape.start + shape.size)));
    $$("#loupe-mode button").forEach((b) => {
      b.setAttribute("aria-pressed", String(b.dataset.mode === this.mode));
    });
    this.figures(index);
  }

  frame(shape) {
    this.name = shape.name;
    $("#loupe-matrix").value = shape.name;
    this.picture = new MatrixPicture(shape, (i) => state.set({ param: i }));
    this.picture.walkable(`parameters of ${shape.name}`);
    $("#loupe-map").replaceChildren(this.picture.canvas);
  }

  /** Value, gradient, m, v and the last step, as bars on scales of their own. */
  figures(index) {
    const { done } = training;
    const [w, g, m, v] = ["weights", "grads", "m", "v"].map((mode) => this.numbers(mode)[index]);
    const fill1 = 1 - CONFIG.beta1 ** done;
    const fill2 = 1 - CONFIG.beta2 ** done;
    const step = done
      ? (-learningRateAt(done - 1) * (m / fill1)) / (Math.sqrt(v / fill2) + CONFIG.epsilon)
      : 0;
    const bar = (label, x, whole, note) =>
      el(
        "div.loupe-row",
        {},
        el("span.loupe-name", {}, label),
        el(
          "div.loupe-track",
          {},
          el("div.loupe-bar", {
            class: `loupe-bar ${x < 0 ? "negative" : ""}`,
            style: { width: `${Math.min(1, Math.abs(x) / whole) * 50}%` },
          }),
        ),
        el("span.loupe-value", {}, fmt(x, 5)),
        el("span.loupe-note", {}, note),
      );
    const top = (mode) => largest(this.numbers(mode));
    renew(
      $("#loupe"),
      el("h4", {}, parameterName(index)),
      bar("value", w, top("weights"), "now"),
      bar("gradient", g, top("grads"), done ? "of the last name’s loss" : "train a step to see it"),
      bar("m", m, top("m"), `mean gradient: ${CONFIG.beta1} old + ${fmt(1 - CONFIG.beta1, 2)} new`),
      bar("v", v, top("v"), `mean square: ${CONFIG.beta2} old + ${fmt(1 - CONFIG.beta2, 2)} new`),
      bar(
        "last move",
        step,
        CONFIG.learningRate,
        "learning rate × m ÷ √v, both corrected for their empty start",
      ),
    );
  }
}

function showTraining() {
  showStatus();
  trainingView.chart.draw(training.losses);
  showLegend();
  showDocument();
  trainingView.loupe.show();
  trainingView.refreshTable();
}

function lossTable() {
  const { losses } = training;
  const rows = losses
    .map((loss, i) => [
      i + 1,
      fmt(loss, 6),
      fmt(meanAt(losses, i), 4),
      fmt(Python.run.losses[i], 6),
    ])
    .filter((_, i) => i < 10 || (i + 1) % 50 === 0);
  return table(
    "Losses: the first ten steps, then every fiftieth",
    ["step", "loss here", `mean of ${MEAN_OVER}`, "loss in Python"],
    rows,
  );
}

function startTraining() {
  trainingView.chart = new LossChart($("#loss-chart"), Python.run.losses);
  trainingView.chart.onLook = showLegend;
  trainingView.loupe = new Loupe();
  trainingView.refreshTable = tableTwin($("#loss-table"), lossTable);
  for (const button of $$("[data-train]"))
    button.onclick = () => train(Number(button.dataset.train));
  $("#train-pause").onclick = () => training.pause();
  $("#train-reset").onclick = () => {
    trainingView.chart.looked = -1;
    training.reset();
  };
  const speed = $("#train-speed");
  const showSpeed = () => {
    speed.nextElementSibling.textContent = speedWords(Number(speed.value));
    speed.setAttribute("aria-valuetext", speedWords(Number(speed.value)));
  };
  speed.oninput = () => {
    showSpeed();
    training.setSpeed(speedNow());
  };
  showSpeed();
  const changed = live("training", ["theme"], showTraining);
  live("training", ["param"], () => trainingView.loupe.show());
  training.on(perFrame(changed));
  enterActions.training = () => train(10);
}
