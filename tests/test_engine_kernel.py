"""The step in C says what the model says, with the same bits in any company."""

import logging
import random
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_tokenizer, config, lively_model

import nanochat.engine_kernel
from nanochat.engine import Engine
from nanochat.engine_kernel import (
    EngineKernel,
    NoKernel,
    compile_step,
    compiled_kernel,
    kernel_for,
    next_tokens,
)
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache
from nanochat.sampling import Sampling, broken_rows, distribution
from nanochat.scheduler import Deaf, Request, Scheduler, SchedulerSettings, Written

SIZES = {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_kv_head": 2}
PLAIN = dict.fromkeys(("smear", "backout", "value_embeddings", "residual_scalars"), False)
TOKENIZER = byte_tokenizer()
LENGTHS = [3, 200, 40, 140, 1, 129, 130, 131, 7]  # the window looks back 128


@pytest.fixture(autouse=True, scope="module")
def made_in(tmp_path_factory):
    """Compiled once for this file, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path_factory.mktemp("made")))
        yield


def read(model: GPT, ring: bool = True) -> KVCache:
    """A cache whose rows hold prompts of LENGTHS."""
    dice = torch.Generator().manual_seed(1)
    cache = KVCache(model.config, len(LENGTHS), 300, ring=ring)
    for row, length in enumerate(LENGTHS):
        ids = torch.randint(265, (1, length), generator=dice)
        model(ids, cache=cache.view(row, row + 1))
    return cache


def same_cache(ours: KVCache, truth: KVCache) -> None:
    """Lengths, keys, values and the embeddings for smear agree."""
    assert ours.lengths == truth.lengths
    mine, others = (*ours.keys, *ours.values, ours.last), (*truth.keys, *truth.values, truth.last)
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("changes", [{}, PLAIN | {"softcap": 0.0, "n_head": 1, "n_kv_head": 1}])
def test_the_step_in_c_has_the_models_scores_and_fills_the_same_cache(changes, ring):
    model = lively_model(10.0, **(SIZES | changes))
    kernel = compiled_kernel(model, threads=2)
    ours, truth = read(model, ring), read(model, ring)
    dice = torch.Generator().manual_seed(2)
    for step in range(12):
        first, rows = step % 3, 1 + step % (len(LENGTHS) - 2)
        ids = torch.randint(265, (rows, 1), generator=dice)
        scores = kernel.scores(ids, ours.view(first, first + rows))
        wanted = model(ids, cache=truth.view(first, first + rows))[:, 0]
        torch.testing.assert_close(scores, wanted, atol=2e-4, rtol=1e-4)
    same_cache(ours, truth)


@torch.inference_mode()
@pytest.mark.parametrize(("rows", "lengths"), [(1, [1, 2, 9, 140, 60]), (3, [33, 130, 1, 100])])
@pytest.mark.parametrize("options", [{}, {"spare": 50}, {"ring": False}])
@pytest.mark.parametrize("changes", [{}, PLAIN | {"softcap": 0.0, "n_head": 1, "n_kv_head": 1}])
def test_prompts_read_in_c_have_the_models_scores_and_fill_the_same_cache(
    changes, options, rows, lengths
):
    model = lively_model(10.0, **(SIZES | changes))
    kernel = compiled_kernel(model, threads=3)
    ours, truth = (KVCache(model.config, 4, 300, **options) for _ in range(2))
    dice = torch.Generator().manual_seed(4)
    for length in lengths:
        ids = torch.randint(265, (rows, length), generator=dice)
        scores = kernel.scores(ids, ours.view(1, 1 + rows))
        wanted = model(ids, cache=truth.view(1, 1 + rows), last_only=True)[:, 0]
        torch.testing.assert_close(scores, wanted, atol=2e-4, rtol=1e-4)
    same_cache(ours, truth)


@torch.inference_mode()
@given(pieces=st.lists(st.integers(1, 60), min_size=1, max_size=5), threads=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_prompt_has_the_same_bits_however_it_is_cut(pieces, threads):
    model = lively_model(1.0, **SIZES)
    whole, cut = compiled_kernel(model, 2), compiled_kernel(model, threads)
    dice = torch.Generator().manual_seed(5)
    ids = torch.randint(265, (2, sum(pieces)), generator=dice)
    ours, theirs = (KVCache(model.config, 2, 300, spare=10) for _ in range(2))
    scores = whole.scores(ids, ours.view(0, 2))
    for row in range(2):
        start = 0
        for length in pieces:
            piece = ids[row : row + 1, start : start + length]
            apart = cut.scores(piece, theirs.view(row, row + 1))
            start += length
        assert torch.equal(apart[0], scores[row])
    assert all(map(torch.equal, [*ours.keys, *ours.values], [*theirs.keys, *theirs.values]))
    assert torch.equal(ours.last, theirs.last)


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bits_in_any_company(threads):
    model = lively_model(1.0, **SIZES)
    kernel, alone = compiled_kernel(model, threads), compiled_kernel(model, 1)
    together, apart = read(model), read(model)
    for _ in range(3):
        ids = torch.arange(len(LENGTHS))[:, None] + 65
        scores = kernel.scores(ids, together.view(0, len(LENGTHS)))
        for row in range(len(LENGTHS)):
            single = alone.scores(ids[row : row + 1], apart.view(row, row + 1))
            assert torch.equal(single[0], scores[row])


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 300.0])
def test_the_scheduler_with_the_step_in_c_writes_what_the_plain_engine_writes_alone(sharpness):
    model, dice = lively_model(sharpness, **SIZES), random.Random(3)
    alone = Engine(model, TOKENIZER)
    kernel = compiled_kernel(model, threads=2)
    quick = Scheduler(Engine(model, TOKENIZER, kernel), SchedulerSettings(rows=5, read_tokens=48))
    requests = []
    for i in range(16):
        prompt = [dice.randrange(256) for _ in range(dice.choice([1, 30, 150]))]
        sampling = Sampling(dice.randrange(1, 40), dice.choice([0, 0.8]), dice.choice([0, 20]),
                            seed=i)  # fmt: skip
        requests.append(Request(alone.answer(prompt, sampling), Deaf()))
    for request in requests:
        quick.submit(request)
        assert all(isinstance(item, Written) for item in quick.step())
    while not quick.idle:
        quick.step()
    for request in requests:
        answer = request.answer
        wanted = [event.token for event in alone.stream(answer.prompt, answer.sampling)]
        assert answer.tokens == wanted


class Told(Deaf):
    """Remembers how much of its text came from the store of blocks, and how often it was paused."""

    def __init__(self) -> None:
        self.restored: list[int] = []
        self.pauses = 0

    def scheduled(self, cached_tokens: int = 0) -> None:
        self.restored.append(cached_tokens)

    def preempted(self) -> None:
        self.pauses += 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_pauses_departures_and_beginnings_from_the_store_change_no_token_of_the_step_in_c(seed):
    """The beginnings in common are longer than a ring, so what is restored begins in its middle."""
    model, dice = lively_model(1.0, sequence_len=700, **SIZES), random.Random(seed)
    alone, kernel = Engine(model, TOKENIZER), compiled_kernel(model, threads=2)
    plan = SchedulerSettings(rows=4, read_tokens=48, blocks=60, turn_tokens=6)
    quick = Scheduler(Engine(model, TOKENIZER, kernel), plan)
    leads = [[dice.randrange(256) for _ in range(length)] for length in (301, 416, 530)]
    waiting, asked = [], []
    for i in range(24):
        tail = [dice.randrange(256) for _ in range(dice.choice([1, 31, 70]))]
        sampling = Sampling(dice.randrange(5, 40), dice.choice([0, 0.8]), dice.choice([0, 20]),
                            seed=i)  # fmt: skip
        waiting.append(Request(alone.answer(dice.choice(leads) + tail, sampling), Told()))
        asked.append(waiting[-1])
    gone = []
    while waiting or not quick.idle:
        for _ in range(min(dice.randrange(3), len(waiting))):
            quick.submit(waiting.pop(0))
        quick.step()
        alive = [*quick.running, *quick.waiting]
        if alive and dice.random() < 0.04:
            gone.append(dice.choice(alive))
            gone[-1].cancelled = True
    assert quick.kv_usage() == 0 and quick.store.held == 0
    for request in asked:
        answer = request.answer
        wanted = [event.token for event in alone.stream(answer.prompt, answer.sampling)]
        assert answer.tokens == (wanted[: len(answer.tokens)] if request in gone else wanted)
    told = [request.listener for request in asked]
    assert len(gone) >= 3 and sum(each.pauses for each in told) >= 3
    ring = min(quick.cache.slots)
    again = [tokens for each in told for tokens in each.restored[:1] if tokens > ring]
    assert len(again) >= 5, "begun from the store, past the end of a ring"


WISHES = st.builds(
    Sampling,
    temperature=st.sampled_from([0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 50, 264, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.01]),
)


@given(st.lists(st.tuples(WISHES, st.floats(0, 1 - 2**-53)), min_size=1, max_size=5),
       st.integers(0, 2**32), st.booleans())  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_c_points_at_the_token_that_pytorch_points_at(rows, seed, coarse):
    logits = torch.randn(len(rows), 265, generator=torch.Generator().manual_seed(seed)) * 3
    if coarse:  # many equals, where top-k and top-p cut and where the best is taken
        logits = logits.round()
    samplings, dice = [wish for wish, _ in rows], [die for _, die in rows]
    chosen = small_kernel().choose(logits, samplings, dice)
    edges = distribution(logits, samplings).double().cumsum(-1)
    for row, token in enumerate(chosen):
        before = float(edges[row, token - 1]) if token else 0.0
        point = dice[row] * float(edges[row, -1])
        # Both round: a token whose border the die all but touches may be either's.
        assert before - 1e-6 <= point <= float(edges[row, token]) + 1e-6


@cache
def small_kernel() -> EngineKernel:
    return compiled_kernel(lively_model(1.0, **SIZES), 1)


def test_rows_without_numbers_get_no_token_and_the_largest_die_gets_the_last():
    logits = torch.zeros(5, 265)
    logits[1, 7], logits[2, 264], logits[3, 0] = float("nan"), float("inf"), -float("inf")
    logits[4] = 3e38  # finite, but not its sum
    warm = [Sampling(temperature=1, top_k=0)] * 5
    assert small_kernel().choose(logits, warm, [1 - 2**-53] * 5) == [264, None, None, None, 264]
    assert next_tokens(None, logits, warm, [1 - 2**-53] * 5) == [264, None, None, None, 264]
    assert next_tokens(None, logits[1:2], warm[:1], [0.5]) == [None]


@torch.inference_mode()
def test_scores_that_are_no_numbers_stay_in_their_row():
    model = lively_model(1.0, **SIZES)
    cache = read(model)
    cache.keys[1][2] = float("nan")
    kernel = compiled_kernel(model, threads=2)
    scores = kernel.scores(torch.full((4, 1), 65), cache.view(0, 4))
    assert broken_rows(scores) == {2}


@pytest.mark.parametrize("changes", [{"mlp": "swiglu"}, {"n_embd": 48}])
def test_a_model_that_c_does_not_know_is_left_to_pytorch(changes, caplog):
    caplog.set_level(logging.INFO)
    model = lively_model(1.0, **(SIZES | changes))
    assert kernel_for(model, "auto") is None
    assert [record.fields["event"] for record in caplog.records] == ["kernel"]
    with pytest.raises(NoKernel):
        kernel_for(model, "c")
    half = lively_model(1.0, **SIZES)
    half.dtype = torch.bfloat16
    assert kernel_for(half, "auto") is None and len(caplog.records) == 1
    with pytest.raises(NoKernel, match="fp32"):
        compiled_kernel(half)


def test_a_model_on_another_device_is_left_to_pytorch_without_a_word(capsys):
    with torch.device("meta"):  # has no numbers, and is no processor
        model = GPT(config())
    assert kernel_for(model, "auto") is None and capsys.readouterr().err == ""
    with pytest.raises(NoKernel):
        kernel_for(model, "c")


def test_without_a_compiler_or_a_folder_there_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NoKernel, match="can't be written"):
        compile_step(tmp_path / "file")
    broken = tmp_path / "broken.c"
    broken.write_text("int kernel_open(")
    monkeypatch.setattr(nanochat.engine_kernel, "SOURCES", [broken])
    with pytest.raises(NoKernel, match="could not compile"):
        compile_step(tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoKernel, match="no C compiler"):
        compile_step(tmp_path)


def test_a_kernel_keeps_its_weights_and_goes_with_the_last_who_holds_it():
    model = lively_model(1.0, **SIZES)
    cache = read(model)
    kernel = compiled_kernel(model, threads=3)
    before = kernel.scores(torch.tensor([[65]]), cache.view(0, 1))
    with torch.no_grad():
        model.head.weight.mul_(2)
    cache.lengths[0] -= 1  # the same token again, over itself
    cache.last[0] = read(model).last[0]
    again = kernel.scores(torch.tensor([[65]]), cache.view(0, 1))
    assert torch.equal(before, again)
    threads = threads_now()
    del kernel
    assert threads_now() == threads - 2


def threads_now() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
