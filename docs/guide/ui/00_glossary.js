/* Every term the page explains: shown as a tip where it is used, and as a list at the foot. */
"use strict";

const GLOSSARY = {
  activation: {
    word: "activation function",
    text:
      "A fixed bend applied to each number. Without one, any stack of matrices would " +
      "collapse into a single matrix. Here it is ReLU.",
  },
  adam: {
    word: "Adam",
    text:
      "The rule that turns gradients into weight changes. For each weight it remembers the " +
      "recent direction (m) and the recent size (v) of the gradient, and moves by their ratio.",
  },
  attention: {
    word: "attention",
    text:
      "The step in which a position gathers information from earlier positions, taking " +
      "more from those whose key matches its query.",
  },
  autograd: {
    word: "autograd",
    text:
      "Keeping a record of every calculation, so that all gradients can be worked out " +
      "afterwards, backwards, by the chain rule.",
  },
  backward: {
    word: "backward pass",
    text:
      "Walking the graph of a calculation from its result to its inputs, multiplying " +
      "slopes, until every number knows its gradient.",
  },
  bos: {
    word: "BOS",
    text:
      "“Beginning of sequence”: an extra token that is not a letter. It stands before a " +
      "name, and after it too, so the model can say “the name ends here”.",
  },
  causal: {
    word: "causal",
    text:
      "Looking only backwards. A position may attend to itself and to earlier positions, " +
      "never to later ones, because when a name is being written those don’t exist yet.",
  },
  chain: {
    word: "chain rule",
    text:
      "If a changes b, and b changes c, the slope of c in a is the product of the two " +
      "slopes. All of training rests on this rule from school calculus.",
  },
  channel: { word: "channel", text: "One of the 16 numbers that describe a position." },
  context: {
    word: "context",
    text: "How many positions the model can hold at once: 16 here, one for BOS and 15 for letters.",
  },
  dataset: {
    word: "dataset",
    text: "The examples a model learns from. Here: 5,163 first names from the US census.",
  },
  distribution: {
    word: "distribution",
    text:
      "A share for each possible outcome. None is negative and together they make 1, that " +
      "is 100%.",
  },
  document: { word: "document", text: "One example of the dataset: here one name." },
  dot: {
    word: "dot product",
    text:
      "Multiply two lists of numbers pair by pair and add up the results. It is large when " +
      "the lists point the same way.",
  },
  embedding: {
    word: "embedding",
    text:
      "A list of numbers that stands for a token (or a position). The numbers start " +
      "random; training moves them.",
  },
  gradient: {
    word: "gradient",
    text:
      "How much the loss would move, per unit, if this one number moved a little. " +
      "Positive: increasing the number makes the loss worse.",
  },
  graph: {
    word: "graph",
    text: "Here: boxes for numbers, lines from each number to the ones computed from it.",
  },
  head: {
    word: "head",
    text:
      "One of four small attention mechanisms working side by side, each with its own 4 of " +
      "the 16 channels.",
  },
  inference: { word: "inference", text: "Using a trained model. Its weights no longer change." },
  key: {
    word: "key",
    text: "What a position offers: four numbers per head that queries are compared with.",
  },
  layer: {
    word: "layer",
    text:
      "One round of attention and thinking. This model has one; large ones have around a " +
      "hundred.",
  },
  learningrate: {
    word: "learning rate",
    text:
      "How large a step each weight may take. Here it falls evenly from 0.01 to 0 over " +
      "1,000 steps.",
  },
  linear: {
    word: "linear layer",
    text:
      "A matrix times a list of numbers: each output is the dot product of one row with " +
      "the input.",
  },
  logit: {
    word: "logit",
    text:
      "A raw score for a possible next token, before softmax turns scores into chances. " +
      "Any number, positive or negative.",
  },
  loss: {
    word: "loss",
    text:
      "How wrong the model is: the mean of −log(chance it gave to what really came next). " +
      "0 would be perfect.",
  },
  matrix: { word: "matrix", text: "A table of numbers with rows and columns." },
  mlp: {
    word: "MLP",
    text:
      "“Multi-layer perceptron”, the thinking layer: 16 numbers widen to 64, negatives " +
      "become 0, and the 64 narrow to 16 again.",
  },
  moment: {
    word: "moment",
    text:
      "Adam’s two memories of a weight: m is the running mean of its gradient, v that of " +
      "the gradient squared.",
  },
  overfit: {
    word: "overfitting",
    text: "Learning the examples by heart instead of what they have in common.",
  },
  parameter: {
    word: "parameter",
    text: "A number inside the model that training may change. Also called a weight.",
  },
  probability: {
    word: "probability",
    text: "A share of certainty between 0 (never) and 1 (always).",
  },
  query: {
    word: "query",
    text: "What a position looks for: four numbers per head that are compared with every key.",
  },
  relu: { word: "ReLU", text: "Keeps positive numbers and replaces negative ones by 0." },
  residual: {
    word: "residual connection",
    text:
      "A bypass: a block’s result is added to what went in, so nothing is lost and " +
      "gradients have a straight road back.",
  },
  rmsnorm: {
    word: "normalise (RMSNorm)",
    text:
      "Divide a list of numbers by its typical size, so that its numbers are about 1 and " +
      "later steps get inputs of a familiar size.",
  },
  sampling: {
    word: "sampling",
    text:
      "Drawing one outcome at random, each with its own chance, like spinning a wheel with " +
      "unequal slices.",
  },
  scalar: { word: "scalar", text: "A single number, as opposed to a list or a table of them." },
  seed: {
    word: "seed",
    text:
      "The number that starts a random generator. The same seed gives the same “random” " +
      "numbers, here and in Python.",
  },
  softmax: {
    word: "softmax",
    text: "Turns scores into chances: raise e to each score, then divide by the total.",
  },
  step: {
    word: "step",
    text:
      "One round of training: read a name, measure the loss, find the gradients, move " +
      "every weight a little.",
  },
  temperature: {
    word: "temperature",
    text:
      "Scores are divided by it before softmax. Below 1 favourites win more often; above 1 " +
      "chances even out.",
  },
  tensor: {
    word: "vector",
    text: "A list of numbers treated as one thing. Here most vectors have 16 numbers.",
  },
  token: {
    word: "token",
    text: "The unit a model reads: here a letter or BOS. Large models use pieces of words.",
  },
  tokenizer: { word: "tokenizer", text: "The two-way table between text and token numbers." },
  training: {
    word: "training",
    text: "Changing the parameters, step by step, so that the loss falls.",
  },
  value: {
    word: "value",
    text: "What a position hands over to those that attend to it: four numbers per head.",
  },
  vocabulary: {
    word: "vocabulary",
    text: "All the tokens a model knows: here 26 letters and BOS.",
  },
};
