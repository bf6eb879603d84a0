"""Continuous batching: the same tokens as alone, whoever comes, goes, waits or is set aside."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_tokenizer, lively_model

from nanochat.engine import Engine
from nanochat.kv_cache import KVCache
from nanochat.kv_cache_blocks import BLOCK, BlockStore
from nanochat.sampling import Sampling, broken_rows
from nanochat.scheduler import (
    Deaf,
    Ended,
    Request,
    Scheduler,
    SchedulerSettings,
    Written,
    held_back,
)

TOKENIZER = byte_tokenizer()
BOS = TOKENIZER.special("bos")


class Diary(Deaf):
    """Writes down everything it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def scheduled(self, cached_tokens: int = 0) -> None:
        self.told.append(("scheduled", cached_tokens))

    def preempted(self) -> None:
        self.told.append("preempted")

    def token(self, count: int = 1) -> None:
        self.told.append("token")

    def end(self, reason: str, error_type: str = "") -> None:
        self.told.append((reason, error_type))


def requests(engine: Engine, count: int, seed: int, **changes: Any) -> list[Request]:
    """Prompts of mixed lengths, many with a beginning in common, and mixed settings."""
    dice = random.Random(seed)
    lead = [BOS, *(dice.randrange(256) for _ in range(100))]
    made = []
    for i in range(count):
        tail = [dice.randrange(256) for _ in range(dice.choice([1, 7, 40, 150]))]
        prompt = (lead if dice.random() < 0.6 else [BOS]) + tail
        sampling = Sampling(
            max_tokens=dice.randrange(1, 45),
            temperature=dice.choice([0, 0.7, 1.2]),
            top_k=dice.choice([0, 5, 50]),
            top_p=dice.choice([1, 0.9]),
            seed=i,
        )
        made.append(Request(engine.answer(prompt, sampling), Diary(), **changes))
    return made


def run(scheduler: Scheduler) -> list[Written | Ended]:
    news: list[Written | Ended] = []
    while not scheduler.idle:
        news += scheduler.step()
    return news


def check_empty(scheduler: Scheduler) -> None:
    assert scheduler.idle and scheduler.kv_usage() == 0 and scheduler.store.held == 0


def tokens_of(news: list[Written | Ended], request: Request) -> list[int]:
    return [n.event.token for n in news if isinstance(n, Written) and n.request is request]


# --- the same tokens ---


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("turn_tokens", [5, 512])
def test_scheduled_equals_alone_token_for_token_under_random_arrivals(sharpness, turn_tokens):
    engine = Engine(lively_model(sharpness), TOKENIZER)
    dice = random.Random(turn_tokens)
    plan = SchedulerSettings(rows=4, read_tokens=48, blocks=40, turn_tokens=turn_tokens)
    scheduler = Scheduler(engine, plan)
    asked = requests(engine, 16, seed=turn_tokens)
    news, waiting = [], list(asked)
    gone = []
    while waiting or not scheduler.idle:
        for _ in range(min(dice.randrange(4), len(waiting))):
            scheduler.submit(waiting.pop(0))
        news += scheduler.step()
        if dice.random() < 0.05 and scheduler.running:
            gone.append(dice.choice(scheduler.running))
            gone[-1].cancelled = True
    assert gone
    preempted = 0
    for request in asked:
        answer = request.answer
        alone = engine.generate_batch([answer.prompt], answer.sampling)[0].tokens
        tokens = tokens_of(news, request)
        assert tokens == answer.tokens
        if request in gone:
            assert tokens == alone[: len(tokens)]
        else:
            assert tokens == alone
        told = request.listener.told
        ends = [t for t in told if isinstance(t, tuple) and t[0] != "scheduled"]
        assert len(ends) == 1 and told[-1] == ends[0], "exactly one end, and nothing after it"
        assert told.count("token") == len(tokens)
        preempted += told.count("preempted")
    assert (preempted > 3) == (turn_tokens == 5)
    check_empty(scheduler)


