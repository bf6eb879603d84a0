/* Section 5: heat maps of the four heads, arrows, one cell spelled out, and what bending does.

   Read: HeadMap -> drawArrows -> spellCell -> showBend. */
"use strict";

/** A T × T grid of cells; a grid for screen readers, arrows walk through it. The cells are empty
    and lie on a canvas with their colours and numbers: painting it needs no layout. */
class HeadMap {
  constructor(head, host) {
    Object.assign(this, { head, T: 0, cells: [], width: 0 });
    this.canvas = el("canvas.head-picture", { "aria-hidden": "true" });
    this.grid = el("div.head-grid", {
      role: "grid",
      tabindex: 0,
      "aria-label": `attention of head ${head}`,
    });
    this.grid.addEventListener("click", (event) => {
      const at = this.cells.indexOf(event.target.closest(".head-cell"));
      if (at >= 0) this.choose(Math.floor(at / this.T), at % this.T);
    });
    this.grid.addEventListener("keydown", (event) => this.walk(event));
    onWidth(this.canvas, (width) => {
      this.width = width;
      this.paint();
    });
    const frame = el("div.head-frame", {}, this.canvas, this.grid);
    host.append(el("div.head-card", {}, el("h4", {}, `head ${head}`), frame));
  }

  choose(pos, key) {
    if (key > pos) return;
    state.set({ head: this.head, pos, key });
  }

  walk(event) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const delta = move[event.key];
    if (!delta) return;
    event.preventDefault();
    event.stopPropagation();
    const pos = Math.max(0, Math.min(this.T - 1, positionNow() + delta[0]));
    this.choose(pos, Math.max(0, Math.min(pos, keyNow() + delta[1])));
  }

  /** Makes the cells for T positions; done only when the length of the word changes. */
  build(T) {
    this.T = T;
    this.grid.style.setProperty("--size", T);
    this.cells = Array.from({ length: T * T }, (_, i) =>
      el("div.head-cell", {
        role: "gridcell",
        id: `head${this.head}-${i}`,
      }),
    );
    this.labels = Array.from({ length: T }, () => el("div.head-label", { role: "rowheader" }));
    this.columns = Array.from({ length: T }, () => el("div.head-label", { role: "columnheader" }));
    const corner = el("div.head-label", { role: "columnheader" }, el("span.unseen", {}, "asks"));
    const rows = this.labels.map((label, t) =>
      el("div.head-row", { role: "row" }, label, this.cells.slice(t * T, (t + 1) * T)),
    );
    this.grid.replaceChildren(el("div.head-row", { role: "row" }, corner, this.columns), ...rows);
  }

  /** New numbers: colours and labels. The choice alone is cheaper, see mark(). */
  show(x, names) {
    if (this.T !== x.T) this.build(x.T);
    if (this.trace === x && this.theme === themeName()) return;
    this.trace = x;
    this.theme = themeName();
    const otherWord = this.word !== names.join();
    this.word = names.join();
    for (let t = 0; otherWord && t < x.T; t++) {
      const letter = names[t] === "BOS" ? "■" : names[t];
      this.labels[t].textContent = letter;
      this.columns[t].textContent = letter;
    }
    for (let t = 0; t < x.T; t++) {
      for (let s = 0; s < (otherWord ? x.T : t + 1); s++) this.describe(x, names, t, s);
    }
    this.paint();
  }

  describe(x, names, t, s) {
    const cell = this.cells[t * x.T + s];
    cell.classList.toggle("future", s > t);
    const share = s > t ? "not visible" : percent(attentionRow(x.weights, x, this.head, t)[s]);
    const place = `${names[t]} at ${t} looks at ${names[s]} at ${s}`;
    cell.setAttribute("aria-label", `${place}: ${share}`);
  }

  /** One square for each share, with its number where there is room. */
  paint() {
    if (!this.trace || !this.width) return;
    const { T, weights } = this.trace;
    const gap = 2; // as in the grid above it
    const size = (this.width - gap * (T - 1)) / T;
    const shades = mixtures("attn", "raised");
    const pen = sharpContext(this.canvas, this.width, this.width);
    pen.font = "11px ui-monospace, Menlo, Consolas, Liberation Mono, monospace";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let t = 0; t < T; t++) {
      for (let s = 0; s <= t; s++) {
        const percents = Math.round(weights[(this.head * T + t) * T + s] * 100);
        const [left, top] = [s * (size + gap), t * (size + gap)];
        const rgb = shades[percents];
        pen.fillStyle = `rgb(${rgb.join(" ")})`;
        pen.fillRect(left, top, size, size);
        if (size < 20) continue;
        pen.fillStyle = inkFor(rgb);
        pen.fillText(String(percents), left + size / 2, top + size / 2 + 1);
      }
    }
  }

  /** Outlines the row that asks and the chosen cell. */
  mark() {
    const [pos, key] = [positionNow(), keyNow()];
    const chosen = this.head === state.values.head ? pos * this.T + key : -1;
    this.cells.forEach((cell, i) => {
      cell.classList.toggle("in-row", Math.floor(i / this.T) === pos);
      cell.classList.toggle("chosen", i === chosen);
    });
    if (chosen >= 0) this.grid.setAttribute("aria-activedescendant", this.cells[chosen].id);
  }
}

