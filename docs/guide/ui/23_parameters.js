/* Section 3: all nine matrices to one scale, a closer look, and which letters are alike.

   Read: parameterName -> MatrixPicture -> openZoom -> showAlike. */
"use strict";

const PURPOSE = {
  token: "what a token is, in 16 numbers",
  position: "where a token stands, in 16 numbers",
  query: "turns a position’s numbers into what it asks for",
  key: "turns a position’s numbers into what it offers",
  value: "turns a position’s numbers into what it hands over",
  mix: "brings the four heads’ answers together",
  up: "widens 16 numbers to 64: each row looks for one pattern",
  down: "narrows 64 numbers to 16: each column says what a found pattern means",
  head: "scores each possible next token, one row a token",
};
const GROUPS = [
  ["embed", ["token", "position"]],
  ["attn", ["query", "key", "value", "mix"]],
  ["mlp", ["down", "up"]],
  ["output", ["head"]],
];

function matrixOf(index) {
  return Object.values(LAYOUT).find(({ start, size }) => index >= start && index < start + size);
}

function rowName(name, row) {
  return name === "token" || name === "head" ? tokenText(row) : String(row);
}

/** "token[e][3]" for parameter number 67. */
function parameterName(index) {
  const { name, cols, start } = matrixOf(index);
  const [row, col] = [Math.floor((index - start) / cols), (index - start) % cols];
  return `${name}[${rowName(name, row)}][${col}]`;
}

/** A canvas that shows rows × cols numbers and tells which one is pointed at or walked to. */
class MatrixPicture {
  constructor({ rows, cols, start, name }, choose) {
    Object.assign(this, { rows, cols, start, name, choose, row: 0, col: 0 });
    this.canvas = el("canvas.heat", { style: { "--rows": rows, "--cols": cols } });
    this.canvas.addEventListener("pointermove", (event) => {
      const box = this.canvas.getBoundingClientRect();
      this.to(
        Math.floor(((event.clientY - box.top) / box.height) * rows),
        Math.floor(((event.clientX - box.left) / box.width) * cols),
      );
    });
  }

  to(row, col) {
    this.row = Math.max(0, Math.min(this.rows - 1, row));
    this.col = Math.max(0, Math.min(this.cols - 1, col));
    this.choose(this.start + this.row * this.cols + this.col, this);
  }

  /** Lets the arrow keys walk from number to number. */
  walkable(label) {
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `${label}; arrows move from number to number`);
    this.canvas.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const delta = move[event.key];
      if (!delta) return;
      event.preventDefault();
      event.stopPropagation();
      this.to(this.row + delta[0], this.col + delta[1]);
    });
    return this;
  }

  paint(numbers, limit) {
    paint(
      this.canvas,
      numbers.subarray(this.start, this.start + this.rows * this.cols),
      this.rows,
      this.cols,
      limit,
    );
  }
}

const matrixPictures = [];

function buildMatrices() {
  const readout = $("#matrix-readout");
  const choose = (index) => {
    const { name } = matrixOf(index);
    readout.textContent =
      `${parameterName(index)} = ${fmt(models.current[index], 4)}: ` + `${PURPOSE[name]}`;
    codePanels.parameters?.show([`w:${name}`]);
  };
  $("#matrices").append(
    ...GROUPS.map(([part, names]) =>
      el(
        `div.matrix-group.${part}`,
        {},
        el("h3", {}, PART_NAMES[part]),
        el(
          "div.matrix-row",
          {},
          names.map((name) => {
            const shape = LAYOUT[name];
            const picture = new MatrixPicture(shape, choose);
            matrixPictures.push(picture);
            return el(
              "button.matrix",
              {
                type: "button",
                onclick: () => openZoom(name),
                onfocus: () => choose(shape.start),
                "aria-label":
                  `${name}, ${shape.rows} rows of ${shape.cols}: ${PURPOSE[name]}. ` +
                  `Look closer`,
              },
              picture.canvas,
              el("span.matrix-name", {}, name),
              el("span.matrix-shape", {}, `${shape.rows} × ${shape.cols}`),
            );
          }),
          part === "mlp" &&
            el(
              "p.matrix-note",
              {},
              "Each row of “up” is a detector that looks for one " +
                "pattern in the 16 numbers. The column of “down” with the same number says " +
                "what follows when it " +
                "finds it: 64 small if-then rules, none of them written by a person.",
            ),
        ),
      ),
    ),
  );
}

function paintMatrices() {
  const weights = models.current;
  const limit = largest(weights) / 2;
  for (const picture of matrixPictures) picture.paint(weights, limit);
  $("#matrix-limit").textContent = fmt(limit, 2);
}

function buildCounter() {
  const sizes = partSizes();
  $("#counter").replaceChildren(
    el(
      "p.counter-total",
      {},
      el("strong", {}, commas(PARAMETERS)),
      " numbers: ",
      Object.entries(sizes).map(([part, n], i) => [
        i ? " + " : "",
        el(`span.count.${part}`, {}, `${commas(n)} ${PART_NAMES[part]}`),
      ]),
    ),
    el(
      "div.counter-bar",
      { "aria-hidden": "true" },
      Object.entries(sizes).map(([part, n]) => el(`div.${part}`, { style: { flex: n } })),
    ),
  );
}

/** Mean, spread and extremes of a matrix, for its closer look. */
function summary(numbers) {
  const mean = numbers.reduce((a, b) => a + b, 0) / numbers.length;
  const spread = Math.sqrt(numbers.reduce((a, x) => a + (x - mean) ** 2, 0) / numbers.length);
  return { mean, spread, low: Math.min(...numbers), high: Math.max(...numbers) };
}

