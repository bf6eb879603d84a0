"""The training loop: resumed equals uninterrupted, bit for bit; batches, bpb, plans."""

import json
import math
from itertools import islice
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, config

from nanochat.attention import window_mask
from nanochat.device import peak_bf16_tflops
from nanochat.gpt import GPT
from nanochat.loss_eval import NothingToEvaluate, bits_per_byte
from nanochat.optimizers import Optimizers, OptimizerSettings
from nanochat.pretrain import PretrainSettings, size_run
from nanochat.progress import WARM_UP_STEPS, Progress
from nanochat.scaling import (
    BadPlan,
    auto_batch_tokens,
    batch_lr_scale,
    count_parameters,
    flops_per_token,
    flops_share,
    make_plan,
    model_config,
)
from nanochat.schedules import Schedule
from nanochat.sft import (
    ConversationLoader,
    ConversationsBroken,
    SftSettings,
    read_conversations,
    steps_of,
)
from nanochat.train_loop import (
    LoopSettings,
    LossNotFinite,
    Run,
    RunExists,
    Stopped,
    restore,
    resume_point,
    train,
)
from scripts import base_train


def conversations(count: int) -> list[dict[str, Any]]:
    """Dialogues of very different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"question {i} " + "la " * (i * 7 % 13)},
                {"role": "assistant", "content": f"answer {i} " + "so " * (i * 5 % 9)},
            ]
        }
        for i in range(count)
    ]


def loader(count: int = 30, state: dict[str, Any] | None = None) -> ConversationLoader:
    rows = conversations(count)
    return ConversationLoader(rows, byte_tokenizer(), 2, 100, buffer=8, state=state)


def a_run(batches: ConversationLoader, steps: int = 8, tag: str = "t") -> Run:
    model = GPT(config(sequence_len=100))
    model.init_weights(torch.Generator().manual_seed(0))
    sizes = byte_tokenizer().token_bytes()
    validation = list(islice(loader(), 2))
    return Run(
        stage="sft",
        tag=tag,
        model=model,
        optimizers=Optimizers(model, OptimizerSettings(lr_scale=0.3)),
        schedule=Schedule(steps, warmup_steps=2),
        batches=batches,
        accumulation=2,
        provenance={"model": {}, "tokenizer": "bytes"},
        evaluate=lambda m: bits_per_byte(m, validation, sizes),
    )


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    torch.set_num_threads(1)
    return tmp_path


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(base, stop):
    whole = a_run(loader(), tag="whole")
    train(whole, LoopSettings(eval_every=2))

    cut = a_run(loader(), tag="cut")
    cut.show = lambda run, seconds: run.state.step == stop and signal_self()
    with pytest.raises(Stopped):
        train(cut, LoopSettings(eval_every=2))
    settings = LoopSettings(eval_every=2, resume=True)
    checkpoint = resume_point("sft", "cut", settings)
    assert checkpoint is not None and checkpoint.meta["step"] == stop
    resumed = a_run(loader(state=checkpoint.meta["batches"]), tag="cut")
    restore(resumed, checkpoint)
    train(resumed, settings)

    assert all(torch.equal(weights(whole)[n], w) for n, w in weights(resumed).items())
    assert resumed.state.curve == whole.state.curve
    assert resumed.state.smooth_loss == whole.state.smooth_loss
    assert resumed.state.tokens == whole.state.tokens == 8 * 2 * 2 * 100


def signal_self() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGTERM)


def test_a_checkpoint_is_there_before_its_evaluation_begins(base):
    run = a_run(loader())

    def dies(model: GPT) -> float:
        raise RuntimeError("the evaluation died")

    run.evaluate = dies
    with pytest.raises(RuntimeError):
        train(run, LoopSettings(eval_every=4))
    checkpoint = resume_point("sft", "t", LoopSettings(resume=True))
    assert checkpoint is not None and checkpoint.meta["step"] == 4


def test_an_evaluation_that_was_cut_off_is_made_up_for(base):
    first = a_run(loader(), steps=4)
    first.evaluate = None
    train(first, LoopSettings(eval_every=4))
    checkpoint = resume_point("sft", "t", LoopSettings(resume=True))
    assert checkpoint is not None
    again = a_run(loader(state=checkpoint.meta["batches"]), steps=4)
    restore(again, checkpoint)
    assert [point[0] for point in train(again, LoopSettings(eval_every=4)).curve] == [4]


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(base):
    run = a_run(loader())

    def poison(run: Run, seconds: float) -> None:
        if run.state.step == 3:
            run.model.head.weight.data[0, 0] = math.nan

    run.show = poison
    with pytest.raises(LossNotFinite, match="step 4"):
        train(run, LoopSettings(eval_every=2))
    checkpoint = resume_point("sft", "t", LoopSettings(resume=True))
    assert checkpoint is not None and checkpoint.meta["step"] == 2
    assert all(t.isfinite().all() for t in checkpoint.model.values())


def test_a_run_is_never_overwritten_unasked(base):
    train(a_run(loader(), steps=1), LoopSettings())
    with pytest.raises(RunExists, match="--resume"):
        resume_point("sft", "t", LoopSettings())
    assert resume_point("sft", "t", LoopSettings(overwrite=True)) is None
    assert resume_point("sft", "t", LoopSettings()) is None  # the old one is gone


# --- conversations ---


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_the_conversation_loader_goes_on_where_it_was(taken):
    first = loader()
    for _ in range(taken):
        next(first)
    second = loader(state=json.loads(json.dumps(first.state_dict())))
    for _ in range(6):
        for a, b in zip(next(first), next(second), strict=True):
            assert torch.equal(a, b)


def test_every_conversation_is_taken_once_an_epoch_and_only_answers_are_graded():
    tokenizer, batches, seen = byte_tokenizer(), loader(30), []
    for _ in range(25):
        inputs, targets = next(batches)
        assert inputs.shape == targets.shape == (2, 100)
        for row, graded in zip(inputs, targets, strict=True):
            answers = tokenizer.decode([int(t) for t in graded if t >= 0])
            assert "question" not in answers
            text = tokenizer.decode(row.tolist())
            seen += [int(word.split()[0]) for word in text.split("question ")[1:]]
    taken = set(range(batches.position)) - set(batches.waiting)
    assert batches.position > 60 and sorted(seen) == sorted(i % 30 for i in taken)


def test_a_row_is_mostly_full():
    batches = loader(200)
    _, targets = next(batches)
    inputs = torch.cat([next(batches)[0] for _ in range(10)])
    bos = byte_tokenizer().special("bos")
    padding = (inputs[:, :-1] == bos) & (inputs[:, 1:] == bos)
    assert padding.float().mean() < 0.25 and targets.ge(0).any()


@pytest.mark.parametrize("line", ["{", "[]", '{"messages": []}', '{"other": 1}', "3"])
def test_a_broken_line_of_conversations_is_named(tmp_path, line):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(conversations(1)[0]) + "\n" + line + "\n")
    with pytest.raises(ConversationsBroken, match="line 2"):
        read_conversations(path)


def test_a_conversation_that_teaches_nothing_is_skipped_and_counted():
    rows = conversations(3)
    rows[1]["messages"][0]["content"] = "x" * 500  # the answer lies beyond the row
    batches = ConversationLoader(rows, byte_tokenizer(), 1, 100, buffer=2)
    for _ in range(4):
        assert next(batches)[1].ge(0).any()
    assert batches.skipped == {1}


def test_a_file_in_which_no_conversation_fits_is_refused():
    rows = conversations(2)
    for row in rows:
        row["messages"][0]["content"] = "x" * 500
    with pytest.raises(ConversationsBroken, match="--context"):
        next(ConversationLoader(rows, byte_tokenizer(), 1, 100, buffer=2))


def test_the_number_of_steps_covers_about_one_epoch():
    settings = SftSettings(rows=2, context=100, buffer=8)
    rows, batches, steps = conversations(200), loader(200), 0
    while batches.position < 200:
        next(batches)
        steps += 1
    assert steps_of(settings, rows, byte_tokenizer()) == pytest.approx(steps, rel=0.2)


# --- bits per byte ---


def test_a_model_that_knows_nothing_needs_the_bits_of_its_vocabulary():
    """Uniform over 265 tokens of one byte each: log2(265) bits a byte."""
    model = GPT(config())
    model.head.weight.data.zero_()
    tokens = torch.randint(0, 256, (2, 31), generator=torch.Generator().manual_seed(0))
    batch = (tokens[:, :-1], tokens[:, 1:])
    bpb = bits_per_byte(model, [batch], byte_tokenizer().token_bytes())
    assert bpb == pytest.approx(math.log2(265), rel=1e-5)


def test_specials_and_ungraded_targets_do_not_count():
    model = GPT(config())
    model.init_weights(torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 256, (1, 20), generator=torch.Generator().manual_seed(1))
    targets = tokens.roll(-1, 1)
    targets[0, 10:] = -1
    with_special = targets.clone()
    with_special[0, 5] = byte_tokenizer().special("bos")
    sizes = byte_tokenizer().token_bytes()
    nats = model(tokens, targets, reduction="none")[0].detach()
    keep = [i for i in range(10) if i != 5]
    expected = float(nats[keep].sum()) / (math.log(2) * len(keep))
    assert bits_per_byte(model, [(tokens, with_special)], sizes) == pytest.approx(expected, 1e-5)
    with pytest.raises(NothingToEvaluate):
        bits_per_byte(model, [(tokens, torch.full_like(targets, -1))], sizes)


# --- the dial and the plan ---


@pytest.mark.parametrize(
    ("depth", "width", "total", "matrices", "flops"),
    [(4, 256, 36.7e6, 11.5e6, 8.02e7), (12, 768, 286.3e6, 110.1e6, 7.60e8)],
)
def test_the_dial_gives_the_published_sizes(depth, width, total, matrices, flops):
    c = model_config(depth, 32768, 2048, window_pattern="SSSL")
    sizes = count_parameters(c)
    assert c.n_embd == width
    assert sizes.total == pytest.approx(total, rel=2e-3)
    assert sizes.matrices == pytest.approx(matrices, rel=3e-3)
    assert flops_per_token(c) == pytest.approx(flops, rel=3e-3)


@pytest.mark.parametrize("context", [200, 1024])
def test_causal_attention_counts_the_keys_that_a_token_really_sees(context):
    config = model_config(4, 4096, context, window_pattern="SSL")
    masks = [window_mask(context, w, torch.device("cpu")) for w in config.windows()]
    seen = sum(int(mask.sum()) for mask in masks) / context
    attention = flops_per_token(config, causal=True) - 6 * count_parameters(config).matrices
    assert attention == round(12 * config.n_embd * seen)
    assert flops_per_token(config, causal=True) < flops_per_token(config)


def test_the_share_of_the_peak_is_the_models_operations_over_the_hardwares():
    config = model_config(12, 32768, 2048)
    full, causal = flops_per_token(config), flops_per_token(config, causal=True)
    shares = flops_share(config, 1e12 / full, peak_tflops=2.0)
    assert shares == {"mfu": 0.5, "mfu_causal": pytest.approx(0.5 * causal / full, abs=1e-4)}
    assert flops_share(config, 1e5, peak_bf16_tflops("a GPU nobody knows")) == {}


def test_a_run_on_a_gpu_says_which_one_and_what_share_of_its_peak(monkeypatch):
    run = a_run(loader())
    run.state.step, run.state.tokens = 4, 4 * 10**9
    assert base_train.speed(run, step_s=0.5) == {}, "a processor's record stays as it was"
    monkeypatch.setattr(base_train, "gpu_name", lambda device: "NVIDIA H100 80GB HBM3")
    found = base_train.speed(run, step_s=0.5)
    assert found["steady_tokens_per_s"] == 2e9
    assert 0 < found["mfu_causal"] <= found["mfu"] and found["gpu"].startswith("NVIDIA H100")


def test_the_first_steps_do_not_count_for_the_speed_of_a_run():
    progress = Progress(gflops=1.0)
    progress.steps_s = [60.0] * WARM_UP_STEPS + [1.0, 2.0, 3.0]
    assert progress.steady_step_s() == 2.0
    progress.steps_s = [4.0, 5.0, 9.0]
    assert progress.steady_step_s() == 5.0, "a run that ended sooner"


def test_batch_and_rate_follow_the_dial():
    assert auto_batch_tokens(model_config(12, 32768, 2048), 12.0) == 2**19
    assert auto_batch_tokens(model_config(24, 32768, 2048), 12.0) == 2**20
    assert batch_lr_scale(2**17) == 0.5


def test_a_plan_counts_what_a_model_really_has():
    c = model_config(2, 300, 64, head_size=32)
    plan = make_plan(c, 10, 4, 2, torch.device("cpu"), gflops=100.0)
    assert plan.sizes.total == sum(p.numel() for p in GPT(c).parameters())
    assert plan.tokens == 10 * 4 * 2 * 64 == plan.record()["tokens"]
    assert plan.seconds > 10 * 8 * 64 * plan.flops_per_token / 100e9
    assert "5,120 tokens" in plan.text()


@pytest.mark.parametrize(
    "changes",
    [{"depth": 0}, {"batch_tokens": 1000}, {"preset": "old"}, {"kv_share": 3}, {"max_context": 9}],
)
def test_sizes_that_do_not_fit_are_refused_with_the_remedy(changes):
    with pytest.raises(BadPlan):
        size_run(PretrainSettings(**changes), 2048)