@pytest.mark.parametrize("pattern", ["L", "SSL"])
def test_a_known_beginning_is_not_read_again_and_changes_nothing(pattern):
    engine = Engine(lively_model(1, window_pattern=pattern), TOKENIZER)
    scheduler = Scheduler(engine, SchedulerSettings(rows=2, blocks=64))
    prompt = [BOS, *(i * 7 % 256 for i in range(200))]
    sampling = Sampling(max_tokens=40, temperature=1, top_k=0, seed=3)
    cached, answers = [], []
    follow_up: list[int] = []
    for tokens in (prompt, prompt, None):
        tokens = tokens or follow_up
        request = Request(engine.answer(tokens, sampling), Diary())
        scheduler.submit(request)
        run(scheduler)
        cached.append(request.listener.told[0][1])
        answers.append(request.answer.tokens)
        alone = engine.generate_batch([tokens], sampling)[0].tokens
        assert request.answer.tokens == alone
        follow_up = tokens + request.answer.tokens + [65, 66]
    assert cached[0] == 0 and cached[1] == 192
    assert cached[2] == (len(prompt) + len(answers[0]) - 1) // BLOCK * BLOCK


@pytest.mark.slow
def test_without_blocks_nothing_is_remembered_and_the_answers_are_the_same():
    engine = Engine(lively_model(1), TOKENIZER)
    scheduler = Scheduler(engine, SchedulerSettings(rows=3, blocks=0, turn_tokens=4))
    asked = requests(engine, 8, seed=1)
    for request in asked:
        scheduler.submit(request)
    run(scheduler)
    for request in asked:
        alone = engine.generate_batch([request.answer.prompt], request.answer.sampling)[0].tokens
        assert request.answer.tokens == alone


def test_a_long_prompt_does_not_stop_the_others():
    engine = Engine(lively_model(1), TOKENIZER)
    scheduler = Scheduler(engine, SchedulerSettings(rows=2, read_tokens=16))
    first = Request(
        engine.answer([BOS, 1], Sampling(max_tokens=40, temperature=1, seed=5)), Diary()
    )
    long = Request(engine.answer([BOS] + [7] * 160, Sampling(max_tokens=2)), Diary())
    scheduler.submit(first)
    scheduler.step()
    scheduler.submit(long)
    written_meanwhile = 0
    while not long.answer.tokens:
        written_meanwhile += len([n for n in scheduler.step() if n.request is first])
    assert written_meanwhile >= 10


# --- ends ---


def test_a_request_can_leave_while_it_waits_reads_writes_or_is_set_aside():
    engine = Engine(lively_model(1), TOKENIZER)

    def fresh(letter: int, length: int) -> Request:
        sampling = Sampling(max_tokens=200, temperature=1, top_k=0)
        return Request(engine.answer([BOS] + [letter] * length, sampling), Diary())

    scheduler = Scheduler(engine, SchedulerSettings(rows=2, read_tokens=48, turn_tokens=3))
    asked = aside, writing, reading, waiting = fresh(1, 40), fresh(2, 3), fresh(3, 150), fresh(4, 9)
    for request in asked:
        scheduler.submit(request)
    while aside.held is None:  # until it had its turn
        scheduler.step()
    assert {*scheduler.waiting} == {waiting, aside} and waiting.began is None
    assert scheduler.running == [writing] and len(aside.held) == scheduler.store.held == 1
    assert scheduler.reading is reading and 0 < reading.read < len(reading.answer.prompt)
    for request in asked:
        request.cancelled = True
    news = run(scheduler)
    assert len(news) == 4 and set(news) == {Ended(request, "cancelled") for request in asked}
    assert all(r.listener.told[-1] == ("abort", "") for r in asked)
    check_empty(scheduler)


def test_a_deadline_ends_a_request_wherever_it_is():
    engine = Engine(lively_model(1), TOKENIZER)
    now = [0.0]
    scheduler = Scheduler(engine, SchedulerSettings(rows=1), clock=lambda: now[0])
    asked = requests(engine, 2, seed=3, deadline=5.0)
    for request in asked:
        request.answer.sampling = replace(request.answer.sampling, max_tokens=100)
        scheduler.submit(request)
    scheduler.step()
    now[0] = 5.0
    assert [(n.request, n.why) for n in scheduler.step()] == [
        (asked[1], "deadline"),
        (asked[0], "deadline"),
    ]
    assert asked[0].listener.told[-1] == ("error", "deadline")
    check_empty(scheduler)


