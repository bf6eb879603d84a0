/* Training and generating: the two loops at the end of microgpt.py.

   Trainer owns weights, Adam's memories and the shuffled names, and takes one document a step.
   generate() draws one name; the generator it is given decides every letter.
   Read: Trainer.step -> generate -> compareWithPython. */
"use strict";

class Trainer {
  constructor(names) {
    const { rng, docs, weights } = initialState(names);
    Object.assign(this, { rng, docs, weights });
    this.grads = new Float64Array(PARAMETERS);
    this.m = new Float64Array(PARAMETERS);
    this.v = new Float64Array(PARAMETERS);
    this.losses = [];
  }

  get done() {
    return this.losses.length;
  }

  /** One step of training. Says which document it used; after the last step it does nothing. */
  step() {
    if (this.done >= CONFIG.steps) return null;
    const word = this.docs[this.done % this.docs.length];
    const tokens = tokenize(word);
    const trace = forward(this.weights, tokens, Math.min(CONFIG.context, tokens.length - 1));
    const loss = lossOf(trace, tokens);
    this.grads = backward(this.weights, tokens, trace);
    adamStep(this.weights, this.grads, this.m, this.v, this.done);
    this.losses.push(loss.mean);
    return { word, each: loss.each, mean: loss.mean };
  }
}

/** One name, letter by letter: [{token, draw, probs}]. Stops at BOS or when the context is full. */
function generate(weights, rng, temperature) {
  const V = CONFIG.vocabulary;
  const tokens = [BOS];
  const picks = [];
  const x = newTrace(CONFIG.context);
  while (tokens.length <= CONFIG.context) {
    const t = tokens.length - 1; // positions before it keep their keys and values
    forwardRows(x, weights, tokens, t, t + 1);
    const probs = x.logits.slice(t * V, (t + 1) * V).map((score) => score / temperature);
    softmaxInPlace(probs, 0, V);
    const { pick, draw } = rng.choose(probs);
    picks.push({ token: pick, draw, probs });
    if (pick === BOS) break;
    tokens.push(pick);
  }
  return picks;
}

function wordOf(picks) {
  return picks
    .filter((p) => p.token !== BOS)
    .map((p) => LETTERS[p.token])
    .join("");
}

/** The 20 names microgpt.py prints, from a trained state and the generator it left behind. */
function finalSamples(weights, rng) {
  return Array.from({ length: CONFIG.samples }, () =>
    wordOf(generate(weights, rng, CONFIG.temperature)),
  );
}

/** Repeats Python's run and reports the largest difference. `python` holds its printed figures.
    valueSteps steps are also taken with Values; progress(fraction) is called now and then. */
function compareWithPython(names, python, valueSteps, progress = () => {}) {
  const trainer = new Trainer(names);
  const report = { steps: 0, maxLossGap: 0, valueSteps, maxValueGap: 0, namesEqual: 0 };
  const slow = { weights: trainer.weights.slice(), m: trainer.m.slice(), v: trainer.v.slice() };
  for (let step = 0; step < CONFIG.steps; step++) {
    const { word, mean } = trainer.step();
    report.maxLossGap = Math.max(report.maxLossGap, Math.abs(mean - python.losses[step]));
    if (step < valueSteps) {
      const gap = Math.abs(scalarStep(slow, tokenize(word), step) - python.losses[step]);
      report.maxValueGap = Math.max(report.maxValueGap, gap);
    }
    report.steps++;
    if (step < valueSteps || step % 50 === 0) progress(report.steps / CONFIG.steps);
  }
  report.samples = finalSamples(trainer.weights, trainer.rng);
  report.namesEqual = report.samples.filter((s, i) => s === python.samples[i]).length;
  report.equal =
    report.maxLossGap <= 1e-9 &&
    report.maxValueGap <= 1e-9 &&
    report.namesEqual === python.samples.length;
  return report;
}

/** One training step with Values instead of arrays. Returns the loss. */
function scalarStep(state, tokens, step) {
  const model = new ScalarGPT(state.weights);
  const loss = model.loss(tokens);
  loss.backward();
  const grads = Float64Array.from(model.parameters, (p) => p.grad);
  adamStep(state.weights, grads, state.m, state.v, step);
  return loss.data;
}
