"""CORE: batched equals one at a time, prompts and tokens as the definition says, bad bundles."""

import json
import random
import zipfile

import pytest
import torch
from hub_server import fake_hub
from tiny_models import byte_tokenizer, lively_model

from nanochat import core_eval_bundle
from nanochat.core_eval import (
    Example,
    batches,
    centered,
    merged,
    run_task,
    score_alone,
    score_together,
)
from nanochat.core_eval_bundle import (
    BundleBroken,
    CoreTask,
    bundle_dir,
    example_of,
    examples_of,
    fetch_bundle,
    prompts,
    read_bundle,
    read_rows,
)
from nanochat.core_eval_tinyworld import write_bundle
from nanochat.dataset import DataMissing
from nanochat.download import Hub
from nanochat.gpt import classic
from nanochat.tinyworld_exam import exam
from nanochat.tinyworld_settings import WorldSettings

TOKENIZER = byte_tokenizer()


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("core"), exam(WorldSettings(), 6))


def random_examples(count: int, seed: int) -> list[Example]:
    """Mixed kinds and lengths: one branch, several, branches of one token, ends scored only."""
    dice = random.Random(seed)

    def some(low: int, high: int) -> list[int]:
        return [dice.randrange(256) for _ in range(dice.randint(low, high))]

    found = []
    for number in range(count):
        prefix = some(1, 180)
        if number % 3 == 0:
            branch = some(1, 12)
            found.append(Example(prefix, [branch], [len(branch)]))
            continue
        longest = 1 if number % 5 == 0 else 30
        branches = [some(1, longest) for _ in range(dice.randint(2, 5))]
        scored = [dice.randint(1, len(b)) if number % 3 == 1 else len(b) for b in branches]
        found.append(Example(prefix, branches, scored, dice.randrange(len(branches))))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"smear": False, "backout": False}, marks=pytest.mark.slow),
        pytest.param({"n_kv_head": 4, "window_pattern": "L"}, marks=pytest.mark.slow),
    ],
)
def test_many_together_equal_one_at_a_time(changes):
    model, examples = lively_model(sharpness=30.0, **changes), random_examples(24, seed=1)
    together = score_together(model, examples)
    for example, verdict in zip(examples, together, strict=True):
        truth = score_alone(model, example)
        torch.testing.assert_close(
            torch.tensor(verdict.losses), torch.tensor(truth.losses), atol=2e-4, rtol=2e-4
        )
        assert verdict.greedy == truth.greedy and verdict.right(example) == truth.right(example)


def test_the_classic_preset_is_scored_alike():
    model = lively_model(sharpness=30.0)
    plain = type(model)(classic(model.config)).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    for example, verdict in zip(
        random_examples(9, 3), score_together(plain, random_examples(9, 3)), strict=True
    ):
        assert verdict.losses == pytest.approx(score_alone(plain, example).losses, abs=2e-4)


def test_a_hand_worked_case_picks_the_likeliest_branch_and_asks_for_the_first_choice():
    model = lively_model()
    prefix = [1, 2, 3, 4]
    with torch.no_grad():
        best = int(model(torch.tensor([prefix]))[0, -1].argmax())
    worst = (best + 1) % 256
    choice = Example(prefix, [[worst], [best]], [1, 1], gold=1)
    assert score_together(model, [choice])[0].right(choice)
    assert not score_together(model, [choice])[0].greedy
    said = Example(prefix, [[best]], [1])
    assert score_together(model, [said])[0].right(said)
    wrong = Example(prefix, [[worst]], [1])
    assert not score_together(model, [wrong])[0].right(wrong)


def test_batches_hold_every_example_once_and_keep_to_their_size():
    examples = random_examples(60, seed=5)
    found = list(batches(examples, tokens=1000))
    assert sorted(number for batch in found for number in batch) == list(range(60))
    assert 5 < len(found) < 60
    for batch in found[:-1]:
        width = max(len(examples[n].prefix) for n in batch)
        assert len(batch) * width <= 1000