def test_scores_that_are_no_numbers_end_only_the_row_they_belong_to():
    model = lively_model(1)
    engine = Engine(model, TOKENIZER)
    asked = requests(engine, 3, seed=8)
    for request in asked:
        request.answer.sampling = replace(request.answer.sampling, max_tokens=20, temperature=0)
    asked[1].answer.prompt = [BOS, 1, 2, 3]
    alone = {r: engine.generate_batch([r.answer.prompt], r.answer.sampling)[0] for r in asked}

    def poison(_model: Any, inputs: tuple, logits: torch.Tensor) -> torch.Tensor:
        for row, request in enumerate(scheduler.running):
            if request is asked[1] and len(request.answer.tokens) == 5 and len(inputs[0]) > 1:
                logits[row, 0, 7] = float("nan")
        return logits

    scheduler = Scheduler(engine, SchedulerSettings(rows=3))
    model.register_forward_hook(poison)
    for request in asked:
        scheduler.submit(request)
    news = run(scheduler)
    assert [n for n in news if isinstance(n, Ended)] == [Ended(asked[1], "nan_logits")]
    assert asked[1].listener.told[-1] == ("error", "nan_logits")
    for request in (asked[0], asked[2]):
        assert request.answer.tokens == alone[request].tokens
    check_empty(scheduler)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_what_was_no_number_does_not_reach_the_next_tenant_of_the_row(order):
    model = lively_model(1)
    engine = Engine(model, TOKENIZER)
    clean = [[BOS, *range(70, 90)], [BOS, 65]]
    said = {t for c in engine.generate_batch(clean, Sampling(40, temperature=0)) for t in c.tokens}
    poison = min(set(range(256)) - said)
    with torch.no_grad():
        model.embed.weight[poison] = float("nan")  # who reads it has keys and values of NaN
    scheduler = Scheduler(engine, SchedulerSettings(rows=2, blocks=0))
    prompts = [clean[0], [*clean[0], poison]]
    for prompt in [prompts[order[0]], prompts[order[1]], [BOS, 65]]:
        answer = engine.answer(prompt, Sampling(40, temperature=0))
        scheduler.submit(Request(answer, Diary()))
    news = run(scheduler)
    assert [n.why for n in news if isinstance(n, Ended)] == ["nan_logits"]
    late = next(n.request.answer for n in news if n.request.answer.prompt == [BOS, 65])
    assert late.tokens == engine.generate_batch([late.prompt], late.sampling)[0].tokens


def test_after_a_failure_the_next_request_is_served_as_ever():
    engine = Engine(lively_model(1), TOKENIZER)
    scheduler = Scheduler(engine, SchedulerSettings(rows=2))
    asked = requests(engine, 5, seed=2)
    for request in asked:
        scheduler.submit(request)
    news = scheduler.step() + scheduler.step()
    over = {n.request for n in news if isinstance(n, Written) and n.event.finish_reason}
    assert over < set(asked) and not scheduler.idle
    scheduler.abandon()
    again = requests(engine, 1, seed=2)[0]
    scheduler.submit(again)
    run(scheduler)
    alone = engine.generate_batch([again.answer.prompt], again.answer.sampling)[0]
    assert again.answer.tokens == alone.tokens
    check_empty(scheduler)


def test_a_watcher_may_hold_text_back_and_end_the_answer():
    engine = Engine(lively_model(1), TOKENIZER)
    seen = []

    def third(event):
        seen.append(event)
        return held_back(event, "", finished=len(seen) == 3)

    request = Request(engine.answer([BOS, 1], Sampling(max_tokens=50)), Diary(), watch=third)
    scheduler = Scheduler(engine, SchedulerSettings(rows=1))
    scheduler.submit(request)
    news = run(scheduler)
    assert len(news) == 3 and news[-1].event.finish_reason == "stop"
    assert request.listener.told[-1] == ("stop", "")


