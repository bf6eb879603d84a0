"""Put exams to a chat model: the held-out TinyWorld questions, or MMLU, ARC, GSM8K and more.

Writes the record `exam` (TinyWorld) for the report, the record `chat_eval` for everything else, and
a picture of it. Multiple choice takes one forward pass; free answers are written greedily, or drawn
--samples times for pass@k. HumanEval's programs run in the sandbox, or the task is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.atomic import write_atomically
from nanochat.chat_eval_tasks import TaskResult, chatcore, choose_letters, write_answers
from nanochat.checkpoint import load_model
from nanochat.cli import parse, print_json, run
from nanochat.device import pick_device, use_threads
from nanochat.distributed import join
from nanochat.engine import Engine
from nanochat.execution import Limits
from nanochat.execution import run as run_boxed
from nanochat.paths import report_dir
from nanochat.picture import bar_chart_svg
from nanochat.report import record
from nanochat.sampling import Sampling
from nanochat.tasks.catalogue import CHATCORE, open_task, parse_parts
from nanochat.tasks.task import Task
from nanochat.tasks.tinyworld_qa import Exam
from nanochat.tinyworld_exam import majority_baseline


@dataclass(frozen=True)
class ChatEvalSettings:
    """Which model sits which exam."""

    stage: str = "sft"  # base | sft | rl
    tag: str = ""  # name of the run; empty: the newest
    tasks: str = "tinyworld"  # tinyworld, arc-easy, ..., with commas; chatcore: the six of ChatCORE
    at_most: int = 0  # questions of each task; 0: all
    samples: int = 1  # answers to each question; more than 1 gives pass@k
    temperature: float = 1.0  # of the draws when there are several; a single answer is greedy
    top_k: int = 50  # draw from the k best tokens only; 0 is off
    device: str = "auto"  # auto | cpu | cuda | mps
    threads: int = 0  # processor threads; 0: one for each core
    max_tokens: int = 96  # longest answer, tokens (GSM8K and HumanEval need 512)
    wrong: int = 0  # print this many wrong answers of each kind
    json: bool = False  # print one JSON object as the last line


def passes(program: str) -> bool:
    """Does a program end without an error? It runs in the sandbox and nowhere else."""
    return run_boxed(program, Limits()).ok


def tasks_of(settings: ChatEvalSettings) -> list[Task]:
    """All tasks opened before the model is loaded: what is missing is said at once."""
    names = [
        name for name, _ in parse_parts(settings.tasks.replace("chatcore", ",".join(CHATCORE)))
    ]
    tasks = [open_task(name, "test", passes) for name in names]
    return [task[: settings.at_most] if settings.at_most else task for task in tasks]


def answerer(settings: ChatEvalSettings, engine: Engine):
    """Writes `answers` replies to each prompt: one greedily, several by drawing."""

    def generate(prompts: Sequence[list[int]], answers: int) -> list[list[str]]:
        heat = settings.temperature if answers > 1 else 0.0
        each = [
            Sampling(settings.max_tokens, heat, settings.top_k, seed=seed)
            for _ in prompts
            for seed in range(answers)
        ]
        repeated = [prompt for prompt in prompts for _ in range(answers)]
        texts = [done.text for done in engine.generate_batch(repeated, each)]
        return [texts[i : i + answers] for i in range(0, len(texts), answers)]

    return generate


def show(result: TaskResult, majority: dict[str, float], wrong: int) -> dict[str, Any]:
    """One line a kind; returns accuracy by kind."""
    kinds = {}
    for kind, marks in sorted(result.by_kind().items()):
        guess = majority.get(kind, result.chance)
        kinds[kind] = {"accuracy": sum(marks) / len(marks), "n": len(marks), "majority": guess}
        print(f"  {kind:<14} {kinds[kind]['accuracy']:6.1%}   (guessing {guess:.0%})")
        for _, question, reply in [w for w in result.wrong if w[0] == kind][:wrong]:
            print(f"      {question!r}\n      -> {reply!r}")
    return kinds


def tell(
    task: Task, result: TaskResult, settings: ChatEvalSettings, origin: dict[str, Any]
) -> dict[str, Any]:
    """Print a task's figures; returns what the record `exam` holds, nothing for other tasks."""
    whole = getattr(task, "task", task)  # of a slice, what it is a slice of
    items = whole.items if isinstance(whole, Exam) else []
    kinds = show(result, majority_baseline(items), settings.wrong)
    print(f"{task.name}: {result.accuracy:.1%} of {len(result.marks)} held-out questions")
    if not items:
        return {}
    exam = {"overall": result.accuracy, "questions": len(result.marks), "kinds": kinds}
    if len(result.marks) == len(items) and settings.samples == 1:
        record("exam", exam | origin)  # a part of the exam is no result to report
    return exam


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ChatEvalSettings, argv, "nanochat chat-eval", __doc__)
    use_threads(settings.threads)
    tasks = tasks_of(settings)
    device = pick_device(settings.device)
    world = join(device)
    model, tokenizer, meta = load_model(settings.stage, settings.tag or None, device)
    engine = Engine(model, tokenizer)
    origin = {"stage": settings.stage, "step": meta["step"]}
    results: list[TaskResult] = []
    exam: dict[str, Any] = {}
    for task in tasks:
        if task.letters(0):
            result = choose_letters(model, tokenizer, task)
        else:
            write = answerer(settings, engine)
            result = write_answers(write, tokenizer, task, engine.context, settings.samples)
        results.append(result)
        if world.leads:
            exam |= tell(task, result, settings, origin)
    if not world.leads:
        return 0
    outcome = exam | origin | {"tasks": {one.name: one.record() for one in results}}
    measured = [one for one in results if one.name in CHATCORE]
    if measured:
        outcome["chatcore"] = chatcore(measured)
        print(f"ChatCORE over {len(measured)} of {len(CHATCORE)} tasks: {outcome['chatcore']:.4f}")
        record("chat_eval", outcome)
        bars = {r.name: {"accuracy": r.accuracy, "guessing": r.chance} for r in measured}
        title = f"ChatCORE {outcome['chatcore']:.3f}"
        picture = bar_chart_svg(title, bars, y_label="right answers")
        write_atomically(report_dir() / "chat_eval.svg", picture)
    if settings.json:
        print_json(outcome)
    return 0


if __name__ == "__main__":
    run(main)