def test_an_example_longer_than_the_context_keeps_its_end():
    model = lively_model()
    long = Example(list(range(250)), [list(range(100)), [5, 6]], [100, 2], 0)
    cut = long.cropped(300)
    assert not long.fits(300) and cut.fits(300)
    assert cut.prefix == long.prefix[-201:] and cut.branches == long.branches
    endless = Example([1, 2], [list(range(256)) * 2], [512], 0).cropped(300)
    assert endless.fits(300) and endless.prefix == [2] and endless.scored == [300]
    assert len(run_task(model, [long, long])) == 2


def test_one_at_a_time_and_together_give_a_task_the_same_marks(bundle):
    model = lively_model(sharpness=30.0)
    for task in read_bundle(bundle):
        examples = examples_of(task, TOKENIZER, at_most=6)
        truth = run_task(model, examples, one_at_a_time=True)
        assert run_task(model, examples, batch_tokens=1500) == truth


def test_a_beginning_that_several_examples_share_is_read_once():
    story, other = [1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]
    first = Example([0], [[*story, 20], [*other, 20]], [1, 1], gold=0)
    second = Example([0], [[*other, 30, 31], [40, 41, 30, 31]], [2, 2], gold=1)
    lone = Example([0, *story], [[20]], [1])
    together, origins = merged([first, second, lone])
    assert together[0] == Example([0, *story], [[20]], [1])
    assert together[1] == Example([0, *other], [[20], [30, 31]], [1, 2])
    assert origins == [[(0, 0)], [(0, 1), (1, 0)], [(1, 1)], [(2, 0)]]
    assert together[3] == lone  # alone it is asked another question: would the model say it?
    model = lively_model(sharpness=30.0)
    for examples in ([first, second, lone], random_examples(40, seed=9)):
        assert run_task(model, examples) == run_task(model, examples, one_at_a_time=True)


# --- prompts -----------------------------------------------------------------------------------


def task_of(kind: str, **more) -> CoreTask:
    return CoreTask(**({"label": "x", "kind": kind, "file": None, "shots": 0} | more), chance=0.0)


def test_the_three_kinds_of_prompt():
    shot = {"query": "1+1=", "choices": ["2", "3"], "gold": 0}
    choice = task_of("multiple_choice", delimiter=" ")
    assert prompts(choice, {"query": "2+2=", "choices": ["4", "5"], "gold": 0}, [shot]) == [
        "1+1= 2\n\n2+2= 4",
        "1+1= 2\n\n2+2= 5",
    ]
    schema = task_of("schema", delimiter=" ")
    row = {"context_options": ["The cat", "The dog"], "continuation": "barks.", "gold": 1}
    assert prompts(schema, row, [row]) == [
        "The dog barks.\n\nThe cat barks.",
        "The dog barks.\n\nThe dog barks.",
    ]
    words = task_of("language_modeling", delimiter=" ")
    row = {"context": "To be or not to ", "continuation": "be"}
    assert prompts(words, row, []) == ["To be or not to", "To be or not to be"]


def test_what_is_shared_is_the_prefix_and_what_is_scored_is_the_right_part():
    choice = example_of(task_of("multiple_choice", delimiter=""), [[9, 1, 2], [9, 1, 3, 4]], 1)
    assert (choice.prefix, choice.branches, choice.scored) == ([9, 1], [[2], [3, 4]], [1, 2])
    schema = example_of(task_of("schema", delimiter=""), [[9, 1, 7, 8], [9, 2, 2, 7, 8]], 0)
    assert (schema.prefix, schema.branches) == ([9], [[1, 7, 8], [2, 2, 7, 8]])
    assert schema.scored == [2, 2]
    words = example_of(task_of("language_modeling", delimiter=""), [[9, 1], [9, 1, 5, 6]], 0)
    assert (words.prefix, words.branches, words.scored) == ([9, 1], [[5, 6]], [2])


def test_a_choice_that_begins_like_another_still_has_a_token_to_score():
    example = example_of(task_of("multiple_choice", delimiter=""), [[9, 1], [9, 1, 3]], 0)
    assert example.branches == [[1], [1, 3]] and example.scored == [1, 2]
    twins = example_of(task_of("schema", delimiter=""), [[9, 1, 2], [9, 1, 2]], 0)
    assert all(twins.branches) and min(twins.scored) >= 1


