/* The panel with the true source of microgpt.py beside each section.

   A region is named by what its first and last line contain, so that it survives edits above it; a
   test finds every region in the file. Read: REGIONS -> linesOf -> CodePanel. */
"use strict";

/** name: [a piece of the first line, a piece of the last line at or after it] */
const REGIONS = {
  readLines: ["def read_lines", "return [line for line"],
  tokens: ["class Tokens", "return [self.bos"],
  value: ["class Value", "self.slopes = slopes"],
  add: ["def __add__", "(1, 1))"],
  mul: ["def __mul__", "(other.data, self.data))"],
  pow: ["def __pow__", "k * self.data"],
  exp: ["def exp", "(y,))"],
  log: ["def log", "1 / self.data"],
  relu: ["def relu", "float(self.data > 0)"],
  neg: ["def __neg__", "self * -1"],
  sub: ["def __sub__", "self + (-other)"],
  div: ["def __truediv__", "other**-1"],
  backward: ["self.grad = 1.0", "source.grad +="],
  makeWeights: ["def make_weights", '"down":'],
  "w:token": ['"token": matrix', '"token": matrix'],
  "w:position": ['"position": matrix', '"position": matrix'],
  "w:head": ['"head": matrix', '"head": matrix'],
  "w:query": ['"query": matrix', '"query": matrix'],
  "w:key": ['"key": matrix', '"key": matrix'],
  "w:value": ['"value": matrix', '"value": matrix'],
  "w:mix": ['"mix": matrix', '"mix": matrix'],
  "w:up": ['"up": matrix', '"up": matrix'],
  "w:down": ['"down": matrix', '"down": matrix'],
  linear: ["def linear", "return [add_up(w * xi"],
  softmax: ["def softmax", "return [p / total"],
  normalise: ["def normalise", "return [xi * scale"],
  attend: ["def attend", "return linear(answer"],
  query: ["query = linear", "query = linear"],
  key: ["keys.append", "keys.append"],
  valueRow: ["values.append", "values.append"],
  scores: ["scores = [add_up(query", "scores = [add_up(query"],
  share: ["share = softmax", "share = softmax"],
  gather: ["answer += ", "answer += "],
  mix: ["return linear(answer", "return linear(answer"],
  think: ["def think", "return linear([activation"],
  lookUp: ['pair = zip(weights["token"]', 'pair = zip(weights["token"]'],
  embed: ["x = normalise([t + p", "x = normalise([t + p"],
  attnBlock: ["x = [a + b for a, b in zip(attend", "x = [a + b for a, b in zip(attend"],
  mlpBlock: ["x = [a + b for a, b in zip(think", "x = [a + b for a, b in zip(think"],
  headRow: ['return linear(x, weights["head"])', 'return linear(x, weights["head"])'],
  nextScores: ["def next_scores", 'return linear(x, weights["head"])'],
  loss: ["def loss_of", "return add_up(surprises)"],
  surprise: ["surprises.append", "surprises.append"],
  train: ["def train(", "yield loss.data"],
  forwardBack: ["loss = loss_of(tokens.encode", "loss.backward()"],
  adam: ["rate = preset.rate(", "p.grad = 0.0"],
  sample: ["def sample(", "return text"],
  drawToken: ["chances = softmax(", "token = rng.choices"],
};

/** [first, last] line numbers of a region, from 1; null where the source lacks it. */
function linesOf(source, region) {
  const [first, last] = REGIONS[region];
  const lines = source.split("\n");
  const from = lines.findIndex((line) => line.includes(first));
  if (from < 0) return null;
  const to = lines.findIndex((line, i) => i >= from && line.includes(last));
  return to < 0 ? null : [from + 1, to + 1];
}

const PY_WORDS = "def|class|return|for|in|if|else|elif|while|import|from|yield|not|is|None|break";
const PY_PIECES = new RegExp(`#.*$|"[^"]*"|\\b(?:${PY_WORDS})\\b|\\w+|[^#"\\w]+|.`, "g");
const PY_WORD = new RegExp(`^(?:${PY_WORDS})$`);

/** Comments, strings and keywords told apart. Gives one list of nodes a line. */
function colourSource(source) {
  let inside = false; // a docstring of several lines
  return source.split("\n").map((line) => {
    const opens = line.split('"""').length % 2 === 0;
    const whole = inside || opens;
    if (opens) inside = !inside;
    if (whole) return [el("span.py-text", {}, line)];
    return (line.match(PY_PIECES) || []).map((piece) => {
      if (piece[0] === "#") return el("span.py-note", {}, piece);
      if (piece[0] === '"') return el("span.py-text", {}, piece);
      return PY_WORD.test(piece) ? el("span.py-word", {}, piece) : piece;
    });
  });
}

const codePanels = {};

/** A fold beside a section. The text is made when it is first opened. */
class CodePanel {
  constructor(section) {
    this.section = section;
    this.regions = section.dataset.code.split(" ");
    this.list = el("ol.code-lines");
    this.note = el("p.code-where");
    this.body = el(
      "div.code-body",
      { id: `code-${section.id}`, hidden: true },
      this.note,
      el("pre.code-scroll", { tabindex: 0, "aria-label": "microgpt.py" }, this.list),
    );
    this.button = el(
      "button.code-button",
      {
        type: "button",
        "aria-expanded": "false",
        "aria-controls": this.body.id,
        onclick: () => this.toggle(this.body.hidden),
      },
      "Show the Python behind this",
    );
    $(".section-head", section).append(this.button);
    section.append(el("div.code-panel", {}, this.body));
    codePanels[section.id] = this;
  }

  toggle(open) {
    this.body.hidden = !open;
    this.section.classList.toggle("code-open", open);
    this.button.setAttribute("aria-expanded", String(open));
    this.button.textContent = open ? "Hide the Python" : "Show the Python behind this";
    if (open && !this.list.children.length) {
      this.list.append(
        ...colourSource(Python.source).map((pieces) => el("li", {}, el("code", {}, pieces, "\n"))),
      );
    }
    if (open) this.light();
  }

  /** Marks what runs now and brings it into the panel's view. */
  show(regions) {
    this.regions = regions;
    if (!this.body.hidden) this.light();
  }

  light() {
    const spans = this.regions.map((r) => linesOf(Python.source, r)).filter(Boolean);
    const lit = (n) => spans.some(([from, to]) => n >= from && n <= to);
    [...this.list.children].forEach((li, i) => li.classList.toggle("lit", lit(i + 1)));
    const names = spans.map(([from, to]) => (from === to ? `line ${from}` : `lines ${from}–${to}`));
    this.note.textContent = `microgpt.py, ${names.join(", ")}`;
    const first = this.list.children[Math.min(...spans.map(([from]) => from)) - 1];
    const scroller = this.list.parentElement;
    if (first) scroller.scrollTop = Math.max(0, first.offsetTop - scroller.clientHeight / 3);
  }
}
