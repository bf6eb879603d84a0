/* The questions. Every answer is computed here and now. */
"use strict";

const partSizes = () => {
  const sizes = {};
  for (const [name, { size }] of Object.entries(LAYOUT)) {
    sizes[PART_OF[name]] = (sizes[PART_OF[name]] || 0) + size;
  }
  return sizes;
};

/** The trained model's chances for the next letter after `word`. */
function trainedChances(word) {
  const tokens = tokenize(word).slice(0, -1);
  return probsAt(forward(models.trained, tokens, tokens.length), tokens.length - 1);
}

const mostLikely = (probs) => probs.indexOf(Math.max(...probs));

const QUESTIONS = {
  tokens: {
    ask: "How many tokens does the model get to see for the name “ada”, all told?",
    options: () => ["3", "4", "5"],
    answer: () => String(tokenize("ada").length),
    why: () =>
      "Three letters, one BOS before them and one behind: even the end of a name is " +
      "something the model must learn to predict.",
  },
  firstletter: {
    ask: `Of the first ${Python.first.length} names in training order, how many end in “a”?`,
    range: { low: 0, high: 100, step: 1, close: 10 },
    answer: () => Python.first.filter((n) => n.endsWith("a")).length,
    why: () =>
      "Counted in the list this page carries. A model that only learned this one fact " +
      "would already beat blind guessing.",
  },
  slope: {
    ask: "f = a × b with a = 2 and b = −1.5. What is the gradient of f in a?",
    options: () => ["2", "−1.5", "−3"],
    answer: () => {
      const [a, b] = [new Value(2), new Value(-1.5)];
      a.mul(b).backward();
      return fmt(a.grad, 1).replace(".0", "");
    },
    why: () =>
      "Raise a by 1 and f changes by exactly b. In a product each factor’s slope is the " +
      "other factor.",
  },
  twice: {
    ask: "f = a × a with a = 3. Which gradient does a get?",
    options: () => ["3", "6", "9"],
    answer: () => {
      const a = new Value(3);
      a.mul(a).backward();
      return String(a.grad);
    },
    why: () =>
      "a enters twice, so it gets two contributions of 3, and they add up. That is why " +
      "backward() uses += and not =.",
  },
  biggest: {
    ask: "Which part owns most of the parameters?",
    options: () => Object.values(PART_NAMES),
    answer: () => {
      const sizes = partSizes();
      return PART_NAMES[Object.keys(sizes).reduce((a, b) => (sizes[a] >= sizes[b] ? a : b))];
    },
    why: () =>
      `Its two matrices hold ${commas(partSizes().mlp)} of ${commas(PARAMETERS)}. In large ` +
      "models, too, most parameters sit there.",
  },
  relu: {
    ask: "For “emma” at position 1: of the 64 widened numbers, how many become 0 in ReLU?",
    range: { low: 0, high: 64, step: 1, close: 6 },
    answer: () => {
      const tokens = tokenize("emma");
      const x = forward(models.trained, tokens, tokens.length - 1);
      return x.hidden.slice(64, 128).filter((h) => h <= 0).length;
    },
    why: () =>
      "Counted in the trained model. Each zero is a detector that found nothing here, and " +
      "for this position its weights might as well not exist.",
  },
  future: {
    ask: "In a triangle of attention weights for 5 positions, how many cells are in use?",
    options: () => ["10", "15", "25"],
    answer: () => String([1, 2, 3, 4, 5].reduce((sum, seen) => sum + seen, 0)),
    why: () =>
      "1 + 2 + 3 + 4 + 5: each position sees itself and what came before, never the future.",
  },
  uniform: {
    ask: "With attention perfectly uniform, how much weight does position 3 give to each position?",
    range: { low: 0, high: 100, step: 1, unit: "%", close: 3 },
    answer: () => {
      const tokens = tokenize("emma");
      const x = forward(models.trained, tokens, 5, { sharpness: 0 });
      return x.weights[3 * 5] * 100;
    },
    why: () => "Positions 0, 1, 2 and 3 share 100% evenly. Drag the slider to 0 and check.",
  },
  firstloss: {
    ask: "A model that knows nothing gives each of 27 tokens the same chance. What is its loss?",
    range: { low: 0, high: 6, step: 0.1, close: 0.25, digits: 2 },
    answer: () => -Math.log(1 / CONFIG.vocabulary),
    why: () =>
      `−log(1/27). The first loss Python printed was ${fmt(Python.run.losses[0], 3)}: just ` +
      "about that.",
  },
  lastrate: {
    ask: "What is the learning rate at step 750 of 1,000?",
    options: () => ["0.0100", "0.0075", "0.0025"],
    answer: () => fmt(learningRateAt(750), 4),
    why: () =>
      "A quarter of the way is left, so a quarter of 0.01 is left. It reaches 0 at the " +
      "end, and this page never lets it go below.",
  },
  afterq: {
    ask: "The trained model has read “jo”. Which letter does it find most likely next?",
    options: () => {
      const top = Array.from(trainedChances("jo"), (p, i) => [p, i]).sort((a, b) => b[0] - a[0]);
      return top
        .slice(0, 3)
        .map(([, i]) => TOKEN_NAMES[i])
        .sort();
    },
    answer: () => TOKEN_NAMES[mostLikely(trainedChances("jo"))],
    why: () => {
      const probs = trainedChances("jo");
      const like = Python.first.filter((n) => n.startsWith("jo")).join(", ");
      return (
        `It gives that ${percent(Math.max(...probs))}. Among the first ${Python.first.length} ` +
        `names it read: ${like}.`
      );
    },
  },
  hot: {
    ask: "At temperature 2 instead of 0.5, the favourite’s chance becomes …",
    options: () => ["larger", "smaller", "the same"],
    answer: () => {
      const at = (t) => {
        const scores = Array.from(trainedChances("jo"), (p) => Math.log(p) / t);
        softmaxInPlace(scores, 0, scores.length);
        return Math.max(...scores);
      };
      return at(2) > at(0.5) ? "larger" : at(2) < at(0.5) ? "smaller" : "the same";
    },
    why: () =>
      "Dividing the scores by 2 brings them closer together, so the chances even out and " +
      "the names get wilder.",
  },
};
