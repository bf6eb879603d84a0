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
from nanochat.sft import (
    ConversationLoader,
    Conversations,
    ConversationsBroken,
    SftSettings,
    prepare_sft,
    read_conversations,
    steps_of,
)
from nanochat.tasks.catalogue import sft_mixture, sft_validation
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import check_passes, restore, resume_point, train

VALIDATION_BATCHES = 12


def open_data(source: str, seed: int) -> tuple[Conversations, Conversations, str]:
    """Conversations to learn from, unseen ones, and a word that names the former exactly.

    A file of one's own serves as both; a list of tasks ("smoltalk,mmlu:3") becomes a mixture.
    """
    one_file = source.endswith((".json", ".jsonl")) and "," not in source
    if source != "tinyworld" and not one_file and not Path(source).is_file():
        mixed = sft_mixture(source, seed)
        word = f"{source}, {len(mixed)} conversations in order {seed}"
        return mixed, sft_validation(source, seed), word
    folder = data_dir("tinyworld")
    train_file, val_file = Path(source), Path(source)
    if source == "tinyworld":
        train_file, val_file = folder / "sft_train.jsonl", folder / "sft_val.jsonl"
    conversations = read_conversations(train_file)
    word = hashlib.sha256(train_file.read_bytes()).hexdigest()
    return conversations, read_conversations(val_file), word


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(SftSettings, argv, "nanochat chat-sft", __doc__)
    use_threads(settings.threads)
    device = pick_device(settings.device)
    world = join(device)
    check_passes(settings.accumulation)
    tokenizer = Tokenizer.load(tokenizer_dir())
    base = load_checkpoint(find_checkpoint("base", settings.base_tag or None))
    conversations, held_out, data = open_data(settings.data, settings.seed)
    steps = steps_of(settings, conversations, tokenizer)
    tag = settings.tag or base.path.parent.name
    if settings.dry_run:
        tokens = steps * settings.rows * settings.context * settings.accumulation
        print(f"{len(conversations):,} conversations, {steps:,} steps, {tokens:,} tokens")
        return 0

    def loader(rows: Conversations, state=None) -> ConversationLoader:
        return ConversationLoader(
            rows, tokenizer, settings.rows, settings.context, settings.buffer, state=state
        )

    checkpoint = resume_point("sft", tag, settings)
    batches = loader(conversations, checkpoint.meta["batches"] if checkpoint else None)
    tuned = prepare_sft(settings, base, tokenizer, batches, steps)
    if checkpoint:
        if checkpoint.meta.get("data", data) != data:
            raise ConversationsBroken(
                f"{checkpoint.path} was made with other conversations than --data {settings.data}; "
                "give the same --data, or --overwrite to start afresh"
            )
        restore(tuned, checkpoint)
    unseen = loader(held_out)
    validation = world.mine([next(unseen) for _ in range(VALIDATION_BATCHES)])
    sizes = tokenizer.token_bytes()

    def evaluate(model: GPT) -> float:
        return bits_per_byte(model, validation, sizes)

    tuned.evaluate = evaluate
    tuned.provenance["data"] = data
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