def test_tinyworlds_bundle_is_read_back_with_its_chances(bundle):
    tasks = {task.label: task for task in read_bundle(bundle)}
    assert [task.kind for task in tasks.values()] == [
        "multiple_choice",
        "multiple_choice",
        "schema",
        "language_modeling",
    ]
    assert tasks["tinyworld_places_3shot"].shots == 3
    assert 0.2 <= tasks["tinyworld_places"].chance <= 0.5
    row = read_rows(tasks["tinyworld_places"])[0]
    assert row["query"].endswith("Answer:") and "\nQuestion: " in row["query"]
    assert len(set(row["choices"])) == len(row["choices"])
    shots = examples_of(tasks["tinyworld_places_3shot"], TOKENIZER, 2)
    assert TOKENIZER.decode(shots[0].prefix[1:]).count("Question:") == 4
    assert examples_of(tasks["tinyworld_places_3shot"], TOKENIZER, 2) == shots


def test_fewer_rows_than_solved_examples_is_no_reason_to_stop(bundle, tmp_path):
    task = next(t for t in read_bundle(bundle) if t.shots)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(task.file.read_text().splitlines(keepends=True)[:2]))
    short = CoreTask(task.label, task.kind, few, task.shots, " ", 0.25)
    assert TOKENIZER.decode(examples_of(short, TOKENIZER)[0].prefix[1:]).count("Question:") == 2


def test_guessing_is_worth_nothing():
    assert centered(0.25, 0.25) == 0 and centered(0.1, 0.25) < 0 < centered(0.3, 0.25)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"query": "x", "choices": ["a"]}', "lacks gold"),
        ('{"query": "x", "choices": ["a"], "gold": 1}', "gold within"),
        ("[1]", "line 2"),
        ("{half", "line 2"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, complaint):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"query": "x", "choices": ["a", "b"], "gold": 1}\n' + row + "\n")
    with pytest.raises(BundleBroken, match="line 2") as caught:
        read_rows(CoreTask("x", "multiple_choice", file, 0, " ", 0.5))
    assert complaint in str(caught.value)


def test_a_folder_that_is_no_bundle_names_the_command(tmp_path):
    with pytest.raises(BundleBroken, match="task-download --tasks core"):
        read_bundle(tmp_path)
    (tmp_path / "core.yaml").write_text("icl_tasks: [{label: x}")
    (tmp_path / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nx,0\n")
    with pytest.raises(BundleBroken, match="no CORE bundle"):
        read_bundle(tmp_path)


def test_the_bundle_is_fetched_once_and_unpacked_whole(tmp_path, bundle, monkeypatch):
    packed = tmp_path / "bundle.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in bundle.rglob("*"):
            archive.write(path, f"eval_bundle/{path.relative_to(bundle)}")
    with fake_hub() as hub:
        hub.files["eval_bundle.zip"] = packed.read_bytes()
        url = f"{hub.endpoint}/datasets/a/b/resolve/main/eval_bundle.zip"
        monkeypatch.setattr(core_eval_bundle, "BUNDLE_URL", url)
        assert fetch_bundle(Hub(backoff_s=0.01)) == 1
        assert fetch_bundle(Hub(backoff_s=0.01)) == 0
    assert [t.label for t in read_bundle(bundle_dir("dclm"))] == [
        t.label for t in read_bundle(bundle)
    ]


def test_a_damaged_archive_is_removed_so_that_the_next_call_fetches_it_again(monkeypatch):
    with fake_hub() as hub:
        hub.files["eval_bundle.zip"] = json.dumps("not a zip").encode()
        url = f"{hub.endpoint}/datasets/a/b/resolve/main/eval_bundle.zip"
        monkeypatch.setattr(core_eval_bundle, "BUNDLE_URL", url)
        with pytest.raises(DataMissing, match="damaged"):
            fetch_bundle(Hub(backoff_s=0.01))
    assert not (bundle_dir("dclm").parent / "eval_bundle.zip").exists()
