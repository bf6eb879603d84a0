/* The same model on plain arrays of numbers, with the gradient worked out by hand.

   About a thousand times faster than Values, and equal to them to 1e-9 (a test and the page's
   "verify" button check it). Every intermediate result is kept, because the page shows them all.
   Shapes: T positions, C = 16, H = 4, D = 4, F = 64, V = 27; x[t * C + c] is row t, column c.
   The way forward never looks ahead, so rows `from` to T - 1 can be added to earlier ones.
   Read: forward -> backward -> Adam. */
"use strict";

/** out[t] = W in[t] for each row t. W has `rows` rows of `cols` numbers from `start`. */
function applyMatrix(out, weights, { rows, cols, start }, input, T, from = 0) {
  for (let t = from; t < T; t++) {
    for (let r = 0; r < rows; r++) {
      let total = 0;
      const w = start + r * cols;
      for (let c = 0; c < cols; c++) total += weights[w + c] * input[t * cols + c];
      out[t * rows + r] = total;
    }
  }
}

/** The gradient of applyMatrix: adds to the weights' gradient and to the input's. */
function applyMatrixBack(dOut, weights, grads, { rows, cols, start }, input, dInput, T) {
  for (let t = 0; t < T; t++) {
    for (let r = 0; r < rows; r++) {
      const d = dOut[t * rows + r];
      if (d === 0) continue;
      const w = start + r * cols;
      for (let c = 0; c < cols; c++) {
        grads[w + c] += d * input[t * cols + c];
        dInput[t * cols + c] += d * weights[w + c];
      }
    }
  }
}

/** RMSNorm of each row; keeps each row's scale for the way back. */
function normRows(out, scales, input, T, from = 0) {
  const C = CONFIG.channels;
  for (let t = from; t < T; t++) {
    let squares = 0;
    for (let c = 0; c < C; c++) squares += input[t * C + c] ** 2;
    scales[t] = (squares / C + 1e-5) ** -0.5;
    for (let c = 0; c < C; c++) out[t * C + c] = input[t * C + c] * scales[t];
  }
}

/** d(input) += the gradient of normRows: out = x s, and s itself moves with every x. */
function normRowsBack(dInput, dOut, scales, input, T) {
  const C = CONFIG.channels;
  for (let t = 0; t < T; t++) {
    const s = scales[t];
    let dot = 0;
    for (let c = 0; c < C; c++) dot += dOut[t * C + c] * input[t * C + c];
    const pull = (dot * s * s * s) / C;
    for (let c = 0; c < C; c++) {
      dInput[t * C + c] += dOut[t * C + c] * s - input[t * C + c] * pull;
    }
  }
}

/** Softmax of `count` numbers from `at`, in place. Subtracting the top keeps exp() finite. */
function softmaxInPlace(numbers, at, count) {
  let top = -Infinity;
  for (let i = 0; i < count; i++) top = Math.max(top, numbers[at + i]);
  let total = 0;
  for (let i = 0; i < count; i++) {
    numbers[at + i] = Math.exp(numbers[at + i] - top);
    total += numbers[at + i];
  }
  for (let i = 0; i < count; i++) numbers[at + i] /= total;
}

/** Empty arrays for every intermediate result of T positions. */
function newTrace(T) {
  const { channels: C, hidden: F, vocabulary: V, heads: H } = CONFIG;
  const rows = (width) => new Float64Array(T * width);
  return {
    T,
    tokenRow: rows(C),
    positionRow: rows(C),
    embedded: rows(C),
    norm0: rows(C),
    norm1: rows(C),
    q: rows(C),
    k: rows(C),
    v: rows(C),
    scores: rows(H * T),
    weights: rows(H * T),
    gathered: rows(C),
    attnOut: rows(C),
    resid1: rows(C),
    norm2: rows(C),
    hidden: rows(F),
    active: rows(F),
    mlpOut: rows(C),
    resid2: rows(C),
    logits: rows(V),
    probs: rows(V),
    scale0: rows(1),
    scale1: rows(1),
    scale2: rows(1),
  };
}

