"""Exams: letters by one forward pass, free answers, pass@k, ChatCORE, and the command."""

import itertools
import json
from collections.abc import Sequence

import pytest
import task_files
import torch
from tiny_build import make_small, nanochat
from tiny_models import byte_tokenizer, lively_model

from nanochat.chat_eval_tasks import (
    TaskResult,
    chatcore,
    choose_letters,
    pass_at_k,
    write_answers,
)
from nanochat.tasks.catalogue import open_task
from nanochat.tasks.spellingbee import SpellingBee

TOKENIZER = byte_tokenizer()


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def test_letters_chosen_in_batches_are_those_of_one_question_at_a_time():
    task_files.put_all()
    model = lively_model(sequence_len=400)
    for name in ("mmlu", "arc-easy"):
        task = open_task(name)
        result = choose_letters(model, TOKENIZER, task, rows=2)
        for index in range(len(task)):
            ids = TOKENIZER.render_for_completion({"messages": task.prompt(index)})
            with torch.no_grad():
                scores = model(torch.tensor([ids]))[0, -1]
            best = max(task.letters(index), key=lambda letter: float(scores[ord(letter)]))
            assert result.marks[index] == [task.grade(index, best)]


def test_a_question_too_long_for_the_context_is_wrong_and_counted():
    task_files.put_all()
    result = choose_letters(lively_model(sequence_len=90), TOKENIZER, open_task("mmlu"))
    assert result.too_long == 3 and result.marks == [[False]] * 3
    assert result.record()["too_long"] == 3

    def silent(prompts: Sequence[list[int]], answers: int) -> list[list[str]]:
        assert not prompts
        return []

    short = write_answers(silent, TOKENIZER, SpellingBee(4), context=10)
    assert short.too_long == 4 and short.accuracy == 0


def test_free_answers_are_graded_by_the_task_each_with_its_question():
    task = SpellingBee(6)
    right = [task[i]["messages"][-1]["content"][-1]["text"] for i in range(6)]

    def generate(prompts: Sequence[list[int]], answers: int) -> list[list[str]]:
        assert len(prompts) == 6 and answers == 2
        return [[right[i], "#### 99" if i < 3 else right[i]] for i in range(6)]

    result = write_answers(generate, TOKENIZER, task, 10_000, answers=2)
    assert result.marks == [[True, False]] * 3 + [[True, True]] * 3
    assert result.accuracy == 0.75 and len(result.wrong) == 3
    assert result.record()["pass@1"] == 0.75 and result.record()["pass@2"] == 1.0
    assert "pass@4" not in result.record()


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_is_the_share_of_all_choices_of_k_answers(right, k):
    marks = [True] * right + [False] * (5 - right)
    chosen = list(itertools.combinations(marks, k))
    assert pass_at_k([marks], k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_chatcore_is_the_mean_above_chance():
    perfect = TaskResult("a", 0.25, [[True]] * 4)
    guessing = TaskResult("b", 0.25, [[True], [False], [False], [False]])
    assert perfect.centered == 1 and guessing.centered == 0
    assert chatcore([perfect, guessing]) == 0.5


@pytest.mark.slow
def test_the_commands_measure_a_real_model_end_to_end(base, capsys):
    """chat-eval over every task, base-eval over TinyWorld's CORE; table, JSON and picture."""
    make_small(base, "tinyworld-make", "tok-train", "base-train", "chat-sft")
    task_files.put_all()
    capsys.readouterr()
    every = "tinyworld,arc-easy,arc-challenge,mmlu,gsm8k,spellingbee"
    short = ("--max-tokens", "4", "--at-most", "5", "--threads", "1", "--json")
    assert nanochat("chat-eval", "--tasks", every, "--samples", "2", *short) == 0
    shown = capsys.readouterr().out
    result = json.loads(shown.splitlines()[-1])
    assert result["tasks"].keys() == set(every.split(","))
    assert "ChatCORE over 5 of 6" in shown and -1 < result["chatcore"] < 1
    assert "pass@2" in result["tasks"]["gsm8k"] and result["questions"] == 5
    assert (base / "report" / "chat_eval.svg").read_text().startswith("<svg")
    assert not (base / "report" / "exam.json").exists(), "a part of the exam is no result"
    assert nanochat("chat-eval", "--max-tokens", "4", "--threads", "1") == 0
    assert json.loads((base / "report" / "exam.json").read_text())["questions"] > 10

    assert nanochat("base-eval", "--eval-tokens", "2048", "--threads", "1", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1 < result["val_bpb"] < 9 and len(result["samples"]) == 11
    assert result["bundle"] == "core-tinyworld" and len(result["tasks"]) >= 3
    assert (base / "report" / "base_eval.svg").read_text().startswith("<svg")
    slow = ("--eval", "core", "--max-per-task", "5", "--threads", "1", "--json")
    assert nanochat("base-eval", *slow) == 0
    together = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert nanochat("base-eval", *slow, "--one-at-a-time") == 0
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    for label, task in alone["tasks"].items():
        assert together["tasks"][label]["accuracy"] == task["accuracy"]


def test_what_cannot_be_measured_is_said_before_a_model_is_loaded(capsys):
    assert nanochat("chat-eval", "--tasks", "trivia") == 2
    assert "no task 'trivia'" in capsys.readouterr().err
    assert nanochat("chat-eval", "--tasks", "gsm8k") == 2
    assert "task-download --tasks gsm8k" in capsys.readouterr().err
    assert nanochat("base-eval", "--eval", "vibes") == 2
    assert "choose of bpb, core, sample" in capsys.readouterr().err


@pytest.mark.slow
def test_humaneval_is_graded_in_the_sandbox():
    from scripts.chat_eval import passes

    task_files.put_all()
    task = open_task("humaneval", run=passes)
    assert task.grade(0, task[0]["messages"][-1]["content"])
    assert not task.grade(0, "def root(x): return open('/etc/passwd')")
