"""Reinforcement: a hand-worked gradient, equal answers merged, resuming, and the command."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_training import base, signal_self  # noqa: F401  `base` is a fixture
from tiny_build import make_small, nanochat
from tiny_models import byte_tokenizer, config

from nanochat.engine import Engine
from nanochat.gpt import GPT
from nanochat.rl import (
    NoQuestions,
    RlSettings,
    Rollout,
    RolloutBatches,
    advantages,
    check_division,
    merged,
    prepare_rl,
    to_batches,
)
from nanochat.rl_gain import CannotMeasure, check_measurable, gain, verdict
from nanochat.sampling import Sampling
from nanochat.scaling import BadPlan
from nanochat.tasks.rl_questions import (
    Asked,
    NoSuchKind,
    exam_items,
    open_questions,
    wanted_kinds,
    weak_kinds,
)
from nanochat.tinyworld_exam import exam, practice
from nanochat.tinyworld_settings import WorldSettings
from nanochat.train_loop import Stopped, restore, resume_point, take_step, train

SMALL = RlSettings(steps=6, questions=3, samples=4, max_tokens=3, temperature=1.0, top_k=0)


def model() -> GPT:
    fresh = GPT(config(n_layer=2))
    fresh.init_weights(torch.Generator().manual_seed(0))
    return fresh


def rollout(advantage: float, *tokens: int, prompt: tuple[int, ...] = (9, 8)) -> Rollout:
    return Rollout(prompt, tokens, (False,) * len(tokens), advantage)


# --- the mathematics ---


def test_an_advantage_is_the_distance_to_the_group_and_sums_to_zero():
    assert advantages([1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]
    assert advantages([1, 1]) == [0, 0]


def test_equal_answers_are_learned_once_with_the_summed_advantage():
    again = merged([rollout(0.5, 1), rollout(0.5, 1), rollout(-1.0, 2), rollout(0.3, 3)])
    assert again == [rollout(1.0, 1), rollout(-1.0, 2), rollout(0.3, 3)]
    assert merged([rollout(0.5, 1), rollout(-0.5, 1)]) == []
    other = rollout(0.5, 1, prompt=(7,))
    assert merged([rollout(0.5, 1), other]) == [rollout(0.5, 1), other]


def policy_loss(net: GPT, rollouts: Sequence[Rollout], normalizer: float) -> torch.Tensor:
    """The definition, one answer and one token at a time."""
    total = torch.zeros(())
    for one in rollouts:
        ids = torch.tensor([[*one.prompt, *one.tokens]])
        logp = net(ids).log_softmax(-1)[0]
        for i, (token, forced) in enumerate(zip(one.tokens, one.forced, strict=True)):
            if not forced:
                place = len(one.prompt) + i - 1  # scores at a place are for the token after it
                total = total - one.advantage * logp[place, token] / normalizer
    return total


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_batches_have_the_gradient_of_the_policy_loss(parts):
    rollouts = [
        rollout(0.75, 5, 6, 7),
        Rollout((9, 8, 7, 6), (1, 2, 3, 4), (False, True, True, False), -0.25),
        rollout(-0.25, 200),
        rollout(-0.25, 30, 31),
    ]
    net = model()
    expected = policy_loss(net, rollouts, 10.0)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    total = 0.0
    for inputs, targets, share in to_batches(rollouts, parts, pad=256, normalizer=10.0):
        loss = net(inputs, targets, share=share)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)


def test_a_step_in_which_nothing_was_mixed_changes_no_logits_by_its_gradient():
    net = model()
    (inputs, targets, share) = next(to_batches([], 1, pad=256, normalizer=1.0))
    loss = net(inputs, targets, share=share)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


# --- a run ---


def question(kind: str, number: int) -> Any:
    text = f"{kind} {number}"
    return SimpleNamespace(kind=kind, messages=[{"role": "user", "content": text}])


def reward(asked: Any, reply: str) -> float:
    """Right are answers with one of the first 40 characters: two in five at first, by chance."""
    return float(any(ord(c) < 40 for c in reply))


def a_run(settings: RlSettings = SMALL, state: dict[str, Any] | None = None) -> Any:
    net = model()
    engine = Engine(net, byte_tokenizer())

    def write(prompts: Sequence[list[int]], seeds: Sequence[int]) -> list:
        each = [Sampling(settings.max_tokens, settings.temperature, 0, seed=s) for s in seeds]
        return engine.generate_batch(prompts, each)

    batches = RolloutBatches(
        settings, byte_tokenizer(), {"a": 1.0, "b": 1.0}, question, write, reward, state
    )
    run = prepare_rl(settings, net, batches, byte_tokenizer(), "t")
    run.provenance = {"model": {}, "tokenizer": "bytes"}
    return run


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_reinforcement_equals_an_uninterrupted_one_bit_for_bit(base, stop):  # noqa: F811
    whole = a_run()
    rewards = []
    for _ in range(SMALL.steps):
        take_step(whole)
        rewards.append(whole.batches.seen["reward"])
    cut = a_run()
    cut.show = lambda run, seconds: run.state.step == stop and signal_self()
    with pytest.raises(Stopped):
        train(cut, SMALL)
    settings = RlSettings(**{**vars(SMALL), "resume": True})
    checkpoint = resume_point("rl", "t", settings)
    assert checkpoint is not None and checkpoint.meta["step"] == stop
    resumed = a_run(state=json.loads(json.dumps(checkpoint.meta["batches"])))
    restore(resumed, checkpoint)
    train(resumed, settings)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.batches.state_dict() == whole.batches.state_dict()
    assert resumed.batches.seen["reward"] == rewards[-1]


def test_what_is_rewarded_is_said_more_often(base):  # noqa: F811
    settings = RlSettings(**{**vars(SMALL), "steps": 12, "questions": 8, "samples": 8})
    settings = RlSettings(**{**vars(settings), "optimizer": type(settings.optimizer)(lr_scale=0.3)})
    run, seen = a_run(settings), []
    for _ in range(settings.steps):
        take_step(run)
        seen.append(run.batches.seen["reward"])
    assert sum(seen[-3:]) / 3 > sum(seen[:3]) / 3 + 0.1


def test_a_kind_whose_answers_never_differ_is_asked_less_and_less():
    batches = a_run().batches
    batches.reward = lambda asked, reply: float(asked.kind == "a")  # every group of one mind
    for _ in range(30):
        batches._note(["a"], {0: [1.0, 1.0]})
        batches._note(["b"], {0: [1.0, 0.0]})
    assert batches.mixed["a"] < 0.1 and batches.mixed["b"] > 0.9


def test_a_kind_is_asked_as_often_as_it_is_wanted():
    batches = a_run(replace(SMALL, questions=200, samples=1)).batches
    asked: list[str] = []

    def ask(kind: str, number: int) -> Any:
        asked.append(kind)
        return question(kind, number)

    batches.wanted, batches.ask = {"a": 1.0, "b": 0.1}, ask
    batches.write = lambda prompts, seeds: [
        SimpleNamespace(tokens=[1], forced=[False], text="x") for _ in prompts
    ]
    next(batches)
    assert len(asked) == 200 and 5 <= asked.count("b") <= 40  # 18 are expected


def test_no_kinds_and_no_even_division_are_refused(monkeypatch):
    with pytest.raises(NoQuestions, match="--kinds"):
        RolloutBatches(SMALL, byte_tokenizer(), {}, question, lambda *_: [], reward)
    check_division(SMALL)
    monkeypatch.setattr("nanochat.rl.here", lambda: SimpleNamespace(size=2))
    with pytest.raises(BadPlan, match="2 processes"):
        check_division(SMALL)


# --- what it brought ---


def test_a_gain_is_a_mean_of_differences_and_its_error_is_theirs():
    before = [False] * 40 + [True] * 60
    after = [[True] * 10 + [False] * 30 + [True] * 60, [True] * 20 + [False] * 20 + [True] * 60]
    found = gain(before, after)
    assert found["gain"] == 15.0 and found["seeds"] == [10.0, 20.0] and found["questions"] == 100
    each = [1.0] * 10 + [0.5] * 10 + [0.0] * 80
    mean = sum(each) / 100
    by_hand = (sum((x - mean) ** 2 for x in each) / 99) ** 0.5 / 100**0.5
    assert found["standard_error"] == pytest.approx(100 * by_hand, abs=0.01)


def test_the_bar_counts_practised_kinds_that_are_clear_of_their_error():
    found = {
        "clear": {"gain": 6.0, "standard_error": 1.0},
        "luck": {"gain": 6.0, "standard_error": 7.0},
        "other": {"gain": 9.0, "standard_error": 1.0},  # not practised
        "small": {"gain": 4.9, "standard_error": 1.0},
    }
    said = verdict(found, ["clear", "luck", "small"], points=5, kinds=2)
    assert said["reached_by"] == ["clear"] and not said["holds"]
    assert verdict(found, ["clear", "other"], points=5, kinds=2)["holds"]


def test_what_cannot_be_told_from_luck_is_refused_beforehand():
    check_measurable({"a": 101, "b": 300}, points=5, kinds=2)
    check_measurable({"a": 1}, points=0, kinds=2)  # no bar
    with pytest.raises(CannotMeasure, match="--held-out 101"):
        check_measurable({"a": 100, "b": 300}, points=5, kinds=2)
    with pytest.raises(CannotMeasure, match="none"):
        check_measurable({}, points=5, kinds=2)


# --- the questions ---


def test_practice_never_asks_what_the_exam_asks():
    world = WorldSettings()
    asked = {item.messages[0]["content"] for item in exam(world, 10)}
    for kind in ("where_person", "yes_no", "calculator", "refusal"):
        items = [practice(world, kind, number, seed=0) for number in range(30)]
        assert items == [practice(world, kind, number, seed=0) for number in range(30)]
        assert not asked & {item.messages[0]["content"] for item in items}


def test_the_questions_to_measure_with_begin_with_those_of_the_exam():
    world = WorldSettings()
    of_exam = [item for item in exam(world, 6) if item.kind == "two_hop"]
    assert exam_items(world, "two_hop", 20)[:6] == of_exam
    assert len(exam_items(world, "identity", 500)) < 500  # there are no more, and it ends


def test_weak_kinds_are_understood_a_little_but_not_mastered():
    accuracy = {"coin": 0.52, "weak": 0.5, "fair": 0.7, "good": 0.95}
    guess = {"coin": 0.5, "weak": 0.25, "fair": 0.1, "good": 0.1}
    assert weak_kinds(accuracy, guess, 4) == ["weak", "fair"]
    assert weak_kinds(accuracy, guess, 1) == ["weak"]


def test_what_is_not_practised_is_still_asked_and_unknown_kinds_are_refused():
    assert wanted_kinds(["b"], ["a", "b"], 0.25) == {"a": 0.25, "b": 1.0}
    assert wanted_kinds([], ["a", "b"], 0.25) == {"a": 1.0, "b": 1.0}  # nothing is weak
    with pytest.raises(NoSuchKind, match="choose of a, b"):
        wanted_kinds(["c"], ["a", "b"], 0.25)


def test_a_question_is_graded_by_its_task():
    questions, held_out = open_questions("tinyworld", 0, 3)
    asked: Asked = questions.ask("calculator", 5)
    ideal = asked.task.conversation(5)["messages"][-1]["content"]
    text = ideal if isinstance(ideal, str) else ideal[-1]["text"]
    assert asked.reward(text) == 1.0 and asked.reward("no idea") == 0.0
    assert len(held_out.some(2)) == 2 * len(held_out.kinds)


# --- the command ---


@pytest.mark.slow
def test_chat_rl_measures_every_kind_before_and_after_for_each_seed(tmp_path, monkeypatch, capsys):
    make_small(tmp_path, "tinyworld-make", "tok-train", "base-train", "chat-sft")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    flags = "--preset laptop --json --steps 2 --questions 2 --samples 2 --max-tokens 4 --threads 1 "
    flags += "--held-out 2 --probe 1 --seeds 1 2 --kinds two_hop feeling --save-every 1 "
    few = flags + "--bar-points 5"
    flags += "--curve-every 1 --log-every 1 --bar-points 60"
    capsys.readouterr()
    assert nanochat("chat-rl", *few.split()) == 2  # two questions cannot show five points
    assert "--held-out 101 or more" in capsys.readouterr().err
    assert nanochat("chat-rl", *flags.split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["seed"] for one in result["seeds"]] == [1, 2]
    assert result["practised"] == ["two_hop", "feeling"]
    assert result["bar"] == {"points": 60.0, "kinds": 2, "reached_by": [], "holds": False}
    assert "</svg>" in (tmp_path / "report" / "rl.svg").read_text()
    for one in result["seeds"]:
        assert [step for step, _ in one["curve"]] == [0, 1, 2]
        assert one["cpu_minutes"] >= 0
        assert one["before"] == result["before"]
        assert one["after"].keys() == result["before"].keys() and len(one["after"]) == 14
        folder = tmp_path / "checkpoints" / "rl" / one["tag"]
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert 0 < log[0]["cpu_s"] < log[-1]["cpu_s"]
        assert log[-1]["step"] == 2 and 0 <= log[-1]["reward"] <= 1
        assert json.loads((folder / "config.json").read_text())["settings"]["seed"] == one["seed"]
    assert nanochat("chat-rl", *flags.split()) == 2  # nothing is overwritten unasked
    assert "--resume" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "checkpoints" / "rl" / result["tag"] / "step_000002")
    assert nanochat("chat-rl", *flags.split(), "--resume") == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["after"] for one in again["seeds"]] == [one["after"] for one in result["seeds"]]
    assert nanochat("chat-eval", "--stage", "rl", "--max-tokens", "4") == 0