const headMaps = [];
const attention = {
  refreshTable: () => {},
  bars: new ChanceBars("Chances of the next token"),
};

/** The chosen key, never in the future. */
function keyNow() {
  return Math.min(state.values.key, positionNow());
}

function namesOf(x) {
  return wordTokens().slice(0, x.T).map(tokenText);
}

function showHeads() {
  const x = traceNow(true);
  for (const map of headMaps) {
    map.show(x, namesOf(x));
    map.mark();
  }
  $$(".head-card").forEach((card, h) => {
    card.classList.toggle("silent", state.values.off.includes(String(h)));
    card.classList.toggle("selected", h === state.values.head);
  });
  drawArrows(x);
  spellCell(x);
}

/** Arcs from the asking position back to each position it may see; thickness is the share. */
function drawArrows(x) {
  const { head } = state.values;
  const [t, chosen] = [positionNow(), keyNow()];
  const names = namesOf(x);
  const gap = Math.min(84, 640 / x.T);
  const at = (i) => 40 + i * gap;
  const floor = 40 + Math.min(130, t * gap * 0.42);
  const shares = attentionRow(x.weights, x, head, t);
  const arcs = Array.from(shares, (share, s) => {
    const high = s === t ? 30 : Math.min(130, (t - s) * gap * 0.42) + 14;
    const d =
      s === t
        ? `M${at(t) - 8} ${floor} C${at(t) - 26} ${floor - 40} ${at(t) + 26} ${floor - 40} ` +
          `${at(t) + 8} ${floor}`
        : `M${at(t)} ${floor} C${at(t)} ${floor - high * 1.3} ${at(s)} ${floor - high * 1.3} ` +
          `${at(s)} ${floor}`;
    return svg("path", {
      d,
      class: `arc ${s === chosen ? "chosen" : ""}`,
      "stroke-width": Math.max(0.4, share * 15),
    });
  });
  const letters = names.map((n, i) =>
    svg(
      "g",
      {
        class: `arc-token ${i === t ? "asks" : ""} ${
          i > t ? "later" : ""
        } ${n === "BOS" ? "bos" : ""}`,
        onclick: () => state.set(i > t ? { pos: i } : { key: i }),
      },
      svg("rect", { x: at(i) - 17, y: floor + 4, width: 34, height: 30, rx: 7 }),
      svg("text.arc-name", { x: at(i), y: floor + 24 }, n),
      i <= t && svg("text.arc-share", { x: at(i), y: floor + 50 }, percent(shares[i])),
    ),
  );
  $("#arrow-head").textContent = `${head}`;
  renew(
    $("#arrows"),
    svg(
      "svg",
      {
        viewBox: `0 0 ${at(x.T - 1) + 40} ${floor + 58}`,
        role: "img",
        style: {
          "max-width": `${(at(x.T - 1) + 40) * 1.15}px`,
          "min-width": `${(at(x.T - 1) + 40) * 0.72}px`,
        },
        "aria-label": `Head ${head}: ${names[t]} at position ${t} looks at ${Array.from(
          shares,
          (p, s) => `${names[s]} ${percent(p)}`,
        ).join(", ")}`,
      },
      arcs,
      letters,
    ),
  );
}

