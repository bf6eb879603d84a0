"""Speculative decoding: greedy gives the same tokens, sampling the same distribution."""

import random
from collections import Counter

import pytest
import torch
from tiny_models import byte_tokenizer, lively_model

from nanochat.engine import Engine
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache
from nanochat.sampling import Sampling, distribution
from nanochat.speculative import ModelDraft, NgramDraft, Speculator, verdict
from nanochat.tokenizer import VocabularyMismatch

TOKENIZER = byte_tokenizer()
BOS = TOKENIZER.special("bos")


def drafts(sampling: Sampling) -> dict:
    return {
        "n-gram": NgramDraft(),
        "itself": ModelDraft(lively_model(), sampling),
        "another model": ModelDraft(lively_model(seed=5, n_layer=1), sampling),
    }


def written(speculator: Speculator, prompt: list[int], sampling: Sampling) -> list[int]:
    return [e.token for e in speculator.run(speculator.engine.answer(prompt, sampling))]


@pytest.mark.parametrize("name", ["n-gram", "itself", "another model"])
@pytest.mark.parametrize("length", [1, 40, pytest.param(200, marks=pytest.mark.slow)])
def test_greedy_speculation_writes_the_same_tokens(name, length):
    """Prompts shorter and longer than the window of 128, answers that cross it."""
    engine, dice = Engine(lively_model(), TOKENIZER), random.Random(length)
    pattern = [dice.randrange(256) for _ in range(9)]
    prompt = [BOS, *(pattern * 30)[:length]]
    sampling = Sampling(max_tokens=60, temperature=0)
    truth = [event.token for event in engine.stream(prompt, sampling)]
    speculator = Speculator(engine, drafts(sampling)[name])
    assert written(speculator, prompt, sampling) == truth
    assert speculator.tally.tokens == len(truth)
    if name == "itself":
        assert speculator.tally.accepted == speculator.tally.guessed
        assert speculator.tally.passes < len(truth) / 5


class Reciter(GPT):
    """Says token number i of a script at position i, whatever it reads; it counts its passes."""

    def __init__(self, script: list[int], like: GPT) -> None:
        super().__init__(like.config)
        self.script, self.passes = script, 0

    def forward(self, idx, *_, cache=None, last_only=False, **__):
        self.passes += 1
        places = cache.positions(idx.size(1))[0].tolist()
        cache.advance(idx.size(1))
        logits = torch.zeros(1, idx.size(1), self.config.vocab_size)
        for column, place in enumerate(places):
            logits[0, column, self.script[min(place + 1, len(self.script) - 1)]] = 15.0
        return logits[:, -1:] if last_only else logits


def test_a_tool_call_within_a_guess_is_answered_and_its_result_read_in_one_pass():
    special = TOKENIZER.special_ids
    call = [special["python_start"], *TOKENIZER.encode("6*7"), special["python_end"]]
    result = [special["output_start"], *TOKENIZER.encode("42"), special["output_end"]]
    once = [*TOKENIZER.encode("I say "), *call, *result]
    script = [BOS, *TOKENIZER.encode("go"), *once, *once, *TOKENIZER.encode("!")]
    script.append(special["assistant_end"])
    prompt, sampling = script[:3], Sampling(max_tokens=90, temperature=0)
    model = Reciter(script, lively_model())
    engine = Engine(model, TOKENIZER)
    plain = list(engine.stream(prompt, sampling))
    passes, model.passes = model.passes, 0
    speculator = Speculator(engine, NgramDraft())
    events = list(speculator.run(engine.answer(prompt, sampling)))
    assert events == plain and [event.token for event in events] == script[3:]
    assert sum(event.forced for event in events) == 2 * len(result)
    assert model.passes < 0.7 * passes


def test_an_answer_ends_where_a_plain_one_ends():
    engine = Engine(lively_model(), TOKENIZER)
    for prompt, tokens in (([BOS] * 295, 50), ([BOS, 1, 2] * 3, 1), ([BOS] * 299, 9)):
        sampling = Sampling(max_tokens=tokens, temperature=0)
        truth = list(engine.stream(prompt, sampling))
        speculator = Speculator(engine, NgramDraft())
        assert list(speculator.run(engine.answer(prompt, sampling))) == truth


def test_the_same_seed_repeats():
    engine, sampling = Engine(lively_model(3.0), TOKENIZER), Sampling(max_tokens=30, temperature=1)
    one, two = (
        written(Speculator(engine, ModelDraft(lively_model(2.0), sampling)), [BOS, 1], sampling)
        for _ in range(2)
    )
    assert one == two


# --- the distribution --------------------------------------------------------------------------


