/* One number that remembers where it came from: microgpt.py's Value, operation for operation.

   Each operation makes a new Value holding its inputs and the slope towards each of them.
   backward() walks the graph from the end to the start and multiplies slopes (the chain rule).
   Read: the constructor -> add, mul, pow, log, exp, relu -> backward. */
"use strict";

class Value {
  constructor(data, inputs = [], slopes = [], op = "") {
    this.data = data;
    this.grad = 0;
    this.inputs = inputs; // the Values this one was made from
    this.slopes = slopes; // d(this) / d(input), one for each input
    this.op = op; // what made it, for drawing only
  }

  static of(x) {
    return x instanceof Value ? x : new Value(x);
  }

  add(other) {
    other = Value.of(other);
    return new Value(this.data + other.data, [this, other], [1, 1], "+");
  }

  mul(other) {
    other = Value.of(other);
    return new Value(this.data * other.data, [this, other], [other.data, this.data], "×");
  }

  pow(k) {
    return new Value(this.data ** k, [this], [k * this.data ** (k - 1)], "^" + k);
  }

  log() {
    return new Value(Math.log(this.data), [this], [1 / this.data], "log");
  }

  exp() {
    const e = Math.exp(this.data);
    return new Value(e, [this], [e], "exp");
  }

  relu() {
    return new Value(Math.max(0, this.data), [this], [this.data > 0 ? 1 : 0], "relu");
  }

  neg() {
    return this.mul(-1);
  }
  sub(other) {
    return this.add(Value.of(other).neg());
  }
  div(other) {
    return this.mul(Value.of(other).pow(-1));
  }

  /** Inputs before outputs, each Value once. A loop, not recursion: deep graphs are fine. */
  inOrder() {
    const order = [];
    const seen = new Set([this]);
    const stack = [[this, 0]];
    while (stack.length) {
      const top = stack[stack.length - 1];
      const [value, turn] = top;
      if (turn === value.inputs.length) {
        order.push(value);
        stack.pop();
      } else {
        top[1]++;
        const child = value.inputs[turn];
        if (!seen.has(child)) {
          seen.add(child);
          stack.push([child, 0]);
        }
      }
    }
    return order;
  }

  /** Adds d(this)/d(v) to v.grad for every v this was made from. */
  backward() {
    const order = this.inOrder();
    this.grad = 1;
    for (let i = order.length - 1; i >= 0; i--) order[i].passBack();
  }

  /** One chain-rule step: hand my gradient, times the slope, to each of my inputs. */
  passBack() {
    for (let k = 0; k < this.inputs.length; k++) {
      this.inputs[k].grad += this.slopes[k] * this.grad;
    }
  }
}

/** Python's sum(): starts from 0 and adds left to right. */
function sumValues(values) {
  let total = new Value(0);
  for (const v of values) total = total.add(v);
  return total;
}