def test_chances_are_those_of_the_models_own_scores():
    model = lively_model(1)
    engine = Engine(model, TOKENIZER)
    sampling = Sampling(max_tokens=6, temperature=0.5, top_k=3)
    request = Request(engine.answer([BOS, 1, 2], sampling), Diary(), top_logprobs=4)
    scheduler = Scheduler(engine, SchedulerSettings(rows=1))
    scheduler.submit(request)
    ids = [BOS, 1, 2]
    for written in run(scheduler):
        with torch.no_grad():
            logs = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        token, logprob = written.chosen
        assert token == written.event.token
        assert logprob == pytest.approx(float(logs[token]), abs=1e-4)
        best = logs.topk(4)
        assert [c.logprob for c in written.others] == pytest.approx(best.values.tolist(), abs=1e-4)
        ids.append(token)


def test_broken_rows_are_found_even_where_the_sum_overflows():
    logits = torch.full((3, 4), 3e38)
    logits[1, 2] = float("inf")
    assert broken_rows(logits) == {1}


# --- the store of blocks against a dictionary that forgets nothing it should not ---


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_block_store_agrees_with_its_model_and_returns_every_place(seed):
    dice = random.Random(seed)
    config = lively_model(n_layer=1, n_embd=8, n_head=1, n_kv_head=1, window_pattern="L").config
    cache = KVCache(config, rows=2, capacity=300)
    store = BlockStore(config, places=6)
    contents: dict[tuple[int, ...], float] = {}  # tokens so far -> what was written for them
    held: list[list] = []
    for _ in range(60):
        move = dice.random()
        tokens = [t for _ in range(dice.randrange(6)) for t in [dice.randrange(2)] * BLOCK]
        tokens += [5] * dice.randrange(BLOCK)
        if move < 0.4:  # a row was read: keep it
            cache.lengths[0] = len(tokens)
            for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
                key = tuple(tokens[: start + BLOCK])
                value = contents.setdefault(key, float(len(contents) + 1))
                cache.keys[0][0, :, start : start + BLOCK] = value
                cache.values[0][0, :, start : start + BLOCK] = -value
            path = store.save(tokens, cache, 0)
            assert path == store.find(tokens)
        elif move < 0.7:  # find, hold and copy back
            path = store.find(tokens)
            cache.reset(1)
            store.restore(path, cache, 1)
            for i in range(len(path)):
                value = contents[tuple(tokens[: (i + 1) * BLOCK])]
                where = slice(i * BLOCK, (i + 1) * BLOCK)
                assert bool((cache.keys[0][1, :, where] == value).all())
                assert bool((cache.values[0][1, :, where] == -value).all())
            assert cache.lengths[1] == len(path) * BLOCK
            if dice.random() < 0.5:
                store.hold(path)
                held.append((path, tokens))
        elif held:
            path, tokens = held.pop(dice.randrange(len(held)))
            assert store.find(tokens)[: len(path)] == path, "what is held stays"
            store.release(path)
        places = [block.place for block in store._all()]
        assert sorted(places + store.free) == list(range(6)), "no place is lost or given twice"
        assert store.held == len({block for path, _ in held for block in path})
    for path, _ in held:
        store.release(path)
    store.clear()
    assert store.kept == 0 and store.held == 0 and store.first == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_thousand_mixed_requests_leave_nothing_behind(seed):
    engine = Engine(lively_model(1, n_layer=1), TOKENIZER)
    dice = random.Random(seed)
    scheduler = Scheduler(engine, SchedulerSettings(rows=8, blocks=30, turn_tokens=10))
    asked = requests(engine, 250, seed)
    waiting = list(asked)
    while waiting or not scheduler.idle:
        for _ in range(min(dice.randrange(4), len(waiting))):
            scheduler.submit(waiting.pop())
        scheduler.step()
        if dice.random() < 0.3:
            alive = [*scheduler.running, *scheduler.waiting]
            if alive:
                dice.choice(alive).cancelled = True
    assert sum(r.cancelled for r in asked) > 25
    assert all(
        sum(t[0] in ("stop", "length", "abort") for t in r.listener.told if isinstance(t, tuple))
        == 1
        for r in asked
    )
    check_empty(scheduler)
