"""The step in C says what the model says, with the same bits in any company."""

import logging
import random
from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer, config, lively_model

import nanochat.engine_kernel
from nanochat.engine import Engine
from nanochat.engine_kernel import NoKernel, compile_step, decode_kernel, kernel_for
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache
from nanochat.sampling import Sampling
from nanochat.scheduler import Deaf, Request, Scheduler, SchedulerSettings, Written, broken_rows

SIZES = {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_kv_head": 2}
PLAIN = dict.fromkeys(("smear", "backout", "value_embeddings", "residual_scalars"), False)
TOKENIZER = byte_tokenizer()
LENGTHS = [3, 200, 40, 140, 1, 129, 130, 131, 7]  # the window looks back 128


@pytest.fixture(autouse=True, scope="module")
def made_in(tmp_path_factory):
    """Compiled once for this file, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path_factory.mktemp("made")))
        yield


def read(model: GPT, ring: bool = True) -> KVCache:
    """A cache whose rows hold prompts of LENGTHS."""
    dice = torch.Generator().manual_seed(1)
    cache = KVCache(model.config, len(LENGTHS), 300, ring=ring)
    for row, length in enumerate(LENGTHS):
        ids = torch.randint(265, (1, length), generator=dice)
        model(ids, cache=cache.view(row, row + 1))
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("changes", [{}, PLAIN | {"softcap": 0.0, "n_head": 1, "n_kv_head": 1}])
def test_the_step_in_c_has_the_models_scores_and_fills_the_same_cache(changes, ring):
    model = lively_model(10.0, **(SIZES | changes))
    kernel = decode_kernel(model, threads=2)
    ours, truth = read(model, ring), read(model, ring)
    dice = torch.Generator().manual_seed(2)
    for step in range(12):
        first, rows = step % 3, 1 + step % (len(LENGTHS) - 2)
        ids = torch.randint(265, (rows, 1), generator=dice)
        scores = kernel.scores(ids, ours.view(first, first + rows))
        wanted = model(ids, cache=truth.view(first, first + rows))[:, 0]
        torch.testing.assert_close(scores, wanted, atol=2e-4, rtol=1e-4)
    assert ours.lengths == truth.lengths
    pairs = zip((*ours.keys, *ours.values, ours.last), (*truth.keys, *truth.values, truth.last),
                strict=True)  # fmt: skip
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, atol=2e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bits_in_any_company(threads):
    model = lively_model(1.0, **SIZES)
    kernel, alone = decode_kernel(model, threads), decode_kernel(model, 1)
    together, apart = read(model), read(model)
    for _ in range(3):
        ids = torch.arange(len(LENGTHS))[:, None] + 65
        scores = kernel.scores(ids, together.view(0, len(LENGTHS)))
        for row in range(len(LENGTHS)):
            single = alone.scores(ids[row : row + 1], apart.view(row, row + 1))
            assert torch.equal(single[0], scores[row])


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 300.0])
def test_the_scheduler_with_the_step_in_c_writes_what_the_plain_engine_writes_alone(sharpness):
    model, dice = lively_model(sharpness, **SIZES), random.Random(3)
    alone = Engine(model, TOKENIZER)
    kernel = decode_kernel(model, threads=2)
    quick = Scheduler(Engine(model, TOKENIZER, kernel), SchedulerSettings(rows=5, read_tokens=48))
    requests = []
    for i in range(16):
        prompt = [dice.randrange(256) for _ in range(dice.choice([1, 30, 150]))]
        sampling = Sampling(dice.randrange(1, 40), dice.choice([0, 0.8]), dice.choice([0, 20]),
                            seed=i)  # fmt: skip
        requests.append(Request(alone.answer(prompt, sampling), Deaf()))
    for request in requests:
        quick.submit(request)
        assert all(isinstance(item, Written) for item in quick.step())
    while not quick.idle:
        quick.step()
    for request in requests:
        answer = request.answer
        wanted = [event.token for event in alone.stream(answer.prompt, answer.sampling)]
        assert answer.tokens == wanted


@torch.inference_mode()
def test_scores_that_are_no_numbers_stay_in_their_row():
    model = lively_model(1.0, **SIZES)
    cache = read(model)
    cache.keys[1][2] = float("nan")
    kernel = decode_kernel(model, threads=2)
    scores = kernel.scores(torch.full((4, 1), 65), cache.view(0, 4))
    assert broken_rows(scores) == {2}


@pytest.mark.parametrize("changes", [{"mlp": "swiglu"}, {"n_embd": 48}])
def test_a_model_that_c_does_not_know_is_left_to_pytorch(changes, caplog):
    caplog.set_level(logging.INFO)
    model = lively_model(1.0, **(SIZES | changes))
    assert kernel_for(model, "auto") is None
    assert [record.fields["event"] for record in caplog.records] == ["kernel"]
    with pytest.raises(NoKernel):
        kernel_for(model, "c")
    half = lively_model(1.0, **SIZES)
    half.dtype = torch.bfloat16
    assert kernel_for(half, "auto") is None and len(caplog.records) == 1
    with pytest.raises(NoKernel, match="fp32"):
        decode_kernel(half)


def test_a_model_on_another_device_is_left_to_pytorch_without_a_word(capsys):
    with torch.device("meta"):  # has no numbers, and is no processor
        model = GPT(config())
    assert kernel_for(model, "auto") is None and capsys.readouterr().err == ""
    with pytest.raises(NoKernel):
        kernel_for(model, "c")


def test_without_a_compiler_or_a_folder_there_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NoKernel, match="can't be written"):
        compile_step(tmp_path / "file")
    broken = tmp_path / "broken.c"
    broken.write_text("int decode_open(")
    monkeypatch.setattr(nanochat.engine_kernel, "SOURCE", broken)
    with pytest.raises(NoKernel, match="could not compile"):
        compile_step(tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoKernel, match="no C compiler"):
        compile_step(tmp_path)


def test_a_kernel_keeps_its_weights_and_goes_with_the_last_who_holds_it():
    model = lively_model(1.0, **SIZES)
    cache = read(model)
    kernel = decode_kernel(model, threads=3)
    before = kernel.scores(torch.tensor([[65]]), cache.view(0, 1))
    with torch.no_grad():
        model.head.weight.mul_(2)
    cache.lengths[0] -= 1  # the same token again, over itself
    cache.last[0] = read(model).last[0]
    again = kernel.scores(torch.tensor([[65]]), cache.view(0, 1))
    assert torch.equal(before, again)
    threads = threads_now()
    del kernel
    assert threads_now() == threads - 2


def threads_now() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