def chi_squared_is_small(counts: Counter, chances: torch.Tensor, draws: int) -> bool:
    """Below the 99.99% point of chi-squared (Wilson and Hilferty); rare cells count together."""
    cells = [(counts[i], draws * float(p)) for i, p in enumerate(chances)]
    common = [cell for cell in cells if cell[1] >= 5]
    rare = [cell for cell in cells if cell[1] < 5]
    common.append((sum(c for c, _ in rare), max(1e-9, sum(e for _, e in rare))))
    if common[-1][1] < 5:
        assert common[-1][0] < 25
        common.pop()
    statistic = sum((seen - due) ** 2 / due for seen, due in common)
    freedom = len(common) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    return statistic < limit


@pytest.mark.parametrize("draft", ["sure", "drawn"])
def test_guess_or_replacement_is_distributed_like_a_plain_draw(draft):
    dice, p = random.Random(7), torch.tensor([0.4, 0.3, 0.2, 0.05, 0.05, 0.0])
    q = None if draft == "sure" else torch.tensor([0.1, 0.5, 0.1, 0.1, 0.1, 0.1])
    seen: Counter = Counter()
    for _ in range(6000):
        guess = 1 if q is None else dice.choices(range(6), q.tolist())[0]
        seen[verdict(guess, p, q, dice)[1]] += 1
    assert seen[5] == 0, "p gives it no chance, whatever the draft thinks"
    assert chi_squared_is_small(seen, p, 6000)
    assert not chi_squared_is_small(seen, torch.full((6,), 1 / 6), 6000), "the test can fail"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["n-gram", "model"])
def test_sampled_answers_have_the_distribution_of_plain_sampling(kind):
    """Pairs of tokens after one prompt, against their exact chances."""
    small = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_kv_head": 1, "window_pattern": "L"}
    model = lively_model(120.0, **small)
    engine, prompt = Engine(model, TOKENIZER), [BOS, 5, 6, 7, 5, 6]
    top = Sampling(max_tokens=3, temperature=1.0, top_k=3)
    seen: Counter = Counter()
    draws = 1200
    for seed in range(draws):
        sampling = Sampling(max_tokens=3, temperature=1.0, top_k=3, seed=seed)
        draft = NgramDraft() if kind == "n-gram" else ModelDraft(model, sampling)
        if kind == "model":  # a draft that is wrong in an interesting way
            draft.sampling = Sampling(temperature=2.5, top_k=5, seed=seed)
        speculator = Speculator(engine, draft, guesses=2)
        seen[tuple(written(speculator, prompt, sampling)[1:3])] += 1
    chances: Counter = Counter()
    with torch.no_grad():

        def step(ids: list[int]) -> list[tuple[int, float]]:
            row = distribution(model(torch.tensor([ids]))[:, -1], [top])[0]
            return [(int(i), float(row[i])) for i in row.nonzero()[:, 0]]

        for one, a in step(prompt):
            for two, b in step([*prompt, one]):
                for three, c in step([*prompt, one, two]):
                    chances[two, three] += a * b * c
    pairs = sorted(chances)
    numbered = Counter({pairs.index(pair): count for pair, count in seen.items()})
    assert chi_squared_is_small(numbered, torch.tensor([chances[pair] for pair in pairs]), draws)


# --- the parts ---------------------------------------------------------------------------------


def test_an_n_gram_goes_on_as_it_did_the_last_time():
    draft = NgramDraft()
    assert draft.propose([1, 2, 3], 4) == ([], None)
    assert draft.propose([1, 2, 3, 9, 1, 2], 3)[0] == [3, 9, 1]
    assert draft.propose([1, 2, 3, 9, 1, 2, 4, 1, 2], 1)[0] == [4], "the latest counts"
    assert draft.propose([7, 7, 7], 5)[0] == [7], "another text begins anew"


@pytest.mark.parametrize("length", [60, 128, 129, 131, 200, 280])
def test_a_ring_with_spare_slots_forgets_and_goes_on(length):
    model = lively_model()
    ids = torch.randint(0, 256, (1, 300), generator=torch.Generator().manual_seed(length))
    other = (ids + 1) % 256
    cache = KVCache(model.config, 1, 300, spare=8)
    assert cache.slots == [137, 137, 300]
    with torch.no_grad():
        model(ids[:, :length], cache=cache.view(0, 1))
        for rejected in (8, 3, 1):
            model(other[:, length : length + rejected], cache=cache.view(0, 1))
            last = torch.nn.functional.rms_norm(model.embed(ids[0, length - 1 : length]), (32,))
            cache.rewind(0, length, last)
        rest = model(ids[:, length : length + 10], cache=cache.view(0, 1))
        truth = model(ids[:, : length + 10])[:, length:]
    torch.testing.assert_close(rest, truth, atol=1e-4, rtol=1e-4)
    with pytest.raises(AssertionError, match="spare"):
        cache.rewind(0, 1, last)


def test_a_draft_of_another_vocabulary_is_refused():
    engine, sampling = Engine(lively_model(), TOKENIZER), Sampling()
    with pytest.raises(VocabularyMismatch, match="draft model has 300"):
        Speculator(engine, ModelDraft(lively_model(vocab_size=300), sampling))
