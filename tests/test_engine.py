"""The engine: batched equals alone, cached equals uncached, tools, stop reasons, limits."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import Scripted, byte_tokenizer, lively_model

from nanochat.engine import Answer, Batch, EmptyPrompt, Engine, PromptTooLong
from nanochat.sampling import Sampling, sample
from nanochat.tokenizer import VocabularyMismatch

TOKENIZER = byte_tokenizer()
SPECIAL = TOKENIZER.special_ids
END = SPECIAL["assistant_end"]
GREEDY = Sampling(max_tokens=100, temperature=0)


def prompts_and_settings(count: int, seed: int = 0) -> tuple[list[list[int]], list[Sampling]]:
    """Mixed lengths (some equal, some prompts twice) and mixed settings."""
    dice = random.Random(seed)
    prompts, each = [], []
    for i in range(count):
        length = dice.choice([1, 7, 7, 60, dice.randrange(1, 200)])
        prompts.append([SPECIAL["bos"], *(dice.randrange(256) for _ in range(length))])
        if i % 5 == 4:
            prompts[-1] = prompts[-2]
        each.append(
            Sampling(
                max_tokens=dice.randrange(1, 25),
                temperature=dice.choice([0, 0.5, 1, 1.5]),
                top_k=dice.choice([0, 5, 50]),
                top_p=dice.choice([1, 0.9]),
                seed=i,
            )
        )
    return prompts, each


def slow_truth(model, prompt: list[int], s: Sampling) -> list[int]:
    """Every token by a full pass over everything so far: no cache, no batch, no head start."""
    ids, dice = list(prompt), random.Random(str(s.seed))
    while len(ids) - len(prompt) < s.max_tokens and len(ids) < model.config.sequence_len:
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[:, -1]
        ids += sample(logits, [s], [dice.random()])
        if ids[-1] in (END, SPECIAL["bos"]):
            break
    return ids[len(prompt) :]


def scripted(reply: str | list[int], prompt: list[int], **changes) -> tuple[Engine, Scripted]:
    ids = TOKENIZER.encode(reply) if isinstance(reply, str) else reply
    model = Scripted(ids, len(prompt), **changes)
    return Engine(model, TOKENIZER), model


def call(expression: str) -> list[int]:
    return [SPECIAL["python_start"], *TOKENIZER.encode(expression), SPECIAL["python_end"]]


# --- the same answer, however it is computed ---


@pytest.mark.parametrize("sharpness", [1, 300])
def test_cached_generation_equals_a_full_pass_for_every_token(sharpness):
    model = lively_model(sharpness)
    prompts, each = prompts_and_settings(6)
    completions = Engine(model, TOKENIZER).generate_batch(prompts, each)
    for prompt, s, completion in zip(prompts, each, completions, strict=True):
        if SPECIAL["python_end"] not in completion.tokens:  # a tool's result is not in the truth
            assert completion.tokens == slow_truth(model, prompt, s)


@pytest.mark.parametrize("sharpness", [1, 300])
def test_batched_equals_alone_token_for_token(sharpness):
    engine = Engine(lively_model(sharpness), TOKENIZER)
    prompts, each = prompts_and_settings(24)
    alone = [engine.generate_batch([p], s)[0] for p, s in zip(prompts, each, strict=True)]
    for max_batch in (5, 64):
        assert engine.generate_batch(prompts, each, max_batch) == alone
    streamed = [[e.token for e in engine.stream(p, s)] for p, s in zip(prompts, each, strict=True)]
    assert streamed == [completion.tokens for completion in alone]


@pytest.mark.slow
def test_batched_equals_alone_while_some_rows_wait_for_a_result():
    model = lively_model(1)
    bonus = torch.zeros(265)
    bonus[list(b"0123456789")] = 5.0
    bonus[[SPECIAL["python_start"], SPECIAL["python_end"]]] = 6.5
    model.register_forward_hook(lambda _model, _inputs, logits: logits + bonus)
    engine = Engine(model, TOKENIZER)
    prompts, each = prompts_and_settings(16)
    each = [replace(s, max_tokens=40, temperature=1) for s in each]
    alone = [engine.generate_batch([p], s)[0] for p, s in zip(prompts, each, strict=True)]
    assert sum(any(completion.forced) for completion in alone) > 4
    assert engine.generate_batch(prompts, each) == alone


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=5, deadline=None, derandomize=True)
def test_rows_that_come_and_go_at_random_change_nothing_for_the_others(seed):
    dice = random.Random(seed)
    model = lively_model(300)
    engine, batch = Engine(model, TOKENIZER), Batch(model, rows=4, capacity=300)
    prompts, each = prompts_and_settings(12, seed)
    waiting = [engine.answer(p, s) for p, s in zip(prompts, each, strict=True)]
    answers, cancelled = list(waiting), set()
    while waiting or batch.answers:
        count = min(batch.free, len(waiting), dice.randrange(3))
        batch.join([waiting.pop(0) for _ in range(count)])
        if batch.answers and dice.random() < 0.1:
            gone = dice.choice(batch.answers)
            batch.leave(gone)
            cancelled.add(id(gone))
        if batch.answers:
            batch.step()
    assert batch.free == 4
    for answer, prompt, s in zip(answers, prompts, each, strict=True):
        truth = [e.token for e in engine.stream(prompt, s)]
        if id(answer) in cancelled:
            assert answer.tokens == truth[: len(answer.tokens)]
        else:
            assert answer.tokens == truth


def test_the_same_seed_repeats_and_another_seed_differs():
    engine = Engine(lively_model(1), TOKENIZER)
    prompt = [SPECIAL["bos"], 65, 66]
    s = [Sampling(max_tokens=30, temperature=1, top_k=0, seed=seed) for seed in (1, 1, 2, -1)]
    one, again, two, minus = engine.generate_batch([prompt] * 4, s)
    assert one == again
    assert len({tuple(c.tokens) for c in (one, two, minus)}) == 3


def test_equal_prompts_are_read_once_and_prompts_of_one_length_together():
    engine, model = scripted([END], [1, 2, 3])
    engine.generate_batch([[1, 2, 3], [4, 5, 6], [1, 2, 3], [1, 2, 3]], GREEDY)
    assert len(model.read) == 1
    assert sorted(model.read[0]) == [[1, 2, 3], [4, 5, 6]]


# --- how an answer ends ---


def test_an_answer_stops_at_assistant_end_and_at_bos():
    for last in (END, SPECIAL["bos"]):
        engine, _ = scripted([*b"hi", last, *b"more"], [1, 2])
        (completion,) = engine.generate_batch([[1, 2]], GREEDY)
        assert completion.tokens == [*b"hi", last]
        assert (completion.text, completion.finish_reason) == ("hi", "stop")


def test_an_answer_is_cut_at_max_tokens():
    engine, _ = scripted("abcdef", [1, 2])
    events = list(engine.stream([1, 2], Sampling(max_tokens=3, temperature=0)))
    assert "".join(e.text for e in events) == "abc"
    assert [e.finish_reason for e in events] == [None, None, "length"]


def test_prompt_and_answer_end_at_the_context_and_nothing_is_written_over():
    model = lively_model(300)
    prompt = [SPECIAL["bos"], *([65] * 280)]
    s = Sampling(max_tokens=1000, temperature=1, seed=3)
    (completion,) = Engine(model, TOKENIZER).generate_batch([prompt], s)
    assert completion.finish_reason == "context"
    assert len(prompt) + len(completion.tokens) == model.config.sequence_len
    assert completion.tokens == slow_truth(model, prompt, s)


def test_the_longest_prompt_gets_one_token_and_a_longer_one_is_refused():
    engine, _ = scripted("abc", [1] * 299)
    (completion,) = engine.generate_batch([[1] * 299], GREEDY)
    assert (completion.text, completion.finish_reason) == ("a", "context")
    with pytest.raises(PromptTooLong, match=r"300 tokens.*300.*shorten"):
        engine.stream([1] * 300)  # at the call, not at the first token
    with pytest.raises(PromptTooLong):
        engine.generate_batch([[1], [1] * 5000], GREEDY)


def test_an_empty_prompt_and_a_foreign_tokenizer_are_refused():
    engine, model = scripted("abc", [1])
    with pytest.raises(EmptyPrompt):
        engine.stream([])
    assert engine.generate_batch([]) == []
    smaller = byte_tokenizer()
    del smaller.ranks[b"\xff"]
    with pytest.raises(VocabularyMismatch, match=r"264.*265"):
        Engine(model, smaller)


# --- tools ---


def test_a_tool_call_is_answered_by_the_engine_and_the_model_goes_on():
    result = [SPECIAL["output_start"], *b"336", SPECIAL["output_end"]]
    reply = [*b"So ", *call("48*7"), *([0] * len(result)), *b" it is.", END]
    engine, model = scripted(reply, [1, 2])
    events = list(engine.stream([1, 2], GREEDY))
    written = [*b"So ", *call("48*7"), *result, *b" it is.", END]
    assert [e.token for e in events] == written
    assert [e.token for e in events if e.forced] == result
    assert [token for ids in model.read[1:] for token in ids[0]] == written[:-1]  # it read them
    for kind, text in (("text", "So  it is."), ("tool_call", "48*7"), ("tool_result", "336")):
        assert "".join(e.text for e in events if e.kind == kind) == text
    (completion,) = engine.generate_batch([[1, 2]], GREEDY)
    assert completion.content == [
        {"type": "text", "text": "So "},
        {"type": "python", "text": "48*7"},
        {"type": "python_output", "text": "336"},
        {"type": "text", "text": " it is."},
    ]
    assert completion.text == "So  it is."
    assert [
        t for t, forced in zip(completion.tokens, completion.forced, strict=True) if forced
    ] == (result)


def test_an_answer_with_a_tool_call_renders_back_into_the_tokens_that_were_written():
    reply = [*call("6*7"), *[0] * 4, *b"42.", END]
    prompt = TOKENIZER.render_for_completion({"messages": [{"role": "user", "content": "6*7?"}]})
    engine, _ = scripted(reply, prompt)
    (completion,) = engine.generate_batch([prompt], GREEDY)
    said = {"role": "assistant", "content": completion.content}
    messages = [{"role": "user", "content": "6*7?"}, said]
    ids, _ = TOKENIZER.render_conversation({"messages": messages})
    assert ids == prompt + completion.tokens


@pytest.mark.parametrize("nonsense", ["", "1/0", "2**9", "import os", "(" * 30])
def test_a_call_that_is_no_arithmetic_gets_no_result(nonsense):
    engine, _ = scripted([*call(nonsense), *b"?", END], [1, 2])
    (completion,) = engine.generate_batch([[1, 2]], GREEDY)
    assert completion.tokens == [*call(nonsense), *b"?", END]
    assert not any(completion.forced)
    assert completion.parts[0] == {"type": "python", "text": nonsense}


def test_the_model_can_not_forge_a_result_or_close_a_call_it_never_opened():
    forged = [SPECIAL["output_start"], *b"7", SPECIAL["output_end"], SPECIAL["python_end"], END]
    engine, _ = scripted(forged, [1, 2])
    (completion,) = engine.generate_batch([[1, 2]], GREEDY)
    assert completion.tokens == forged
    assert completion.parts == [{"type": "text", "text": "7"}]


def test_a_call_is_answered_once_however_often_it_is_closed():
    reply = [*call("6*7"), *[0] * 4, SPECIAL["python_end"], *b"ok", END]
    engine, _ = scripted(reply, [1, 2])
    (completion,) = engine.generate_batch([[1, 2]], GREEDY)
    assert sum(completion.forced) == 4
    assert completion.text == "ok"


def test_a_second_python_start_begins_the_call_again():
    reply = [SPECIAL["python_start"], *b"9*", *call("2*3"), *[0] * 3, END]
    engine, _ = scripted(reply, [1, 2])
    (completion,) = engine.generate_batch([[1, 2]], GREEDY)
    assert [p["text"] for p in completion.parts] == ["9*", "2*3", "6"]


def test_a_result_can_be_cut_by_max_tokens_and_costs_no_dice():
    reply = [*call("48*7"), *[0] * 5, *b"yes", END]
    engine, _ = scripted(reply, [1, 2])
    s = Sampling(max_tokens=len(call("48*7")) + 2, temperature=0)
    (completion,) = engine.generate_batch([[1, 2]], s)
    assert (completion.parts[-1], completion.finish_reason) == (
        {"type": "python_output", "text": "3"},
        "length",
    )


def test_rows_in_a_tool_call_and_rows_without_step_together():
    prompts = [[1, 2], [3, 4]]
    engine, model = scripted([*call("6*7"), *[0] * 4, *b"ok", END], prompts[0])
    other = Answer(prompts[1], Sampling(max_tokens=6, temperature=0), TOKENIZER)
    batch = engine.batch()
    first = engine.answer(prompts[0], GREEDY)
    batch.join([first, other])
    while batch.answers:
        batch.step()
    assert first.completion().text == "ok"
    assert other.finish_reason == "length"
    assert [len(ids) for ids in model.read[:7]] == [2] * 6 + [1]


# --- text ---


def test_half_a_character_is_never_shown():
    text = "Zoë 🦉 日本 👩‍🚀!"
    engine, _ = scripted([*text.encode(), END], [1, 2])
    pieces = [e.text for e in engine.stream([1, 2], GREEDY)]
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text)


def test_broken_bytes_become_one_mark_and_an_unfinished_character_is_dropped():
    engine, _ = scripted([*b"a\xffb", *"🦉".encode()[:3], END], [1, 2])
    assert "".join(e.text for e in engine.stream([1, 2], GREEDY)) == "a\ufffdb"


def test_half_a_character_before_a_tool_call_does_not_leak_into_the_call():
    engine, _ = scripted([*"🦉".encode()[:3], *call("6*7"), *[0] * 4, *b"ok", END], [1, 2])
    (completion,) = engine.generate_batch([[1, 2]], GREEDY)
    assert [part["text"] for part in completion.parts] == ["6*7", "42", "ok"]


# --- conversations ---


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_a_conversation_that_fits_is_kept_whole():
    engine, _ = scripted("", [1])
    messages = [user("a"), assistant("b"), user("c")]
    prompt, dropped = engine.prompt_for(messages, max_tokens=50)
    assert dropped == 0
    assert prompt == TOKENIZER.render_for_completion({"messages": messages})


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be kind."}]])
def test_the_fewest_oldest_turns_are_dropped_and_the_system_message_stays(system):
    engine, _ = scripted("", [1])
    turns = [m for i in range(10) for m in (user(f"{i}" * 20), assistant("b" * 20))]
    messages = [*system, *turns, user("last")]
    prompt, dropped = engine.prompt_for(messages, max_tokens=50)
    kept = [*system, *turns[dropped:], user("last")]
    assert prompt == TOKENIZER.render_for_completion({"messages": kept})
    assert dropped % 2 == 0 and len(prompt) + 50 <= engine.context
    # a prompt that leaves exactly the room asked for fits
    _, exactly = engine.prompt_for(messages, max_tokens=engine.context - len(prompt))
    assert exactly == dropped
    fuller = [*system, *turns[dropped - 2 :], user("last")]
    assert len(TOKENIZER.render_for_completion({"messages": fuller})) + 50 > engine.context


def test_a_last_message_too_long_for_the_context_is_refused():
    engine, _ = scripted("", [1])
    prompt, dropped = engine.prompt_for([user("a"), assistant("b"), user("x" * 290)], 200)
    assert dropped == 2 and len(prompt) == 294  # it leaves less than hoped for, but some room
    with pytest.raises(PromptTooLong):
        engine.prompt_for([user("a"), assistant("b"), user("x" * 296)], 200)
