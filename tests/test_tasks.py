"""Tasks: true schemas, lazy slices, mixtures with repetition, verdicts, broken rows, downloads."""

import json
import subprocess
import sys
from collections import Counter

import pytest
import task_files
from hub_server import Fault, fake_hub
from tiny_build import nanochat
from tiny_models import byte_tokenizer

from nanochat.dataset import DataMissing
from nanochat.download import Hub
from nanochat.tasks import catalogue, gsm8k, humaneval, mmlu, smoltalk
from nanochat.tasks.catalogue import NoSuchTask, fetch_tasks, open_task, parse_parts, sft_mixture
from nanochat.tasks.custom_json import CustomJSON
from nanochat.tasks.spellingbee import SimpleSpelling, SpellingBee, word_list, words_file
from nanochat.tasks.table import Table
from nanochat.tasks.task import BrokenTask, Mixture, NothingToGrade
from nanochat.tasks.tinyworld_qa import Exam, Practice
from nanochat.tinyworld import TinyWorldError
from nanochat.tinyworld_exam import exam
from nanochat.tinyworld_settings import WorldSettings, held_out
from nanochat.tinyworld_stories import lead


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def fetched():
    task_files.put_all()


def run_program(program: str) -> bool:
    """A stand-in for the sandbox: these tests run programs of their own only."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def text_of(content) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def spelled_reply(task, index: int) -> str:
    """What a perfect model would answer: the last message without tool parts."""
    content = task[index]["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


@pytest.mark.parametrize("name", [*catalogue.NAMES[:-3], "spellingbee", "simplespelling"])
def test_the_ideal_answer_is_right_and_another_is_wrong(name, fetched):
    if name == "humaneval":
        task = open_task(name, run=run_program)
    else:
        task = open_task(name)
    for index in range(min(3, len(task))):
        assert task.grade(index, spelled_reply(task, index)), task[index]
        assert not task.grade(index, "I do not know."), task[index]
        assert task.reward(index, spelled_reply(task, index)) == 1.0


def test_every_task_renders_into_tokens_with_something_to_learn(fetched):
    tokenizer = byte_tokenizer()
    for name in ("smoltalk", "mmlu", "gsm8k", "arc-easy", "spellingbee", "simplespelling"):
        task = open_task(name, "train")
        for index in range(2):
            ids, mask = tokenizer.render_conversation(task[index])
            assert 1 in mask and len(ids) == len(mask)


def test_a_multiple_choice_question_reads_as_it_should(fetched):
    task = open_task("mmlu")
    question, answer = (message["content"] for message in task[0]["messages"])
    assert question == (
        "Multiple Choice question: 2+2?\n- 3=A\n- 4=B\n- 5=C\n- 6=D\n\n"
        "Respond only with the letter of the correct answer."
    )
    assert answer == "B" and task.letters(0) == ("A", "B", "C", "D")
    assert [task.kind(i) for i in range(3)] == ["arithmetic", "mmlu", "art"]
    assert task.chance == 0.25


def test_arc_takes_labels_of_any_kind_and_number(fetched):
    task = open_task("arc-challenge")
    assert task.letters(0) == ("A", "B", "C") and task.letters(1) == tuple("ABCDE")
    assert task[0]["messages"][-1]["content"] == "A" and task.grade(1, " B\n")
    assert not task.grade(1, "B, I think")


def test_gsm8k_answers_call_the_calculator(fetched):
    parts = open_task("gsm8k")[0]["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "python", "python_output"] * 2 + ["text"]
    assert parts[1]["text"] == "48/2" and parts[2]["text"] == "24"
    assert open_task("gsm8k").grade(1, "Twelve hundred, so\n#### 1200.")


def test_humaneval_runs_the_fenced_program_with_the_prompts_imports(fetched):
    task = open_task("humaneval", run=run_program)
    right = "Sure:\n```python\ndef root(x: float) -> float:\n    return math.sqrt(x)\n```"
    assert task.grade(0, right)
    assert not task.grade(0, right.replace("sqrt", "exp"))
    assert not task.grade(0, "def root(x")


def test_humaneval_without_a_sandbox_refuses_to_run_anything(fetched):
    with pytest.raises(NothingToGrade, match="sandbox"):
        open_task("humaneval").grade(0, "x")
    with pytest.raises(NothingToGrade):
        open_task("smoltalk").grade(0, "x")


def test_a_slice_is_lazy_and_keeps_numbers_and_verdicts(fetched):
    task = open_task("mmlu")
    table = task.table
    part = task[2:0:-1][:2]
    assert table.kept == {} and len(part) == 2
    assert part[0] == task[2] and part[1] == task[1] and part[-1] == task[1]
    assert part.grade(0, "C") and part.kind(0) == "art" and part.letters(1) == tuple("ABCD")
    assert len(task[:1000]) == 3 and len(task[5:]) == 0
    with pytest.raises(IndexError):
        part[2]


def test_a_mixture_repeats_and_shuffles_the_same_way_for_the_same_seed(fetched):
    a, b = open_task("mmlu"), SimpleSpelling(50)
    mix = Mixture([(a, 3), (b, 1)], seed=7)
    seen = Counter(json.dumps(conversation) for conversation in mix)
    assert len(mix) == 3 * 3 + 50
    assert all(seen[json.dumps(conversation)] == 3 for conversation in a)
    assert list(mix) == list(Mixture([(a, 3), (b, 1)], seed=7))
    assert list(mix) != list(Mixture([(a, 3), (b, 1)], seed=8))
    found = {mix.find(index)[0].name for index in range(20)}
    assert found == {"mmlu", "simplespelling"}, "shuffled, not one after the other"
    place = next(i for i in range(len(mix)) if mix.find(i) == (a, 0))
    assert mix.grade(place, "B") and mix.kind(place) == "arithmetic"


def test_a_mixture_of_a_million_reads_nothing_and_keeps_one_number_each():
    mix = Mixture([(SpellingBee(250_000), 4)])
    assert len(mix) == 1_000_000 and mix.order.nbytes <= 8_000_000
    assert mix[999_999]["messages"]


def test_an_empty_part_of_a_mixture_is_refused(fetched):
    with pytest.raises(BrokenTask, match="0 of mmlu"):
        Mixture([(open_task("mmlu")[5:], 2)])


def test_a_table_finds_rows_across_groups_and_files_and_forgets_what_is_too_much(fetched):
    files = mmlu.files("test").local() * 3
    table = Table(files, kept_bytes=1)
    assert len(table) == 9
    asked = [table[index]["question"] for index in (0, 3, 5, 8, 2)]
    assert asked == ["2+2?", "2+2?", "Sky?", "Sky?", "Sky?"]
    assert len(table.kept) == 1


def test_spelling_questions_are_the_same_every_time_and_train_is_not_test():
    train, test = SpellingBee(40), SpellingBee(40, "test")
    assert list(train) == list(SpellingBee(40)) and list(train) != list(test)
    hits = [text_of(c["messages"][-1]["content"]).endswith("#### 0") for c in SpellingBee(400)]
    assert 0.02 < sum(hits) / 400 < 0.15, "a tenth of the letters come from the whole alphabet"


def test_the_word_list_of_the_hub_replaces_the_small_one():
    assert "lamp" in word_list(words_file())
    words_file().parent.mkdir(parents=True)
    words_file().write_text("aardvark\nab\nzebra\n")
    word_list.cache_clear()
    assert word_list(words_file()) == ("aardvark", "zebra")
    word_list.cache_clear()


def test_practice_questions_lie_on_the_training_side_of_the_wall():
    settings = WorldSettings()
    kinds = ("where_person", "how_many", "refusal", "letter_count")
    task = Practice(40, kinds, seed=3)
    assert [task.kind(i) for i in range(4)] == list(kinds)
    again = Practice(40, kinds, seed=3)
    for index in range(40):
        question = task.prompt(index)[0]["content"]
        assert again.prompt(index)[0]["content"] == question
        assert task.grade(index, task[index]["messages"][-1]["content"])
        if task.kind(index) == "where_person":
            assert not held_out(*lead(question, settings))


def test_practice_names_kinds_it_does_not_know():
    with pytest.raises(TinyWorldError, match="where_person"):
        Practice(3, ["riddles"])


def test_the_exam_as_a_task_grades_like_the_exam():
    items = exam(WorldSettings(), 4)
    task = Exam(items)
    assert len(task) == len(items) and task.kind(0) == items[0].kind
    assert all(task.grade(i, items[i].answer) for i in range(len(items)))
    assert 0 < task.chance < 1 and task.prompt(0) == items[0].messages


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "schema", "row", "complaint"),
    [
        (mmlu.files("test"), task_files.MMLU, {"choices": ["a"]}, "there must be 4"),
        (mmlu.files("test"), task_files.MMLU, {"answer": 4}, "there must be 4"),
        (mmlu.files("test"), task_files.MMLU, {"question": None}, "must be a str"),
        (gsm8k.files("test"), task_files.GSM8K, {"answer": "no number"}, "#### number"),
        (smoltalk.files("test"), task_files.SMOLTALK, {"messages": []}, "no messages"),
        (humaneval.files("test"), task_files.HUMANEVAL, {"prompt": None}, "must be a str"),
    ],
)
def test_a_broken_row_is_named_with_its_file_and_number(files, schema, row, complaint):
    good = {
        "mmlu": task_files.MMLU_ROWS,
        "gsm8k": task_files.GSM8K_ROWS,
        "smoltalk": task_files.SMOLTALK_ROWS,
        "humaneval": task_files.HUMANEVAL_ROWS,
    }[files.name]
    task_files.put(files, [good[0], good[0] | row], schema)
    task = open_task(files.name)
    task[0]
    with pytest.raises(BrokenTask, match="row 1") as caught:
        task[1]
    assert complaint in str(caught.value) and files.local()[0].name in str(caught.value)


def test_a_file_of_another_schema_is_refused_when_it_is_opened():
    task_files.put(mmlu.files("test"), task_files.GSM8K_ROWS, task_files.GSM8K)
    with pytest.raises(BrokenTask, match="no column subject, choices"):
        open_task("mmlu")


def test_what_is_not_fetched_names_the_command_and_an_unknown_name_the_list():
    with pytest.raises(DataMissing, match="nanochat task-download --tasks smoltalk"):
        open_task("smoltalk", "train")
    with pytest.raises(NoSuchTask, match="spellingbee"):
        open_task("trivia")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "line 3"),
        ('{"messages": [{"role": "assistant", "content": "Hi"}]}', "'user' was expected"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "last word"),
        ('"a text"', "line 3"),
        ('[{"role": "user", "content": 3}, {"role": "assistant", "content": "x"}]', "line 3"),
    ],
)
def test_a_bad_line_of_ones_own_file_is_named(tmp_path, line, complaint):
    good = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(BrokenTask, match="line 3") as caught:
        open_task(str(path))
    assert complaint in str(caught.value)


def test_both_forms_of_a_line_are_read(tmp_path):
    pair = [{"role": "user", "content": "Grüß"}, {"role": "assistant", "content": "Gott"}]
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(pair)}\n\n{json.dumps({'messages': pair})}\n", "utf-8")
    task = CustomJSON(path)
    assert len(task) == 2 and task[0] == task[1] == {"messages": pair}


def test_the_mixture_of_a_command_line_is_read(fetched):
    assert parse_parts("smoltalk, mmlu:3,a:b/c.jsonl") == [
        ("smoltalk", 1),
        ("mmlu", 3),
        ("a:b/c.jsonl", 1),
    ]
    mix = sft_mixture("smoltalk,mmlu:3,gsm8k:4")
    assert len(mix) == 4 * 2 + 3 * 3 + 4 * 2
    assert parse_parts("real")[:2] == [("smoltalk", 1), ("mmlu", 3)]
    with pytest.raises(NoSuchTask):
        parse_parts(" , ")


# --- downloads ---------------------------------------------------------------------------------


def test_tasks_are_fetched_through_the_door_of_the_data_and_go_on_after_a_cut():
    rows = task_files.parquet_bytes(task_files.GSM8K_ROWS, task_files.GSM8K)
    with fake_hub() as hub:
        for split in ("train", "test"):
            hub.files[f"main/{split}-00000-of-00001.parquet"] = rows
        hub.faults["main/test-00000-of-00001.parquet"] = [Fault(cut_at=100)]
        patient = Hub(hub.endpoint, backoff_s=0.01)
        assert fetch_tasks(["gsm8k"], patient) == (2, 2)
        assert fetch_tasks(["gsm8k"], patient) == (0, 2), "nothing is fetched twice"
    assert len(open_task("gsm8k", "train")) == 2 == len(open_task("gsm8k"))


def test_a_file_from_elsewhere_comes_through_the_same_door_without_the_token(monkeypatch):
    with fake_hub() as hub:
        hub.files["words.txt"] = b"apple\nbanana\n"
        address = f"{hub.endpoint}/datasets/some/where/resolve/main/words.txt"
        monkeypatch.setattr(catalogue, "WORDS_URL", address)
        secret = Hub(hub.endpoint, token="secret", backoff_s=0.01)
        assert fetch_tasks(["spellingbee"], secret) == (1, 1)
        assert all("authorization" not in headers for _, _, headers in hub.requests)
    assert words_file().read_text() == "apple\nbanana\n"


def test_the_command_fetches_what_it_is_asked_for(monkeypatch, capsys):
    rows = task_files.parquet_bytes(task_files.ARC_ROWS, task_files.ARC)
    with fake_hub() as hub:
        for split in ("train", "test"):
            hub.files[f"ARC-Easy/{split}-00000-of-00001.parquet"] = rows
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert nanochat("task-download", "--tasks", "arc-easy", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["fetched"], told["files"]) == (2, 2)
    assert len(open_task("arc-easy")) == 2


def test_nothing_to_fetch_is_said():
    with pytest.raises(NoSuchTask, match="tinyworld"):
        fetch_tasks(["tinyworld"], Hub())
