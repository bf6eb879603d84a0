"""Exported models against the real libraries: transformers' own class, its tokenizer, onnxruntime.

Slow tests, because importing transformers takes seconds; the cheap ones below need none of it.
"""

import dataclasses
import json

import pytest
import torch
from tiny_build import nanochat
from tiny_models import byte_tokenizer, config, lively_model

from nanochat.checkpoint import load_checkpoint, provenance, save_checkpoint
from nanochat.export import (
    NotExportable,
    named_back,
    newest_classic,
    renamed,
    why_not,
    write_export,
)
from nanochat.export_check import NoExport, check_export, our_model
from nanochat.export_onnx import ExtraMissing, need, onnx_model
from nanochat.gpt import GPT, classic
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.pretrain import PretrainSettings
from nanochat.tokenizer import Tokenizer

TOKENIZER = byte_tokenizer()


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def classic_model(**changes) -> GPT:
    """Classic, with no weight zero; the head is sharp enough to reach into the softcap."""
    lively = lively_model(sharpness=100.0, **changes)
    model = GPT(classic(lively.config)).eval()
    model.load_state_dict(lively.state_dict(), strict=False)
    return model


def saved(model: GPT, tag: str = "classic", tokenizer: Tokenizer = TOKENIZER):
    """A checkpoint of the model, as a training run leaves it."""
    tokenizer.save(tokenizer_dir())
    meta = provenance(model.config, PretrainSettings(), tokenizer)
    meta["loop"] = {"curve": [[4, 2.5, 1.25, 1000]]}
    path = save_checkpoint(checkpoints_dir("base", tag), 4, model.state_dict(), {}, meta)
    return load_checkpoint(path)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 4}, {"n_kv_head": 1, "n_layer": 1}])
def test_transformers_own_class_gives_the_same_logits_on_fifty_prompts(tmp_path, changes):
    write_export(tmp_path / "out", saved(classic_model(**changes)), TOKENIZER)
    result = check_export(tmp_path / "out")
    assert result["prompts"] == 50 and result["against"] == "checkpoint"
    assert result["max_logit_diff"] < 1e-4 and result["greedy_equal"]
    assert result["tokens_equal"]


@pytest.mark.slow
def test_the_check_sees_a_weight_that_is_wrong(tmp_path):
    model = classic_model()
    checkpoint = saved(model)
    swapped = dict(checkpoint.model)
    q, k = "blocks.0.attn.q.weight", "blocks.0.mlp.up.weight"
    swapped[q], swapped[k] = swapped[q].flip(0), swapped[k] * 1.01
    write_export(tmp_path / "out", dataclasses.replace(checkpoint, model=swapped), TOKENIZER)
    assert check_export(tmp_path / "out")["max_logit_diff"] > 1e-2


@pytest.mark.slow
def test_the_commands_export_and_check_both_formats(tmp_path, capsys):
    checkpoint = saved(classic_model())
    out = str(tmp_path / "out")
    assert nanochat("export-hf", "--preset", "classic", out) == 0
    for path in checkpoint.path.parent.glob("*/*"):
        path.unlink()
    for path in checkpoint.path.parent.glob("*"):
        path.rmdir()
    assert nanochat("export-check", out, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["max_logit_diff"] < 1e-4 and result["max_onnx_diff"] < 1e-4
    assert result["against"] == "export", "the checkpoint was gone"
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "1.250 bits per byte" in card and "pipeline_tag" in card and "tinyworld" in card


@pytest.mark.slow
def test_where_there_is_no_classic_model_one_is_trained_first(tmp_path, base, capfd):
    from tiny_build import make_small

    make_small(base, "tinyworld-make", "tok-train")
    assert nanochat("export-hf", str(tmp_path / "out"), "--train-steps", "2") == 0
    assert "training one for 2 steps" in capfd.readouterr().out
    assert nanochat("export-check", str(tmp_path / "out")) == 0


@pytest.mark.slow
def test_onnx_takes_any_batch_and_length():
    session = need("onnxruntime").InferenceSession(
        onnx_model((model := classic_model()).state_dict(), model.config).SerializeToString()
    )
    for rows, length in ((1, 1), (3, 40), (2, 300)):
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, 256, (rows, length), generator=generator)
        (logits,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(ids), atol=1e-4, rtol=1e-4)


# --- without the libraries ---------------------------------------------------------------------


def test_names_go_there_and_back():
    model = classic_model()
    back = named_back(renamed(model.state_dict(), model.config), model.config)
    assert back.keys() == model.state_dict().keys()
    rows = model.config.vocab_size
    for name, weight in model.state_dict().items():
        assert torch.equal(back[name][:rows], weight[:rows]), name


def test_only_the_classic_preset_has_a_counterpart(tmp_path):
    assert why_not(classic(config())) == []
    assert why_not(classic(config(window_pattern="L"))) == []
    foreign = " ".join(why_not(config()))
    for part in ("value_embeddings", "smear", "backout", "residual_scalars", "qk_scale", "windows"):
        assert part in foreign
    with pytest.raises(NotExportable, match="--preset classic"):
        write_export(tmp_path / "out", saved(lively_model()), TOKENIZER)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    checkpoint = saved(classic_model())
    with pytest.raises(NotExportable, match="another folder"):
        write_export(tmp_path, checkpoint, TOKENIZER)
    assert (tmp_path / "thesis.tex").exists()
    out = write_export(tmp_path / "out", checkpoint, TOKENIZER)
    assert write_export(out, checkpoint, TOKENIZER) == out, "an export of ours is replaced"


def test_the_newest_model_that_can_be_exported_is_found():
    assert newest_classic() is None
    saved(lively_model(), "modern")
    assert newest_classic() is None
    expected = saved(classic_model()).path
    saved(lively_model(), "later")
    assert newest_classic() == expected


def test_refusals_name_the_remedy(tmp_path, monkeypatch, capsys):
    with pytest.raises(NoExport, match="export-hf --preset classic"):
        our_model(tmp_path)
    monkeypatch.setattr("nanochat.export_onnx.__import__", _no_such_module, raising=False)
    with pytest.raises(ExtraMissing, match=r"\.\[export\]"):
        need("onnx")
    TOKENIZER.save(tokenizer_dir())
    assert nanochat("export-hf", str(tmp_path / "out"), "--train-steps", "0") == 2
    assert "--preset classic --tag classic" in capsys.readouterr().err


def _no_such_module(*_, **__):
    raise ImportError
