"""The mini-GPT one number at a time: Values compute it, Nodes record it, with the same lines.

microgpt.py tells the story of the model; here it has options (layers, heads, width, context, tied
head, norms, activation) and adds up in the same order, so the presets give the same bits.
Read: attend -> think -> next_scores -> surprises -> mean_surprise. C width, D head size.
"""

from collections.abc import Iterator, Sequence

from nanochat.scalar import bigram
from nanochat.scalar.bigram import Number, Vector, linear, normalise, softmax
from nanochat.scalar.shape import Shape

Weights = dict[str, list[list[Number]]]
Past = list[tuple[list[Vector], list[Vector]]]  # for each layer the keys and values so far


# @learn:foundations.dot_product
# @viz:guide.attention
def attend(
    x: Vector, weights: Weights, layer: int, heads: int, past: tuple[list[Vector], list[Vector]]
) -> Vector:
    """Ask every earlier token; take its value in proportion to how well its key answers."""
    keys, values = past
    query = linear(x, weights[f"{layer}.query"])
    keys.append(linear(x, weights[f"{layer}.key"]))
    values.append(linear(x, weights[f"{layer}.value"]))
    size = len(x) // heads  # D
    answer: Vector = []
    for start in range(0, len(x), size):
        part = range(start, start + size)
        scores = [sum(query[j] * key[j] for j in part) / size**0.5 for key in keys]
        share = softmax(scores)
        answer += [sum(s * v[j] for s, v in zip(share, values, strict=True)) for j in part]
    return linear(answer, weights[f"{layer}.mix"])


def think(x: Vector, weights: Weights, layer: int, squared: bool) -> Vector:
    """The two-layer network of a block: C -> 4C -> C."""
    hidden = [h.relu() for h in linear(x, weights[f"{layer}.up"])]
    if squared:
        hidden = [h**2 for h in hidden]
    return linear(hidden, weights[f"{layer}.down"])


def next_scores(x: Vector, shape: Shape, weights: Weights, past: Past) -> Vector:
    """A score for every next token from token + position (C,). `past` grows by one token."""
    if shape.norm:
        x = normalise(x)
    for layer in range(shape.layers):
        inner = normalise(x) if shape.norm else x
        answer = attend(inner, weights, layer, shape.heads, past[layer])
        x = [a + b for a, b in zip(answer, x, strict=True)]
        inner = normalise(x) if shape.norm else x
        thought = think(inner, weights, layer, shape.activation == "relu2")
        x = [a + b for a, b in zip(thought, x, strict=True)]
    return linear(x, weights.get("head", weights["token"]))


# @viz:guide.architecture
# @def:logits
# One score for each entry of the vocabulary; any numbers, softmax makes chances of them.
def all_scores(tokens: Sequence[int], shape: Shape, weights: Weights) -> Iterator[Vector]:
    """The scores after each token. With Nodes, `tokens` are numbers of picks."""
    pick = type(weights["token"][0][0]).pick
    columns = [list(column) for column in zip(*weights["token"], strict=True)]
    past: Past = [([], []) for _ in range(shape.layers)]
    for position, token in enumerate(tokens):
        x = [pick(column, token) for column in columns]
        if shape.model == "bigram":
            yield bigram.next_scores(x, weights, shape.norm)
            continue
        x = [t + p for t, p in zip(x, weights["position"][position], strict=True)]
        yield next_scores(x, shape, weights, past)


# @learn:foundations.cross_entropy
def surprise(scores: Vector, target: int) -> Number:
    """-log of the probability of the target, in nats."""
    return -type(scores[0]).pick(softmax(scores), target).log()


def mean_surprise(surprises: Sequence[Number]) -> Number:
    """The loss of a document."""
    return sum(surprises) * (1 / len(surprises))
