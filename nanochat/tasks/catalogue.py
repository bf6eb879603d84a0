"""The tasks by name: what a command's --tasks may say, where their files are, how they are opened.

Called by task_download, chat_sft and chat_eval. Read: SOURCES -> open_task -> parse_parts ->
sft_mixture -> fetch_tasks.
"""

from collections.abc import Sequence
from pathlib import Path

from nanochat.download import Hub, Report, download_all
from nanochat.download_address import fetch_address
from nanochat.errors import UserError
from nanochat.paths import data_dir
from nanochat.tasks import arc, gsm8k, humaneval, mmlu, smoltalk
from nanochat.tasks.custom_json import CustomJSON
from nanochat.tasks.spellingbee import WORDS_URL, SimpleSpelling, SpellingBee, words_file
from nanochat.tasks.table import HubFiles
from nanochat.tasks.task import Mixture, Task
from nanochat.tasks.tinyworld_qa import Exam
from nanochat.tinyworld import load_exam

SPELLING_TRAIN, BEE_TRAIN, BEE_TEST = 200_000, 80_000, 256
GRADED = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval", "spellingbee", "tinyworld")
CHATCORE = GRADED[:-1]
NAMES = (*GRADED, "smoltalk", "simplespelling")

# What a chat model of GPT-2's size learns from: half a million conversations, then what they lack.
REAL_MIXTURE = "smoltalk,mmlu:3,gsm8k:4,simplespelling,spellingbee"
REAL_VALIDATION = {"smoltalk": 24_000, "mmlu": 5_200, "gsm8k": 420}

# name -> the splits on the hub that training and evaluation use
SOURCES: dict[str, tuple[HubFiles, ...]] = {
    "arc-easy": (arc.files("easy", "train"), arc.files("easy", "test")),
    "arc-challenge": (arc.files("challenge", "train"), arc.files("challenge", "test")),
    "mmlu": (mmlu.files("train"), mmlu.files("test")),
    "gsm8k": (gsm8k.files("train"), gsm8k.files("test")),
    "humaneval": (humaneval.files("test"),),
    "smoltalk": (smoltalk.files("train"), smoltalk.files("test")),
}


class NoSuchTask(UserError):
    """The name is no task we know and no file that exists."""


def open_task(name: str, split: str = "test", run: humaneval.Runner | None = None) -> Task:
    """A task by name, or a JSONL file of conversations by its path.

    `split` is train or test; `run` is the sandbox that grades humaneval.
    Raises NoSuchTask, DataMissing, BrokenTask.
    """
    if name.endswith((".jsonl", ".json")):
        return CustomJSON(Path(name).expanduser())
    if name in ("arc-easy", "arc-challenge"):
        which = name.removeprefix("arc-")
        return arc.ARC(arc.files(which, split).table(), which)
    if name == "mmlu":
        return mmlu.MMLU(mmlu.files(split).table())
    if name == "gsm8k":
        return gsm8k.GSM8K(gsm8k.files(split).table())
    if name == "humaneval":
        return humaneval.HumanEval(humaneval.files("test").table(), run)
    if name == "smoltalk":
        return smoltalk.SmolTalk(smoltalk.files(split).table())
    if name == "simplespelling":
        return SimpleSpelling(SPELLING_TRAIN if split == "train" else BEE_TEST, split)
    if name == "spellingbee":
        return SpellingBee(BEE_TRAIN if split == "train" else BEE_TEST, split)
    if name == "tinyworld":
        folder = data_dir("tinyworld")
        if split == "train":
            return CustomJSON(folder / "sft_train.jsonl")
        return Exam(load_exam(folder / "exam.jsonl"))
    raise NoSuchTask(f"no task {name!r}: choose of {', '.join(NAMES)}, or give a .jsonl file")


def parse_parts(text: str) -> list[tuple[str, int]]:
    """Names with the number of passes; "real" is the mixture for a model of GPT-2's grade.

    >>> parse_parts("smoltalk,mmlu:3")
    [('smoltalk', 1), ('mmlu', 3)]
    """
    text = REAL_MIXTURE if text.strip() == "real" else text
    parts = []
    for word in filter(None, map(str.strip, text.split(","))):
        name, _, times = word.rpartition(":")
        parts.append((name, int(times)) if name and times.isdigit() else (word, 1))
    if not parts:
        raise NoSuchTask(f"no task in {text!r}: choose of {', '.join(NAMES)}")
    return parts


def sft_mixture(text: str, seed: int = 42) -> Mixture:
    """Training conversations: "smoltalk,mmlu:3" is one pass over smoltalk and three over mmlu."""
    parts = parse_parts(text)
    return Mixture([(open_task(name, "train"), times) for name, times in parts], seed)


def sft_validation(text: str, seed: int = 42) -> Mixture:
    """Unseen conversations of the same tasks, of large ones the first few thousand."""
    found = []
    for name, _ in parse_parts(text):
        unseen = "test" if not name.endswith((".jsonl", ".json")) else "train"
        if name == "tinyworld":
            task: Task = CustomJSON(data_dir("tinyworld") / "sft_val.jsonl")
        else:
            task = open_task(name, unseen)
        found.append((task[: REAL_VALIDATION.get(name, 1_000)], 1))
    return Mixture(found, seed, "validation")


def fetch_tasks(
    names: Sequence[str], hub: Hub, workers: int = 4, report: Report | None = None
) -> tuple[int, int]:
    """Fetch what these tasks need and lack; returns (files fetched, files in all)."""
    unknown = [name for name in names if name not in SOURCES and name != "spellingbee"]
    if unknown:
        raise NoSuchTask(
            f"nothing to fetch for {', '.join(unknown)}: choose of "
            f"{', '.join([*SOURCES, 'spellingbee'])}"
        )
    files = [one for name in names for part in SOURCES.get(name, ()) for one in part.remote()]
    fetched = download_all(files, hub, workers, report)
    if "spellingbee" in names:
        fetched += fetch_address(WORDS_URL, words_file(), hub, report)
    return fetched, len(files) + ("spellingbee" in names)