/** All four heads. scores[(h x.T + t) x.T + s]: how query t of head h scores key s <= t. */
function attend(x, { sharpness = 1, silenced = [] } = {}, T = x.T, from = 0) {
  const { channels: C, heads: H, headSize: D } = CONFIG;
  for (let h = 0; h < H; h++) {
    for (let t = from; t < T; t++) {
      const row = (h * x.T + t) * x.T;
      for (let s = 0; s <= t; s++) {
        let dot = 0;
        for (let j = h * D; j < h * D + D; j++) dot += x.q[t * C + j] * x.k[s * C + j];
        x.scores[row + s] = dot / D ** 0.5;
        x.weights[row + s] = x.scores[row + s] * sharpness;
      }
      softmaxInPlace(x.weights, row, t + 1);
      for (let j = h * D; j < h * D + D; j++) {
        let mixed = 0;
        for (let s = 0; s <= t; s++) mixed += x.weights[row + s] * x.v[s * C + j];
        x.gathered[t * C + j] = silenced.includes(h) ? 0 : mixed;
      }
    }
  }
}

/** Runs tokens[0..T-1] through the model and keeps everything. `lab` bends attention (section 5):
    {sharpness: 1 is the model itself, 0 is uniform; silenced: heads switched off}. */
function forward(weights, tokens, T, lab) {
  return forwardRows(newTrace(T), weights, tokens, 0, T, lab);
}

/** The same for positions `from` to T - 1 only; `x` holds those before and has room for these. */
function forwardRows(x, weights, tokens, from, T, lab) {
  const { channels: C, hidden: F, vocabulary: V } = CONFIG;
  const m = LAYOUT;
  const apply = (out, matrix, input) => applyMatrix(out, weights, matrix, input, T, from);
  for (let t = from; t < T; t++) {
    for (let c = 0; c < C; c++) {
      const i = t * C + c;
      x.tokenRow[i] = weights[m.token.start + tokens[t] * C + c];
      x.positionRow[i] = weights[m.position.start + i];
      x.embedded[i] = x.tokenRow[i] + x.positionRow[i];
    }
  }
  normRows(x.norm0, x.scale0, x.embedded, T, from);
  normRows(x.norm1, x.scale1, x.norm0, T, from);
  apply(x.q, m.query, x.norm1);
  apply(x.k, m.key, x.norm1);
  apply(x.v, m.value, x.norm1);
  attend(x, lab, T, from);
  apply(x.attnOut, m.mix, x.gathered);
  for (let i = from * C; i < T * C; i++) x.resid1[i] = x.attnOut[i] + x.norm0[i];
  normRows(x.norm2, x.scale2, x.resid1, T, from);
  apply(x.hidden, m.up, x.norm2);
  for (let i = from * F; i < T * F; i++) x.active[i] = Math.max(0, x.hidden[i]);
  apply(x.mlpOut, m.down, x.active);
  for (let i = from * C; i < T * C; i++) x.resid2[i] = x.mlpOut[i] + x.resid1[i];
  apply(x.logits, m.head, x.resid2);
  for (let i = from * V; i < T * V; i++) x.probs[i] = x.logits[i];
  for (let t = from; t < T; t++) softmaxInPlace(x.probs, t * V, V);
  return x;
}

/** Surprise at each position, and their mean: the loss of one document. */
function lossOf(x, tokens) {
  const each = new Float64Array(x.T);
  let total = 0;
  for (let t = 0; t < x.T; t++) {
    each[t] = -Math.log(x.probs[t * CONFIG.vocabulary + tokens[t + 1]]);
    total += each[t];
  }
  return { each, mean: total * (1 / x.T) };
}

