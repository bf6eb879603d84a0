"""Fine-tuning on the real mixture: packing, empty masks, exact resume, bad input."""

import json
import shutil

import pytest
import task_files
import torch
from tiny_build import make_small, nanochat
from tiny_models import byte_tokenizer, lively_model

from nanochat.checkpoint import list_checkpoints, load_checkpoint
from nanochat.paths import checkpoints_dir
from nanochat.sft import ConversationLoader, ConversationsBroken, SftSettings, steps_of
from nanochat.tasks.catalogue import sft_mixture, sft_validation
from nanochat.tasks.spellingbee import SimpleSpelling
from nanochat.tasks.task import Mixture

TOKENIZER = byte_tokenizer()
REAL = "smoltalk,mmlu:3,gsm8k:4,simplespelling,spellingbee"


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def mixture():
    task_files.put_all()
    return sft_mixture(REAL)


def loader(conversations, context: int = 250, **more) -> ConversationLoader:
    return ConversationLoader(conversations, TOKENIZER, 3, context, buffer=12, **more)


def test_rows_are_packed_full_with_whole_conversations(mixture):
    bos, real, rows = TOKENIZER.special("bos"), 0, loader(mixture)
    for _ in range(12):
        inputs, targets = next(rows)
        assert inputs.shape == targets.shape == (3, 250)
        assert (inputs[:, 0] == bos).all()
        real += int((inputs != bos).sum())
        graded = targets >= 0
        assert graded.any() and (targets[graded] != bos).all()
    assert real > 0.8 * 12 * 3 * 250


def test_a_loader_goes_on_exactly_where_its_state_was_taken(mixture):
    whole, part = loader(mixture), loader(mixture)
    for _ in range(3):
        next(whole), next(part)
    state = json.loads(json.dumps(part.state_dict()))
    resumed = loader(mixture, state=state)
    for _ in range(5):
        for ours, theirs in zip(next(whole), next(resumed), strict=True):
            assert torch.equal(ours, theirs)


def test_conversations_without_a_graded_token_are_left_out_and_never_make_nan():
    """A question longer than the row leaves its answer outside: nothing of it could be learned."""
    question = {"role": "user", "content": "long " * 100}
    answer = {"role": "assistant", "content": "yes"}
    empty = [{"messages": [question, answer]}] * 5
    mixed = [*empty, *SimpleSpelling(5)]
    rows, model = loader(mixed, context=120), lively_model()
    for _ in range(3):
        inputs, targets = next(rows)
        assert model(inputs, targets).isfinite()
    assert rows.skipped == {0, 1, 2, 3, 4}
    with pytest.raises(ConversationsBroken, match="no conversation has an answer"):
        next(loader(empty, context=120))
    nothing = torch.full((2, 50), -1)
    loss = model(torch.zeros(2, 50, dtype=torch.long), nothing)
    loss.backward()
    assert loss == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_length_of_a_run_is_estimated_from_a_sample(mixture):
    small = SftSettings(rows=3, context=250)
    task = SimpleSpelling(1000)
    steps = steps_of(small, task, TOKENIZER)
    tokens = sum(len(TOKENIZER.render_conversation(one)[0]) for one in task)
    assert steps == pytest.approx(tokens / 0.92 / 750, rel=0.05)
    assert steps_of(SftSettings(steps=7), mixture, TOKENIZER) == 7
    assert steps_of(small, Mixture([(task, 300)]), TOKENIZER) > 250 * steps, "quick for any length"


def test_validation_is_unseen(mixture):
    unseen = sft_validation("spellingbee")
    seen = {json.dumps(one) for one in sft_mixture("spellingbee")[:2000]}
    assert len(unseen) == 256 and not seen & {json.dumps(one) for one in unseen}


@pytest.mark.slow
def test_chat_sft_on_the_real_mixture_resumes_bit_for_bit(base, tmp_path, capsys):
    make_small(base, "tinyworld-make", "tok-train", "base-train")
    task_files.put_all()
    flags = ("chat-sft", "--data", REAL + ",tinyworld", "--steps", "6", "--rows", "2")
    flags += ("--context", "512", "--save-every", "3", "--threads", "1", "--tag", "mix")
    assert nanochat(*flags) == 0
    folder = checkpoints_dir("sft", "mix")
    first, last = list_checkpoints(folder)
    truth = load_checkpoint(last)
    shutil.rmtree(last)
    assert nanochat(*flags, "--resume") == 0
    again = load_checkpoint(last)
    for kind in ("model", "optimizer"):
        ours, theirs = getattr(truth, kind), getattr(again, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), kind
    assert again.meta["batches"] == truth.meta["batches"] and first.exists()
    capsys.readouterr()
    assert nanochat("chat-sft", "--data", "smoltalk,trivia", "--steps", "1") == 2
    assert "no task 'trivia'" in capsys.readouterr().err
