"""Put the held-out TinyWorld exam to a chat model and show how many answers are right, by kind.

Writes the record `exam` for the report. Every question is answered greedily, in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.chat_eval import take_exam
from nanochat.checkpoint import load_model
from nanochat.cli import parse, print_json, run
from nanochat.device import pick_device, use_threads
from nanochat.engine import Engine
from nanochat.paths import data_dir
from nanochat.report import record
from nanochat.sampling import Sampling
from nanochat.tinyworld import load_exam
from nanochat.tinyworld_exam import grade, majority_baseline


@dataclass(frozen=True)
class ChatEvalSettings:
    """Which model sits the exam."""

    stage: str = "sft"  # base | sft | rl
    tag: str = ""  # name of the run; empty: the newest
    device: str = "auto"  # auto | cpu | cuda | mps
    threads: int = 0  # processor threads; 0: one for each core
    max_tokens: int = 96  # longest answer, tokens
    wrong: int = 0  # print this many wrong answers of each kind
    json: bool = False  # print one JSON object as the last line


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(ChatEvalSettings, argv, "nanochat chat-eval", __doc__)
    use_threads(settings.threads)
    items = load_exam(data_dir("tinyworld") / "exam.jsonl")
    model, tokenizer, meta = load_model(
        settings.stage, settings.tag or None, pick_device(settings.device)
    )
    engine = Engine(model, tokenizer)

    def answer(conversations: Sequence[list]) -> list[str]:
        prompts = [tokenizer.render_for_completion({"messages": m}) for m in conversations]
        sampling = Sampling(max_tokens=settings.max_tokens, temperature=0.0)
        return [done.text for done in engine.generate_batch(prompts, sampling)]

    exam = take_exam(items, answer, grade)
    result = exam.record(majority_baseline(items)) | {"stage": settings.stage, "step": meta["step"]}
    for kind, marks in sorted(result["kinds"].items()):
        print(f"  {kind:<14} {marks['accuracy']:6.1%}   (guessing {marks['majority']:.0%})")
        for _, question, reply in [w for w in exam.wrong if w[0] == kind][: settings.wrong]:
            print(f"      {question!r}\n      -> {reply!r}")
    print(f"exam: {result['overall']:.1%} of {result['questions']} held-out questions")
    record("exam", result)
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