/** How many numbers fall in each of 31 equal bins. */
function histogram(numbers, bins = 31) {
  const limit = largest(numbers);
  const counts = new Array(bins).fill(0);
  for (const x of numbers) counts[Math.min(bins - 1, Math.floor(((x / limit + 1) / 2) * bins))]++;
  const top = Math.max(...counts);
  return el(
    "div.histogram",
    {
      role: "img",
      "aria-label": `How the values spread from ${fmt(-limit, 2)} to ${fmt(limit, 2)}`,
    },
    counts.map((n, i) =>
      el("div", {
        style: {
          height: `${(n / top) * 100}%`,
          background: rampColour(((i + 0.5) / bins) * 2 - 1, 1),
        },
      }),
    ),
  );
}

function openZoom(name) {
  const shape = LAYOUT[name];
  const weights = models.current;
  const numbers = weights.subarray(shape.start, shape.start + shape.size);
  const readout = el("p.readout", { "aria-live": "polite" }, "Point, or use the arrow keys.");
  const picture = new MatrixPicture(shape, (index) => {
    readout.textContent = `${parameterName(index)} = ${fmt(weights[index], 6)}`;
  }).walkable(`${name}, ${shape.rows} rows of ${shape.cols}`);
  picture.paint(weights, largest(numbers));
  const { mean, spread, low, high } = summary(numbers);
  const twin = el("div");
  tableTwin(twin, () =>
    table(
      `All of ${name}`,
      ["row", ...Array(shape.cols).keys()],
      Array.from({ length: shape.rows }, (_, r) => [
        rowName(name, r),
        ...Array.from(numbers.subarray(r * shape.cols, (r + 1) * shape.cols), (x) => fmt(x, 3)),
      ]),
    ),
  );
  $("#zoom-title").textContent = `${name}: ${shape.rows} × ${shape.cols}`;
  $("#zoom-body").replaceChildren(
    el(
      "p",
      {},
      `It ${
        PURPOSE[name].startsWith("turns") ||
        PURPOSE[name].startsWith("brings") ||
        PURPOSE[name].startsWith("scores") ||
        PURPOSE[name].startsWith("widens") ||
        PURPOSE[name].startsWith("narrows")
          ? ""
          : "says "
      }${PURPOSE[name]}.`,
    ),
    el("div.zoom-heat", {}, picture.canvas),
    readout,
    histogram(numbers),
    el(
      "p.quiet",
      {},
      `From ${fmt(low)} to ${fmt(high)}, mean ${fmt(mean)}, ` +
        `typical distance from the mean ${fmt(spread)}. Weights: ${models.label()}.`,
    ),
    twin,
  );
  showZoom();
}

/** Not modal: making 5,000 elements inert would take longer than drawing the picture. */
function showZoom() {
  const zoom = $("#zoom");
  const opener = document.activeElement;
  const leave = (event) => {
    const outside = event.type === "pointerdown" && !zoom.contains(event.target);
    if (outside || event.key === "Escape") zoom.close();
  };
  if (!zoom.open) zoom.show();
  $(".zoom-close").focus();
  document.addEventListener("pointerdown", leave);
  document.addEventListener("keydown", leave);
  zoom.onclose = () => {
    document.removeEventListener("pointerdown", leave);
    document.removeEventListener("keydown", leave);
    opener.focus({ preventScroll: true });
  };
}

/** Cosine of the angle between two letters' embeddings: 1 same direction, 0 unrelated. */
function alikeness(weights, u, v) {
  const { start, cols } = LAYOUT.token;
  let [uv, uu, vv] = [0, 0, 0];
  for (let c = 0; c < cols; c++) {
    const [a, b] = [weights[start + u * cols + c], weights[start + v * cols + c]];
    uv += a * b;
    uu += a * a;
    vv += b * b;
  }
  return uv / Math.sqrt(uu * vv);
}

let alikeLetter = 0;

function showAlike() {
  const ranked = Array.from({ length: CONFIG.vocabulary }, (_, id) => id)
    .filter((id) => id !== alikeLetter)
    .map((id) => [id, alikeness(models.current, alikeLetter, id)])
    .sort((p, q) => q[1] - p[1]);
  const row = ([id, x]) =>
    el(
      "div.alike-row",
      {},
      tile(id),
      el(
        "div.alike-track",
        {},
        el("div.alike-bar", {
          class: `alike-bar ${x < 0 ? "negative" : ""}`,
          style: { width: `${Math.abs(x) * 100}%` },
        }),
      ),
      el("span", {}, fmt(x, 2)),
    );
  renew(
    $("#alike"),
    el(
      "div.alike-columns",
      {},
      el(
        "div",
        {},
        el("h4", {}, `Most like ${tokenText(alikeLetter)}`),
        ranked.slice(0, 4).map(row),
      ),
      el(
        "div",
        {},
        el("h4", {}, `Least like ${tokenText(alikeLetter)}`),
        ranked.slice(-4).reverse().map(row),
      ),
    ),
    el(
      "p.quiet",
      {},
      "Cosine of the angle between two embeddings: 1 is the same direction, " +
        `0 unrelated, ${MINUS}1 opposite.`,
    ),
  );
  $$("#alike-letters button").forEach((b, i) => {
    b.setAttribute("aria-pressed", String(i === alikeLetter));
  });
}

function startParameters() {
  buildCounter();
  buildMatrices();
  live("parameters", ["model"], paintMatrices);
  $("#alike-letters").append(
    ...Array.from({ length: CONFIG.vocabulary }, (_, id) =>
      el(
        "button",
        {
          type: "button",
          onclick: () => {
            alikeLetter = id;
            showAlike();
          },
        },
        tokenText(id),
      ),
    ),
  );
  live("parameters", ["model"], showAlike);
}
