/* microgpt.py's tokenizer, parameters and model, on Values: slow, and exactly the Python.

   This is the reference the fast engine is tested against. Shapes: T positions, C = 16 numbers a
   position, H = 4 heads, D = 4 numbers a head, V = 27 tokens.
   Read: CONFIG -> SHAPES -> tokenize -> initialWeights -> ScalarGPT. */
"use strict";

const CONFIG = Object.freeze({
  channels: 16,
  heads: 4,
  headSize: 4,
  context: 16,
  vocabulary: 27,
  hidden: 64,
  steps: 1000,
  learningRate: 0.01,
  beta1: 0.85,
  beta2: 0.99,
  epsilon: 1e-8,
  initSpread: 0.08,
  temperature: 0.5,
  samples: 20,
  seed: 42,
});

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const BOS = 26;

/** Every matrix in the order microgpt.py draws it: name, rows (outputs), columns (inputs). */
const SHAPES = Object.freeze([
  ["token", 27, 16],
  ["position", 16, 16],
  ["head", 27, 16],
  ["query", 16, 16],
  ["key", 16, 16],
  ["value", 16, 16],
  ["mix", 16, 16],
  ["up", 64, 16],
  ["down", 16, 64],
]);

/** name -> {rows, cols, start}: where a matrix lies in the one long list of parameters. */
const LAYOUT = (() => {
  const layout = {};
  let start = 0;
  for (const [name, rows, cols] of SHAPES) {
    layout[name] = { name, rows, cols, start, size: rows * cols };
    start += rows * cols;
  }
  return Object.freeze(layout);
})();

const PARAMETERS = SHAPES.reduce((n, [, rows, cols]) => n + rows * cols, 0);

/** "ada" -> [26, 0, 3, 0, 26]. */
function tokenize(word) {
  return [BOS, ...Array.from(word, (ch) => LETTERS.indexOf(ch)), BOS];
}

function tokenText(id) {
  return id === BOS ? "BOS" : LETTERS[id];
}

/** Why a word can't be read, in a sentence, or "" if it can. */
function whyNotReadable(word) {
  const strange = Array.from(word).filter((ch) => !LETTERS.includes(ch));
  if (strange.length) {
    const listed = [...new Set(strange)].map((ch) => `“${ch}”`).join(", ");
    return (
      `${listed} is not one of the 27 tokens: this model knows the letters a to z and BOS. ` +
      "Use small letters without accents, spaces or digits."
    );
  }
  const most = CONFIG.context - 1;
  if (word.length > most) {
    return (
      `${word.length} letters are too many: the model has ${CONFIG.context} positions, ` +
      `one for BOS and ${most} for letters. Take away ${word.length - most}.`
    );
  }
  return "";
}

/** Learning rate of a step counted from 0: falls in a straight line, and never below zero. */
function learningRateAt(step) {
  return CONFIG.learningRate * Math.max(0, 1 - step / CONFIG.steps);
}

/** Seed 42, shuffle the names, draw the weights. Gives the generator back for sampling. */
function initialState(names) {
  const rng = new PythonRandom(CONFIG.seed);
  const docs = names.slice();
  rng.shuffle(docs);
  const weights = new Float64Array(PARAMETERS);
  for (let i = 0; i < PARAMETERS; i++) weights[i] = rng.gauss(0, CONFIG.initSpread);
  return { rng, docs, weights };
}

class ScalarGPT {
  constructor(weights) {
    this.parameters = Array.from(weights, (w) => new Value(w));
    this.matrices = {};
    for (const { name, rows, cols, start } of Object.values(LAYOUT)) {
      this.matrices[name] = Array.from({ length: rows }, (_, r) =>
        this.parameters.slice(start + r * cols, start + (r + 1) * cols),
      );
    }
  }

  static linear(x, w) {
    return w.map((row) => sumValues(row.map((weight, i) => weight.mul(x[i]))));
  }

  static softmax(scores) {
    const top = Math.max(...scores.map((s) => s.data));
    const exps = scores.map((s) => s.sub(top).exp());
    const total = sumValues(exps);
    return exps.map((e) => e.div(total));
  }

  static normalise(x) {
    const meanSquare = sumValues(x.map((xi) => xi.mul(xi))).div(x.length);
    const scale = meanSquare.add(1e-5).pow(-0.5);
    return x.map((xi) => xi.mul(scale));
  }

  /** Scores for the next token, from this token, its position and the keys and values so far. */
  next(token, position, keys, values) {
    const m = this.matrices;
    let x = m.token[token].map((t, i) => t.add(m.position[position][i]));
    x = ScalarGPT.normalise(x);
    let before = x;
    x = this.attention(ScalarGPT.normalise(x), keys, values).map((a, i) => a.add(before[i]));
    before = x;
    x = ScalarGPT.linear(ScalarGPT.normalise(x), m.up).map((h) => h.relu());
    x = ScalarGPT.linear(x, m.down).map((a, i) => a.add(before[i]));
    return ScalarGPT.linear(x, m.head);
  }

  attention(x, keys, values) {
    const m = this.matrices;
    const q = ScalarGPT.linear(x, m.query);
    keys.push(ScalarGPT.linear(x, m.key));
    values.push(ScalarGPT.linear(x, m.value));
    const gathered = [];
    for (let h = 0; h < CONFIG.heads; h++) {
      const mine = Array.from({ length: CONFIG.headSize }, (_, j) => h * CONFIG.headSize + j);
      const scores = keys.map((k) =>
        sumValues(mine.map((j) => q[j].mul(k[j]))).div(CONFIG.headSize ** 0.5),
      );
      const weights = ScalarGPT.softmax(scores);
      for (const j of mine) {
        gathered.push(sumValues(weights.map((w, t) => w.mul(values[t][j]))));
      }
    }
    return ScalarGPT.linear(gathered, m.mix);
  }

  /** Mean surprise over one document, as a Value ready for backward(). */
  loss(tokens) {
    const n = Math.min(CONFIG.context, tokens.length - 1);
    const keys = [];
    const values = [];
    const losses = [];
    for (let t = 0; t < n; t++) {
      const probs = ScalarGPT.softmax(this.next(tokens[t], t, keys, values));
      losses.push(probs[tokens[t + 1]].log().neg());
    }
    return new Value(1 / n).mul(sumValues(losses));
  }
}