/** Gradient of attend(): from d(gathered) to d(q), d(k), d(v). */
function attendBack(x, dGathered, dq, dk, dv) {
  const { channels: C, heads: H, headSize: D } = CONFIG;
  const { T } = x;
  const dWeight = new Float64Array(T);
  for (let h = 0; h < H; h++) {
    for (let t = 0; t < T; t++) {
      const row = (h * T + t) * T;
      let mean = 0;
      for (let s = 0; s <= t; s++) {
        dWeight[s] = 0;
        for (let j = h * D; j < h * D + D; j++) {
          dWeight[s] += dGathered[t * C + j] * x.v[s * C + j];
          dv[s * C + j] += dGathered[t * C + j] * x.weights[row + s];
        }
        mean += dWeight[s] * x.weights[row + s];
      }
      for (let s = 0; s <= t; s++) {
        const dScore = (x.weights[row + s] * (dWeight[s] - mean)) / D ** 0.5;
        for (let j = h * D; j < h * D + D; j++) {
          dq[t * C + j] += dScore * x.k[s * C + j];
          dk[s * C + j] += dScore * x.q[t * C + j];
        }
      }
    }
  }
}

/** d(mean loss) / d(every weight), for one document whose trace is `x`. */
function backward(weights, tokens, x) {
  const { channels: C, hidden: F, vocabulary: V } = CONFIG;
  const { T } = x;
  const m = LAYOUT;
  const grads = new Float64Array(PARAMETERS);
  const zeros = (width) => new Float64Array(T * width);
  const dLogits = Float64Array.from(x.probs, (p) => p / T);
  for (let t = 0; t < T; t++) dLogits[t * V + tokens[t + 1]] -= 1 / T;

  const dResid2 = zeros(C);
  applyMatrixBack(dLogits, weights, grads, m.head, x.resid2, dResid2, T);
  const dResid1 = dResid2.slice(); // the bypass arrow hands the gradient on unchanged
  const dActive = zeros(F);
  applyMatrixBack(dResid2, weights, grads, m.down, x.active, dActive, T);
  for (let i = 0; i < dActive.length; i++) if (x.hidden[i] <= 0) dActive[i] = 0;
  const dNorm2 = zeros(C);
  applyMatrixBack(dActive, weights, grads, m.up, x.norm2, dNorm2, T);
  normRowsBack(dResid1, dNorm2, x.scale2, x.resid1, T);

  const dNorm0 = dResid1.slice();
  const [dGathered, dq, dk, dv, dNorm1] = [zeros(C), zeros(C), zeros(C), zeros(C), zeros(C)];
  applyMatrixBack(dResid1, weights, grads, m.mix, x.gathered, dGathered, T);
  attendBack(x, dGathered, dq, dk, dv);
  applyMatrixBack(dq, weights, grads, m.query, x.norm1, dNorm1, T);
  applyMatrixBack(dk, weights, grads, m.key, x.norm1, dNorm1, T);
  applyMatrixBack(dv, weights, grads, m.value, x.norm1, dNorm1, T);
  normRowsBack(dNorm0, dNorm1, x.scale1, x.norm0, T);
  const dEmbedded = zeros(C);
  normRowsBack(dEmbedded, dNorm0, x.scale0, x.embedded, T);
  for (let t = 0; t < T; t++) {
    for (let c = 0; c < C; c++) {
      grads[m.token.start + tokens[t] * C + c] += dEmbedded[t * C + c];
      grads[m.position.start + t * C + c] += dEmbedded[t * C + c];
    }
  }
  return grads;
}

/** One Adam step, in place: `m` remembers the gradient's direction, `v` its size. */
function adamStep(weights, grads, m, v, step) {
  const { beta1, beta2, epsilon } = CONFIG;
  const rate = learningRateAt(step);
  const fill1 = 1 - beta1 ** (step + 1); // both memories start empty; these undo that bias
  const fill2 = 1 - beta2 ** (step + 1);
  for (let i = 0; i < weights.length; i++) {
    m[i] = beta1 * m[i] + (1 - beta1) * grads[i];
    v[i] = beta2 * v[i] + (1 - beta2) * grads[i] ** 2;
    weights[i] -= (rate * (m[i] / fill1)) / (Math.sqrt(v[i] / fill2) + epsilon);
  }
}
