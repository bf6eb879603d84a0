"""Page one: a whole GPT in one file. Nothing to install; everything later only makes it faster.

    python microgpt.py                                      learn to invent names, in minutes
    python microgpt.py --preset a --data FILE --steps 50    another recipe, your own lines of text
    python microgpt.py --data FILE --json                   one JSON object, for programs

Read from top to bottom: text -> tokens, Value (numbers that remember where they came from),
weights, the model, training, making up new text, the command line.
The seed is fixed, so the same file gives the same losses to the last bit.
"""

import argparse
import hashlib
import json
import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

WIDTH = 16  # how many numbers describe one token
HEADS = 4  # how many questions each token may ask about its past
HEAD_SIZE = WIDTH // HEADS
SEED = 42
NAMES = Path(__file__).parent / "nanochat" / "scalar" / "data" / "census_names.txt"


# --- 1. Text becomes tokens ----------------------------------------------------------------------
# A token is a whole number. Every different character gets one, in alphabetical order; one more,
# BOS, marks where a line begins and ends:  "eve"  ->  [26, 4, 21, 4, 26].


def read_lines(path: Path) -> list[str]:
    """One document a line, without blank lines."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


class Tokens:
    """The character table of a text. `bos` is the last id, so there are bos + 1 ids in all."""

    def __init__(self, lines: list[str]) -> None:
        self.characters = sorted(set("".join(lines)))
        self.bos = len(self.characters)

    def encode(self, line: str) -> list[int]:
        return [self.bos, *(self.characters.index(c) for c in line), self.bos]


# --- 2. Numbers that remember --------------------------------------------------------------------
# Each operation makes a new Value that keeps its inputs and, for each input, a slope: how much the
# result moves when that input moves a little. The chain rule then walks back through the slopes.


class Value:
    __slots__ = ("data", "grad", "inputs", "slopes")

    def __init__(self, data: float, inputs: tuple = (), slopes: tuple = ()) -> None:
        self.data = data  # the number itself
        self.grad = 0.0  # how much the loss moves when this number moves; backward() fills it in
        self.inputs = inputs
        self.slopes = slopes

    def __add__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, k: float) -> "Value":
        return Value(self.data**k, (self,), (k * self.data ** (k - 1),))

    def exp(self) -> "Value":
        y = math.exp(self.data)
        return Value(y, (self,), (y,))

    def log(self) -> "Value":
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self) -> "Value":
        return Value(max(0.0, self.data), (self,), (float(self.data > 0),))

    # Everything else is made of those.
    def __neg__(self) -> "Value":
        return self * -1

    def __sub__(self, other: "Value | float") -> "Value":
        return self + (-other)

    def __truediv__(self, other: "Value | float") -> "Value":
        return self * other**-1

    def backward(self) -> None:
        """Add d(self)/d(v) to v.grad, for every v that self was made of."""
        # 1) Put every value after its inputs. A stack, not recursion: Python's is only 1000 deep.
        order: list[Value] = []
        seen: set[Value] = set()
        waiting: list[Value] = []  # values whose inputs are not all in `order` yet
        stack: list[Value | None] = [self]
        while stack:
            value = stack.pop()
            if value is None:  # the mark below the inputs of the last one waiting
                order.append(waiting.pop())
            elif value not in seen:
                seen.add(value)
                waiting.append(value)
                stack.append(None)
                stack += value.inputs[::-1]
        # 2) The chain rule, from the loss backwards. A value used twice gets two contributions.
        self.grad = 1.0
        for value in reversed(order):
            for source, slope in zip(value.inputs, value.slopes, strict=True):
                source.grad += slope * value.grad


def add_up(values: Iterable[Value]) -> Value:
    return sum(values, start=Value(0.0))


Vector = list[Value]
Weights = dict[str, list[Vector]]


# --- 3. Two recipes and their weights ------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    block: int  # the longest context, in tokens
    steps: int  # the full schedule
    std: float  # spread of the random first weights
    out_std: float  # the same for the two matrices that write back into the stream
    activation: Callable[[Value], Value]
    beta1: float  # Adam: how slowly the mean gradient is forgotten
    beta2: float  # Adam: how slowly its mean square is forgotten
    rate: Callable[[int, int], float]  # learning rate from the step and the number of steps


PRESETS = {
    "a": Preset(
        8, 500, 0.02, 0.0, lambda v: v.relu() ** 2, 0.9, 0.95,
        rate=lambda step, steps: 0.01 * 0.5 * (1 + math.cos(math.pi * step / steps)),
    ),
    "b": Preset(
        16, 1000, 0.08, 0.08, lambda v: v.relu(), 0.85, 0.99,
        rate=lambda step, steps: 0.01 * (1 - step / steps),
    ),
}  # fmt: skip


def make_weights(preset: Preset, n_tokens: int, rng: random.Random) -> Weights:
    """Small random numbers: named matrices, each a list of rows with one row per output."""

    def matrix(rows: int, columns: int, std: float) -> list[Vector]:
        return [[Value(rng.gauss(0, std)) for _ in range(columns)] for _ in range(rows)]

    return {
        "token": matrix(n_tokens, WIDTH, preset.std),  # what each token is
        "position": matrix(preset.block, WIDTH, preset.std),  # where it stands
        "head": matrix(n_tokens, WIDTH, preset.std),  # a score for each next token
        "query": matrix(WIDTH, WIDTH, preset.std),  # what a token asks for
        "key": matrix(WIDTH, WIDTH, preset.std),  # what it offers
        "value": matrix(WIDTH, WIDTH, preset.std),  # what it hands over
        "mix": matrix(WIDTH, WIDTH, preset.out_std),  # the four heads' answers, together
        "up": matrix(4 * WIDTH, WIDTH, preset.std),  # a wide layer to think in ...
        "down": matrix(WIDTH, 4 * WIDTH, preset.out_std),  # ... and back
    }


def every(weights: Weights) -> Vector:
    """All weights in one list, always in the same order."""
    return [v for rows in weights.values() for row in rows for v in row]


# --- 4. The model --------------------------------------------------------------------------------


def linear(x: Vector, matrix: list[Vector]) -> Vector:
    return [add_up(w * xi for w, xi in zip(row, x, strict=True)) for row in matrix]


def softmax(scores: Vector) -> Vector:
    """Scores become probabilities: all positive, and they add up to 1."""
    top = max(v.data for v in scores)  # exp(800) overflows; exp(0) cannot
    powers = [(v - top).exp() for v in scores]
    total = add_up(powers)
    return [p / total for p in powers]


def normalise(x: Vector) -> Vector:
    """RMSNorm: scale a vector so that its numbers are about 1 in size."""
    mean_square = add_up(xi * xi for xi in x) / len(x)
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attend(x: Vector, weights: Weights, past: tuple[list[Vector], list[Vector]]) -> Vector:
    """Ask every earlier token; take its value in proportion to how well its key answers."""
    keys, values = past
    query = linear(x, weights["query"])
    keys.append(linear(x, weights["key"]))
    values.append(linear(x, weights["value"]))
    answer: Vector = []
    for start in range(0, WIDTH, HEAD_SIZE):
        part = range(start, start + HEAD_SIZE)  # the columns that belong to this head
        scores = [add_up(query[j] * key[j] for j in part) / HEAD_SIZE**0.5 for key in keys]
        share = softmax(scores)
        answer += [add_up(s * v[j] for s, v in zip(share, values, strict=True)) for j in part]
    return linear(answer, weights["mix"])


def think(x: Vector, weights: Weights, activation: Callable[[Value], Value]) -> Vector:
    return linear([activation(h) for h in linear(x, weights["up"])], weights["down"])


def next_scores(token: int, position: int, weights: Weights, preset: Preset, past: tuple) -> Vector:
    """One token in, a score for every possible next token out. `past` grows by one token."""
    pair = zip(weights["token"][token], weights["position"][position], strict=True)
    x = normalise([t + p for t, p in pair])
    x = [a + b for a, b in zip(attend(normalise(x), weights, past), x, strict=True)]
    x = [a + b for a, b in zip(think(normalise(x), weights, preset.activation), x, strict=True)]
    return linear(x, weights["head"])


# --- 5. Training ---------------------------------------------------------------------------------


def loss_of(tokens: list[int], weights: Weights, preset: Preset) -> Value:
    """The mean surprise at each next token: 0 for a perfect guess, log(27) = 3.3 for no idea."""
    n = min(preset.block, len(tokens) - 1)
    past: tuple[list[Vector], list[Vector]] = ([], [])
    surprises = []
    for position in range(n):
        scores = next_scores(tokens[position], position, weights, preset, past)
        surprises.append(-softmax(scores)[tokens[position + 1]].log())
    return add_up(surprises) * (1 / n)


def train(
    lines: list[str], tokens: Tokens, weights: Weights, preset: Preset, steps: int
) -> Iterator[float]:
    """Show one line a step, nudge every weight against its gradient (Adam), yield the loss."""
    parameters = every(weights)
    mean = [0.0] * len(parameters)  # of recent gradients
    square = [0.0] * len(parameters)  # of recent squared gradients
    for step in range(steps):
        loss = loss_of(tokens.encode(lines[step % len(lines)]), weights, preset)
        loss.backward()
        rate = preset.rate(step, preset.steps)
        mean_share = 1 - preset.beta1 ** (step + 1)  # both started at 0: undo that bias
        square_share = 1 - preset.beta2 ** (step + 1)
        for i, p in enumerate(parameters):
            mean[i] = preset.beta1 * mean[i] + (1 - preset.beta1) * p.grad
            square[i] = preset.beta2 * square[i] + (1 - preset.beta2) * p.grad**2
            p.data -= rate * (mean[i] / mean_share) / ((square[i] / square_share) ** 0.5 + 1e-8)
            p.grad = 0.0
        yield loss.data


# --- 6. Making up new text -----------------------------------------------------------------------


def sample(
    tokens: Tokens, weights: Weights, preset: Preset, rng: random.Random, temperature: float = 0.5
) -> str:
    """Start from BOS; draw a token, feed it back, until BOS comes or the context is full."""
    past: tuple[list[Vector], list[Vector]] = ([], [])
    text, token = "", tokens.bos
    for position in range(preset.block):
        scores = next_scores(token, position, weights, preset, past)
        chances = softmax([s / temperature for s in scores])  # below 1: bolder about the favourite
        token = rng.choices(range(tokens.bos + 1), weights=[c.data for c in chances])[0]
        if token == tokens.bos:
            break
        text += tokens.characters[token]
    return text


# --- 7. The command line -------------------------------------------------------------------------


def fingerprint(weights: Weights) -> str:
    """A hash that changes if any weight changes in its last bit."""
    return hashlib.sha256(json.dumps([repr(p.data) for p in every(weights)]).encode()).hexdigest()


def learn(lines: list[str], preset: Preset, steps: int) -> dict:
    """The whole run. Fingerprints are taken before, after 20 steps and at the end."""
    rng = random.Random(SEED)
    rng.shuffle(lines)
    tokens = Tokens(lines)
    weights = make_weights(preset, tokens.bos + 1, rng)
    fingerprints, losses = {"init": fingerprint(weights)}, []
    for step, loss in enumerate(train(lines, tokens, weights, preset, steps), 1):
        losses.append(loss)
        print(f"\rstep {step:4} of {steps} | loss {loss:.4f}", end="", file=sys.stderr)
        if step == 20:
            fingerprints["20"] = fingerprint(weights)
    print(file=sys.stderr)
    fingerprints["end"] = fingerprint(weights)
    samples = [sample(tokens, weights, preset, rng) for _ in range(20)]
    return {"losses": losses, "samples": samples, "fingerprints": fingerprints}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a GPT on lines of text, invent more.")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="b", help="recipe, b if not given"
    )
    parser.add_argument("--data", type=Path, default=NAMES, help="text, one document a line")
    parser.add_argument("--steps", type=int, help="stop early; the schedule stays the full one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args(argv)
    preset = PRESETS[flags.preset]
    steps = preset.steps if flags.steps is None else flags.steps
    if not 0 <= steps <= preset.steps:
        parser.error(f"--steps {steps}: preset {flags.preset} has a schedule of {preset.steps}")
    try:
        lines = read_lines(flags.data)
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--data {flags.data} can't be read as text: {error}")
    if not lines:
        parser.error(f"--data {flags.data} has no line of text: give one document a line")
    result = learn(lines, preset, steps)
    print(json.dumps(result) if flags.json else "\n".join(result["samples"]))


if __name__ == "__main__":
    main()
