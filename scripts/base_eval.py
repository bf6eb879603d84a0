"""Measure a pretrained model: bits per byte on unseen text, CORE, and a few lines it writes.

CORE runs over the DCLM bundle once it is fetched (`nanochat task-download --tasks core`), until
then over a small one of the same form made of TinyWorld. Writes the record `base_eval` and
base_eval.svg.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat.atomic import write_atomically
from nanochat.checkpoint import load_model
from nanochat.cli import parse, print_json, run
from nanochat.core_eval_bundle import bundle_dir
from nanochat.core_eval_run import core_picture, run_core
from nanochat.core_eval_tinyworld import write_bundle
from nanochat.dataloader import PackedLoader
from nanochat.dataset import open_documents
from nanochat.device import pick_device, pick_dtype, use_threads
from nanochat.distributed import here, join
from nanochat.engine import Engine
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.loss_eval import bits_per_byte
from nanochat.paths import data_dir, report_dir
from nanochat.report import record
from nanochat.sampling import Sampling
from nanochat.tinyworld import load_exam
from nanochat.tokenizer import Tokenizer

PROMPTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow is",
    "The opposite of hot is",
    "The planets of the solar system are",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
)
PARTS = ("bpb", "core", "sample")


class NothingToMeasure(UserError):
    """--eval names no part that we know."""


@dataclass(frozen=True)
class BaseEvalSettings:
    """What to measure of which model."""

    stage: str = "base"  # base | sft | rl
    tag: str = ""  # name of the run; empty: the newest
    eval: str = "bpb,core,sample"  # parts, with commas
    bundle: str = "auto"  # dclm | tinyworld | a folder; auto: dclm once it is fetched
    max_per_task: int = 0  # examples of each CORE task; 0: all
    batch_tokens: int = 0  # tokens in one forward pass of CORE; 0: 1,024, on a GPU 65,536
    one_at_a_time: bool = False  # CORE the slow way, one example in a pass, as a check
    eval_tokens: int = 65_536  # unseen tokens for bits per byte
    device: str = "auto"  # auto | cpu | cuda | mps
    dtype: str = "fp32"  # format of the activations: auto | fp32 | bf16 | fp16
    threads: int = 0  # processor threads; 0: one for each core
    json: bool = False  # print one JSON object as the last line


def bundle_of(settings: BaseEvalSettings) -> Path:
    """The bundle's folder; TinyWorld's is written from the exam when it is needed."""
    name = settings.bundle
    if name == "auto":
        name = "dclm" if (bundle_dir("dclm") / "core.yaml").is_file() else "tinyworld"
    if name == "tinyworld":
        exam = load_exam(data_dir("tinyworld") / "exam.jsonl")
        return write_bundle(bundle_dir("tinyworld"), exam)
    return bundle_dir(name)


def say(line: str) -> None:
    """Of several processes one speaks."""
    if here().leads:
        print(line, flush=True)


def core(settings: BaseEvalSettings, model: GPT, tokenizer: Tokenizer) -> dict[str, Any]:
    """CORE with a line a task on the screen."""
    folder = here().leader_first(lambda: bundle_of(settings))
    limits = settings.max_per_task, settings.batch_tokens, settings.one_at_a_time
    result = run_core(model, tokenizer, folder, *limits, say)
    say(f"CORE of {folder.name}: {result['core']:.4f}")
    return result


def unseen_bits(
    settings: BaseEvalSettings, model: GPT, tokenizer: Tokenizer, meta: dict[str, Any]
) -> float:
    """Bits per byte on the validation text of the data that the model was trained on."""
    context = model.config.sequence_len
    documents = open_documents(meta["settings"].get("data", "tinyworld"), "val")
    rows = max(1, 4096 // context)
    loader = PackedLoader(documents, tokenizer, rows, context, buffer_documents=16, prefetch=False)
    count = max(1, settings.eval_tokens // (rows * context))
    own = here().mine(list(islice(loader, count)))
    return bits_per_byte(model, own, tokenizer.token_bytes())


def samples(model: GPT, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """Seven beginnings continued greedily, and four texts from nothing."""
    engine, bos = Engine(model, tokenizer), tokenizer.special("bos")
    greedy = Sampling(max_tokens=16, temperature=0)
    free = [Sampling(max_tokens=64, temperature=1.0, seed=seed) for seed in range(4)]
    prompts = [[bos, *tokenizer.encode(text)] for text in PROMPTS] + [[bos]] * len(free)
    written = engine.generate_batch(prompts, [greedy] * len(PROMPTS) + free)
    texts = [*PROMPTS, *[""] * len(free)]
    return [{"prompt": p, "text": done.text} for p, done in zip(texts, written, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(BaseEvalSettings, argv, "nanochat base-eval", __doc__)
    parts = settings.eval.replace(" ", "").split(",")
    if not set(parts) <= set(PARTS):
        raise NothingToMeasure(f"--eval {settings.eval}: choose of {', '.join(PARTS)}")
    use_threads(settings.threads)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    join(device)
    model, tokenizer, meta = load_model(settings.stage, settings.tag or None, device, dtype)
    result: dict[str, Any] = {"stage": settings.stage, "step": meta["step"]}
    if "bpb" in parts:
        result["val_bpb"] = unseen_bits(settings, model, tokenizer, meta)
        say(f"{result['val_bpb']:.4f} bits per byte on unseen text")
    if "core" in parts:
        result |= core(settings, model, tokenizer)
    if not here().leads:
        return 0
    if "sample" in parts:
        result["samples"] = samples(model, tokenizer)
        for one in result["samples"]:
            print(f"  {one['prompt']!r} -> {one['text']!r}")
    if "core" in parts:
        write_atomically(report_dir() / "base_eval.svg", core_picture(result))
    record("base_eval", result)
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
