/* "(a * b + c).relu()" becomes a graph of Values, or a sentence that says why not.

   A small hand-written parser: sum -> product -> sign -> power -> call -> atom, the same order of
   operations as in Python. Read: GRAPHS -> ExpressionParser -> buildGraph. */
"use strict";

const MOST_NODES = 26;

const GRAPHS = {
  addition: {
    text: "a + b",
    uses: "ab",
    lesson: "A sum passes its gradient on unchanged to both inputs.",
  },
  multiplication: {
    text: "a * b",
    uses: "ab",
    lesson: "A product gives each input the gradient times the other input.",
  },
  twice: {
    text: "a * a + b",
    uses: "ab",
    lesson: "a is used twice. Both contributions are added up.",
  },
  relu: {
    text: "relu(a * b + c)",
    uses: "abc",
    lesson: "Where relu’s input is negative, its slope is 0: nothing behind it gets a gradient.",
  },
  softmax: {
    text: "-log(exp(a) / (exp(a) + exp(b) + exp(c)))",
    uses: "abc",
    lesson:
      "The loss of a guess between three tokens with scores a, b, c, when the first was right. " +
      "The gradient of b is simply its chance, and that of a its chance minus 1.",
  },
};

class ExpressionProblem extends Error {}

class ExpressionParser {
  constructor(text, inputs) {
    const plain = text.replace(/[×·]/g, "*").replace(/\^/g, "**").replace(/−/g, "-");
    this.pieces = plain.match(/\*\*|[-+*/().]|\d+(?:\.\d+)?|\.\d+|[A-Za-z_]+|\S/g) || [];
    this.at = 0;
    this.inputs = inputs;
    this.made = 0;
  }

  peek() {
    return this.pieces[this.at];
  }
  take(wanted) {
    if (this.peek() !== wanted) return false;
    this.at++;
    return true;
  }
  expect(wanted) {
    if (this.take(wanted)) return;
    const found = this.peek() ? `found “${this.peek()}”` : "the text ends";
    throw new ExpressionProblem(`Here “${wanted}” is missing: ${found}.`);
  }

  parse() {
    if (!this.pieces.length)
      throw new ExpressionProblem("Type something with a, b or c, such as a * b + c.");
    const result = this.sum();
    if (this.peek()) throw new ExpressionProblem(`“${this.peek()}” can’t stand there.`);
    return result;
  }

  sum() {
    let left = this.product();
    for (;;) {
      if (this.take("+")) left = left.add(this.product());
      else if (this.take("-")) left = left.sub(this.product());
      else return left;
    }
  }

  product() {
    let left = this.sign();
    for (;;) {
      if (this.take("*")) left = left.mul(this.sign());
      else if (this.take("/")) left = left.mul(this.power(this.sign(), -1));
      else return left;
    }
  }

  sign() {
    return this.take("-") ? this.sign().neg() : this.powered();
  }

  powered() {
    const base = this.called();
    if (!this.take("**")) return base;
    const minus = this.take("-");
    const exponent = Number(this.peek());
    if (this.peek() === undefined || !Number.isFinite(exponent)) {
      throw new ExpressionProblem("After ** there must be a plain number: a ** 2.");
    }
    this.at++;
    return this.power(base, minus ? -exponent : exponent);
  }

  power(base, k) {
    if (base.data === 0 && k < 1) throw new ExpressionProblem("Division by zero: move a slider.");
    if (base.data < 0 && !Number.isInteger(k)) {
      throw new ExpressionProblem(`${fmt(base.data, 2)} has no power ${k}: move a slider.`);
    }
    return base.pow(k);
  }

  /** (x).relu() as in Python */
  called() {
    let value = this.atom();
    while (this.take(".")) {
      const name = this.pieces[this.at++];
      this.expect("(");
      this.expect(")");
      value = this.apply(name, value);
    }
    return value;
  }

  apply(name, x) {
    if (!["exp", "log", "relu"].includes(name)) {
      throw new ExpressionProblem(`“${name}” is unknown: there are a, b, c, exp, log and relu.`);
    }
    if (name === "log" && x.data <= 0) {
      throw new ExpressionProblem(
        `log needs a positive number and got ${fmt(x.data, 2)}: move a slider.`,
      );
    }
    return x[name]();
  }

  atom() {
    const piece = this.pieces[this.at++];
    if (piece === "(") {
      const inside = this.sum();
      this.expect(")");
      return inside;
    }
    if (Object.hasOwn(this.inputs, piece ?? "")) return this.inputs[piece];
    if (/^[\d.]+$/.test(piece ?? "")) return new Value(Number(piece));
    if (/^[A-Za-z_]+$/.test(piece ?? "")) {
      const name = piece;
      if (this.peek() !== "(") return this.apply(name, new Value(1));
      this.expect("(");
      const inside = this.sum();
      this.expect(")");
      return this.apply(name, inside);
    }
    throw new ExpressionProblem(
      piece ? `“${piece}” can’t stand there.` : "The text ends too early.",
    );
  }
}

/** {root, order, inputs}, or {problem: a sentence}. `order` has inputs before outputs. */
function buildGraph(text, numbers) {
  const inputs = {};
  for (const [name, x] of Object.entries(numbers)) {
    inputs[name] = new Value(x);
    inputs[name].name = name;
  }
  try {
    const root = new ExpressionParser(text, inputs).parse();
    const order = root.inOrder();
    if (order.length > MOST_NODES) {
      return {
        problem: `That makes ${order.length} boxes; ${MOST_NODES} fit the picture. Shorten it.`,
      };
    }
    for (const v of order) {
      if (!Number.isFinite(v.data) || !v.slopes.every(Number.isFinite)) {
        return { problem: "A number in there grows too large to compute with. Move a slider." };
      }
    }
    return { root, order, inputs };
  } catch (error) {
    if (error instanceof ExpressionProblem) return { problem: error.message };
    throw error;
  }
}
