"""The exercises: their files, their checks, and that nothing but solving them passes."""

from pathlib import Path

import pytest

from nanochat.execution import Outcome, run
from nanochat.serve.exercises import BadExercise, read_exercise, read_exercises, same, verdict

ROOT = Path(__file__).parent.parent
EXERCISES = read_exercises(ROOT / "docs" / "exercises")


def test_there_are_at_least_twenty_and_each_names_notes_that_exist():
    assert len(EXERCISES) >= 20
    for exercise in EXERCISES.values():
        assert exercise.concepts and exercise.level in (1, 2, 3)
        assert exercise.hints and len(exercise.checks) >= 2 and exercise.task
        for concept in exercise.concepts:
            assert (ROOT / "docs" / "knowledge_base" / f"{concept}.md").is_file(), concept


def test_a_page_is_told_neither_checks_nor_solution():
    for exercise in EXERCISES.values():
        told = str(exercise.public())
        assert exercise.solution not in told
        assert not any(call in told for call, _ in exercise.checks if len(call) > 24)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_passes_and_a_start_does_not(name):
    exercise = EXERCISES[name]
    truth = run(exercise.solution, calls=exercise.calls)
    assert truth.ended == "finished" and truth.errors == {} and len(truth.values) > 1
    assert verdict(exercise, truth, truth)["passed"]
    start = verdict(exercise, run(exercise.start, calls=exercise.calls), truth)
    assert not start["passed"]


@pytest.mark.slow
def test_lies_about_the_result_do_not_pass():
    exercise = EXERCISES["03_softmax"]
    truth = run(exercise.solution, calls=exercise.calls)
    forged = "".join(f'{{"call": {i}, "value": true}}\\n' for i in range(9))
    lies = (
        "print('passed')",
        f"import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'{forged}')\n"
        "  except OSError: pass\nos._exit(0)",
        "class softmax(list):\n  __eq__ = lambda *x: True\n  def __init__(self, x): pass",
        "def softmax(x):\n  return type('x', (float,), {'__eq__': lambda a, b: True})(1)",
        "import builtins\nbuiltins.eval = lambda *x: True\ndef softmax(x): return True",
    )
    for lie in lies:
        learner = run(lie, calls=exercise.calls)
        assert not verdict(exercise, learner, truth)["passed"], lie


def outcome(**changes) -> Outcome:
    plain = {"ended": "finished", "exit_code": 0, "stdout": "", "stderr": "", "seconds": 0.1}
    return Outcome(**(plain | {"memory_bytes": 0, "tier": "bubblewrap"} | changes))


def test_a_verdict_says_which_check_failed_and_why():
    exercise = EXERCISES["10_rmsnorm"]
    truth = outcome(values={number: [1.0] for number in range(4)})
    learner = outcome(values={0: [1.0], 1: [2.0]}, errors={2: "NameError: x"}, ended="failed")
    told = verdict(exercise, learner, truth)
    assert [check["ok"] for check in told["checks"]] == [True, False, False, False]
    assert "NameError" in told["checks"][2]["message"]
    assert "the program failed before" in told["checks"][3]["message"]


def test_values_are_compared_by_kind_size_and_shape():
    assert same(True, True)[0] and not same(1, True)[0] and not same(True, 1)[0]
    assert same(1, 1.0)[0] and same(1 + 1e-9, 1)[0] and not same(1.001, 1)[0]
    assert same({"a": 1}, {"a": 1})[0] and not same({"a": 1}, {"b": 1})[0]
    assert not same([[1]], [[1, 2]])[0] and not same("1", 1)[0] and not same(None, [1])[0]


def test_a_file_of_another_form_is_refused(tmp_path):
    for text in ("no front matter", "---\ntitle: x\n---\n\nTask\n\n## Start\n\n## Hints\n"):
        path = tmp_path / "x.md"
        path.write_text(text)
        with pytest.raises(BadExercise):
            read_exercise(path)
