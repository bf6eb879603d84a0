/* The three sets of weights a visitor can look at, and what they make of the word at hand.

   born: as seed 42 made them.  trained: what Python had after its last step, carried in this file.
   mine: what section 6 trained here.  Read: Python -> models -> traceNow. */
"use strict";

/** What microgpt.py itself printed, and the names, as carried in this file. */
const Python = {
  run: JSON.parse($("#python-run").textContent),
  ...JSON.parse($("#first-names").textContent), // count, first
  source: $("#microgpt-source").textContent,

  weights() {
    const bytes = Uint8Array.from(atob(this.run.weights), (ch) => ch.charCodeAt(0));
    return new Float64Array(bytes.buffer);
  },

  /** All names, unpacked. Asked for once. */
  names() {
    this.unpacking ??= (async () => {
      const bytes = Uint8Array.from(atob($("#packed-names").textContent.replace(/\s/g, "")), (ch) =>
        ch.charCodeAt(0),
      );
      const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return (await new Response(unpacked).text()).trim().split("\n");
    })();
    return this.unpacking;
  },
};

const models = {
  born: initialState(new Array(Python.count).fill("")).weights,
  trained: Python.weights(),
  mine: null,
  version: 0, // rises whenever the weights in use change

  get current() {
    return this[state.values.model] ?? this.trained;
  },

  label() {
    const { model } = state.values;
    if (model === "born") return "untrained: random numbers from seed 42";
    if (model === "trained") return `trained by Python for ${commas(CONFIG.steps)} steps`;
    return `trained by you for ${commas(training.done)} steps`;
  },

  /** New weights from section 6; whoever shows the model draws again. */
  setMine(weights) {
    this.mine = weights;
    this.version++;
    if (state.values.model === "mine") state.tell(["model"]);
    else state.set({ model: "mine" });
  },
};

const readable = { typed: null, word: "" };

/** The word in use, or "olivia" while what is typed can't be read. */
function readableWord() {
  const { word } = state.values;
  if (readable.typed !== word) {
    readable.typed = word;
    readable.word = whyNotReadable(word) ? DEFAULTS.word[0] : word;
  }
  return readable.word;
}

/** Position in use, inside the word. */
function positionNow() {
  return Math.min(state.values.pos, readableWord().length);
}

const traces = new Map();

/** The model run on the word in use, with section 5's switches if asked. Kept until it changes. */
function traceNow(bent = false) {
  const { sharp, off, model } = state.values;
  const lab = bent ? { sharpness: sharp, silenced: Array.from(off, Number) } : undefined;
  const key = JSON.stringify([readableWord(), model, models.version, lab]);
  if (!traces.has(key)) {
    if (traces.size > 8) traces.clear();
    const tokens = tokenize(readableWord());
    traces.set(key, forward(models.current, tokens, tokens.length - 1, lab));
  }
  return traces.get(key);
}

/** The 27 chances for the token after position t. */
function probsAt(x, t) {
  return x.probs.slice(t * CONFIG.vocabulary, (t + 1) * CONFIG.vocabulary);
}