/** The chosen cell from query and key to share, number by number. */
function spellCell(x) {
  const { head, sharp } = state.values;
  const [t, s] = [positionNow(), keyNow()];
  const names = namesOf(x);
  const [q, k] = [headPart(row(x.q, t), head), headPart(row(x.k, s), head)];
  const products = Array.from(q, (v, i) => v * k[i]);
  const sum = products.reduce((a, b) => a + b, 0);
  const limit = largest([...q, ...k, ...products]);
  const line = (title, numbers) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, title),
      Array.from(numbers, (v) =>
        el(
          "td",
          { style: { background: rampColour(v, limit), color: inkOn(v, limit) } },
          fmt(v, 2),
        ),
      ),
    );
  const scores = attentionRow(x.scores, x, head, t);
  const share = attentionRow(x.weights, x, head, t)[s];
  const bent =
    sharp === 1 ? "" : ` The slider below multiplies every score by ${fmt(sharp, 2)} first.`;
  renew(
    $("#dot"),
    el(
      "div.table-scroll",
      { tabindex: 0, role: "region", "aria-label": "query times key" },
      el(
        "table.dot-table",
        {},
        el(
          "tbody",
          {},
          line(`query of ${names[t]} (position ${t})`, q),
          line(`key of ${names[s]} (position ${s})`, k),
          line("product, pair by pair", products),
        ),
      ),
    ),
    el(
      "p.formula",
      {},
      `${products.map((p) => bracket(p)).join(" + ")} = ${fmt(sum, 3)};  ` +
        `÷ √4 = ${fmt(scores[s], 3)}`,
    ),
    el(
      "p",
      {},
      `So head ${head} scores this pair ${fmt(scores[s], 3)}. Against the other scores in the ` +
        `row (${Array.from(scores, (v) => fmt(v, 2)).join(", ")}), softmax makes that a share of `,
      el("strong", {}, percent(share)),
      `.${bent}`,
    ),
  );
}

/** The guess with attention bent, beside the guess as it is. */
function showBend() {
  const t = positionNow();
  const [before, after] = [probsAt(traceNow(), t), probsAt(traceNow(true), t)];
  const next = wordTokens()[t + 1];
  const moved = before.reduce((sum, p, i) => sum + Math.abs(p - after[i]), 0) / 2;
  const seen = wordTokens()
    .slice(0, t + 1)
    .map((id) => (id === BOS ? "■" : LETTERS[id]))
    .join("");
  attention.bars.show(after, { before, wanted: next });
  const { sharp, off } = state.values;
  const plain = sharp === 1 && !off;
  $("#bend-say").textContent = plain
    ? `After “${seen}” the model finds ${TOKEN_NAMES[mostLikely(before)]} most likely ` +
      `(${percent(Math.max(...before))}). Bend something and the outlines keep these chances.`
    : `${percent(moved)} of the chance has moved. Most likely after “${seen}”: ` +
      `${TOKEN_NAMES[mostLikely(after)]} (${percent(Math.max(...after))}), was ` +
      `${TOKEN_NAMES[mostLikely(before)]} (${percent(Math.max(...before))}). The true next ` +
      `token, ${tokenText(next)}: ${percent(before[next])} → ${percent(after[next])}.`;
  $$("#head-switches input").forEach((box, h) => {
    box.checked = !off.includes(String(h));
  });
  attention.refreshTable();
}

function bendTable() {
  const t = positionNow();
  const [before, after] = [probsAt(traceNow(), t), probsAt(traceNow(true), t)];
  return table(
    "Chances of the next token",
    ["token", "as it is", "bent"],
    TOKEN_NAMES.map((n, i) => [n, percent(before[i]), percent(after[i])]),
  );
}

function sharpWords(x) {
  if (x === 0) return "uniform";
  return x === 1 ? "as trained" : `scores × ${fmt(x, 2)}`;
}

function startAttention() {
  positionPicker($("#attn-positions"));
  for (const h of heads) headMaps.push(new HeadMap(h, $("#heads")));
  slider($("#sharp"), "sharp", sharpWords);
  $("#head-switches").append(
    ...heads.map((h) =>
      el(
        "label.switch",
        {},
        el("input", {
          type: "checkbox",
          checked: true,
          onchange: (event) => {
            const off = state.values.off.replace(String(h), "") + (event.target.checked ? "" : h);
            state.set({ off: [...off].sort().join("") });
          },
        }),
        ` head ${h}`,
      ),
    ),
  );
  $("#bend-bars").append(attention.bars.node);
  $("#attn-restore").onclick = () => state.set({ sharp: 1, off: "" });
  attention.refreshTable = tableTwin($("#bend-table"), bendTable);
  live("attention", ["word", "pos", "key", "head", "sharp", "off", "model"], showHeads);
  live("attention", ["word", "pos", "sharp", "off", "model"], showBend);
  steppers.attention = {
    by: (d) =>
      state.set({
        pos: Math.max(0, Math.min(readableWord().length, positionNow() + d)),
      }),
  };
}
