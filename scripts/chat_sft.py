"""Fine-tune a pretrained model on conversations, graded on the assistant's words only.

Saves checkpoints under checkpoints/sft/<tag> and the record `sft` for the report.
Ctrl-C saves and stops; --resume goes on from there.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nanochat.checkpoint import find_checkpoint, load_checkpoint
from nanochat.cli import parse, print_json, run
from nanochat.device import gemm_gflops, pick_device, pick_dtype, use_threads
from nanochat.distributed import join
from nanochat.gpt import GPT
from nanochat.loss_eval import bits_per_byte
from nanochat.paths import data_dir, tokenizer_dir
from nanochat.progress import Progress
from nanochat.report import record
from nanochat.scaling import count_parameters
from nanochat.sft import ConversationLoader, SftSettings, prepare_sft, read_conversations, steps_of
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import check_passes, restore, resume_point, train

VALIDATION_BATCHES = 12


def files(source: str) -> tuple[Path, Path]:
    """Training and validation conversations; a file of one's own serves as both."""
    if source == "tinyworld":
        folder = data_dir("tinyworld")
        return folder / "sft_train.jsonl", folder / "sft_val.jsonl"
    return Path(source), Path(source)


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(SftSettings, argv, "nanochat chat-sft", __doc__)
    use_threads(settings.threads)
    device = pick_device(settings.device)
    world = join(device)
    check_passes(settings.accumulation)
    tokenizer = Tokenizer.load(tokenizer_dir())
    base = load_checkpoint(find_checkpoint("base", settings.base_tag or None))
    train_file, val_file = files(settings.data)
    conversations = read_conversations(train_file)
    steps = steps_of(settings, conversations, tokenizer)
    tag = settings.tag or base.path.parent.name
    if settings.dry_run:
        tokens = steps * settings.rows * settings.context * settings.accumulation
        print(f"{len(conversations):,} conversations, {steps:,} steps, {tokens:,} tokens")
        return 0

    def loader(rows: list, state=None) -> ConversationLoader:
        return ConversationLoader(
            rows, tokenizer, settings.rows, settings.context, settings.buffer, state=state
        )

    checkpoint = resume_point("sft", tag, settings)
    batches = loader(conversations, checkpoint.meta["batches"] if checkpoint else None)
    tuned = prepare_sft(settings, base, tokenizer, batches, steps)
    if checkpoint:
        restore(tuned, checkpoint)
    unseen = loader(read_conversations(val_file))
    validation = world.mine([next(unseen) for _ in range(VALIDATION_BATCHES)])
    sizes = tokenizer.token_bytes()

    def evaluate(model: GPT) -> float:
        return bits_per_byte(model, validation, sizes)

    tuned.evaluate = evaluate
    tuned.provenance["data"] = hashlib.sha256(train_file.read_bytes()).hexdigest()
    if world.leads:
        tuned.show = Progress(gemm_gflops(device, pick_dtype(settings.dtype, device)))
    state = train(tuned, settings)
    if not world.leads:
        return 0
    result = {
        "val_bpb": state.curve[-1][2],
        "curve": state.curve,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "tokens_per_s": state.tokens / state.seconds,
        "parameters": count_parameters(tuned.model.config).total,
        "tag": tag,
        "commit": tuned.provenance["commit"],
    }
    record("sft", result)
    print(f"chat model {tag}: {result['val_bpb']:.3f} bits per byte on unseen answers")
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
