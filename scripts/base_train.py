"""Pretrain a model on plain text; --depth is the one dial, --dry-run shows what it will cost.

Saves checkpoints under checkpoints/base/<tag> and the record `base` for the report.
Ctrl-C saves and stops; --resume goes on from there, also on another number of processes:
`torchrun --standalone --nproc-per-node 2 -m scripts base-train ...`
"""

from collections.abc import Sequence
from itertools import islice

from nanochat.cli import parse, print_json, run
from nanochat.dataloader import PackedLoader
from nanochat.dataset import open_documents
from nanochat.device import (
    gemm_gflops,
    gpu_name,
    gpu_peak_memory_mb,
    peak_bf16_tflops,
    pick_device,
    pick_dtype,
    use_threads,
)
from nanochat.distributed import join
from nanochat.gpt import GPT
from nanochat.loss_eval import bits_per_byte
from nanochat.paths import tokenizer_dir
from nanochat.pretrain import PretrainSettings, plan_run, prepare, size_run
from nanochat.progress import Progress
from nanochat.report import record
from nanochat.scaling import count_parameters, flops_share
from nanochat.tokenizer import Tokenizer
from nanochat.train_loop import Run, restore, resume_point, train


def loader(settings: PretrainSettings, tokenizer: Tokenizer, split: str, state=None):
    """Packed rows of documents; validation keeps nothing waiting."""
    return PackedLoader(
        open_documents(settings.data, split),
        tokenizer,
        settings.rows,
        settings.context,
        buffer_documents=settings.buffer if split == "train" else 16,
        state=state,
        prefetch=split == "train",
    )


def speed(finished: Run, step_s: float) -> dict:
    """Tokens/s once a run is under way; on a GPU also its share of the peak, and memory."""
    device, state = finished.model.cos.device, finished.state
    steady = state.tokens / state.step / step_s
    name = gpu_name(device)
    found = {"steady_tokens_per_s": steady, "gpu": name, "gpu_peak_mb": gpu_peak_memory_mb(device)}
    peak = peak_bf16_tflops(name)
    return found | flops_share(finished.model.config, steady, peak) if name else {}


def summary(finished: Run) -> dict:
    """What the report needs to know of a run."""
    state = finished.state
    return {
        "val_bpb": state.curve[-1][2],
        "curve": state.curve,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "tokens_per_s": state.tokens / state.seconds,
        "parameters": count_parameters(finished.model.config).total,
        "tag": finished.tag,
        "commit": finished.provenance["commit"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(PretrainSettings, argv, "nanochat base-train", __doc__)
    use_threads(settings.threads)
    device = pick_device(settings.device)
    world = join(device)
    tokenizer = Tokenizer.load(tokenizer_dir())
    sizing = size_run(settings, tokenizer.vocab_size)
    if settings.dry_run:
        plan = plan_run(settings, sizing)
        print(plan.text())
        if settings.json:
            print_json(plan.record())
        return 0
    tag = settings.tag or f"d{settings.depth}"
    checkpoint = resume_point("base", tag, settings)
    batches = loader(settings, tokenizer, "train", checkpoint and checkpoint.meta["batches"])
    base = prepare(settings, sizing, tokenizer, batches)
    if checkpoint:
        restore(base, checkpoint)
    count = max(1, settings.eval_tokens // (settings.rows * settings.context))
    validation = world.mine(list(islice(loader(settings, tokenizer, "val"), count)))
    sizes = tokenizer.token_bytes()

    def evaluate(model: GPT) -> float:
        return bits_per_byte(model, validation, sizes)

    base.evaluate = evaluate
    if world.leads:
        base.show = progress = Progress(gemm_gflops(device, pick_dtype(settings.dtype, device)))
    train(base, settings)
    if not world.leads:
        return 0
    result = summary(base) | speed(base, progress.steady_step_s())
    record("base", result)
    print(f"base model {tag}: {result['val_bpb']:.3f} bits per byte on unseen text")
    if settings.json:
        print_json(result)
    return 0


if __name__ == "__main__":
    run(main)
