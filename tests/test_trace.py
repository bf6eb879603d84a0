"""Tracing: closed taps change nothing, what open ones show is true, files say what they hold."""

import json
import re
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from tiny_models import lively_model
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat import gpt
from nanochat.engine_trace import PromptTooLong, TraceRequest, timings, trace_prompt
from nanochat.engine_trace_bench import without_taps
from nanochat.gpt import GPT
from nanochat.trace import BadEdit, Edit, TraceContext, TraceMisuse
from nanochat.trace_format import BadTrace, BudgetTooSmall, Trace, read_trace, save_trace
from nanochat.trace_invariants import TOLERANCE, broken, check_trace
from nanochat.trace_names import UnknownHook, axes_of, chosen, known_names
from nanochat.trace_numbers import measured

VECTORS = Path(__file__).parent / "data" / "trace"
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


@pytest.fixture(scope="module")
def model() -> GPT:
    return lively_model(sharpness=30.0)


@torch.inference_mode()
def traced(model: GPT, tokens: list[int] = TOKENS, **options) -> Trace:
    with TraceContext(model, **({"dtype": "f32"} | options)) as trace:
        model(torch.tensor([tokens]))
    return trace.result()


class Counting(TorchDispatchMode):
    """Notes every operation on tensors."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Deaf:
    """Taps that want nothing and change nothing."""

    def begin(self, *_):
        pass

    def wants(self, *_):
        return False

    def __call__(self, name, x, layer=-1):
        return x


@torch.inference_mode()
def test_closed_taps_add_no_operation_and_change_no_bit(model, monkeypatch):
    ids = torch.tensor([TOKENS])
    with Counting() as closed:
        before = model(ids)
    traced(model)
    assert gpt.TAP is None and torch.equal(model(ids), before)
    # logits before the softcap are the one thing that listening computes anew
    raw = lively_model(sharpness=30.0, softcap=0.0)
    with Counting() as without:
        raw(ids)
    monkeypatch.setattr(gpt, "TAP", Deaf())
    with Counting() as with_deaf_taps:
        raw(ids)
    assert without.names == with_deaf_taps.names and len(closed.names) > len(without.names)


@torch.inference_mode()
def test_a_model_whose_taps_are_cut_out_does_the_same_operations_with_the_same_bits(model):
    bare, count = without_taps(model)
    ids = torch.tensor([TOKENS])
    with Counting() as closed:
        logits = model(ids)
    with Counting() as without:
        again = bare(ids)
    assert torch.equal(again, logits)
    assert count == len(re.findall("TAP is (?:not )?None", Path(gpt.__file__).read_text())) > 20
    assert closed.names == without.names  # so closed taps allocate no tensor either


@torch.inference_mode()
def test_watching_without_the_pattern_uses_the_fast_path_bit_for_bit(model):
    ids = torch.tensor([TOKENS])
    before = model(ids)
    with TraceContext(model, names=["*.resid_post", "logits"]) as trace:
        assert torch.equal(model(ids), before)
    assert len(trace.result().manifest["tensors"]) == 4


def shape(name: str, sizes: dict[str, int]) -> list[int]:
    return [sizes[axis] for axis in axes_of(name)]


@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
def test_every_activation_has_its_shape_source_and_place(mlp):
    model = lively_model(sharpness=30.0, mlp=mlp)
    trace = traced(model)
    sizes = {"T": len(TOKENS), "S": len(TOKENS), "C": 32, "H": 4, "G": 2, "D": 8, "V": 265}
    sizes |= {"L": 3, "1": 1, "M": model.blocks[0].mlp.up.out_features}
    entries = {entry["name"]: entry for entry in trace.manifest["tensors"]}
    assert set(entries) == set(known_names(model.config))
    for name, entry in entries.items():
        assert entry["shape"] == shape(name, sizes) == list(trace.tensor(name).shape)
        assert entry["axes"] == list(axes_of(name)) and entry["truncated"] is None
        assert entry["source"]["file"] in ("nanochat/gpt.py", "nanochat/trace.py")
        line = Path(entry["source"]["file"]).read_text().splitlines()[entry["source"]["line"] - 1]
        if entry["source"]["file"] == "nanochat/gpt.py":
            assert "TAP" in line or "see(" in line, (name, line)


def test_the_invariants_hold_and_a_falsified_trace_is_noticed(model):
    for changes in ({}, {"mlp": "swiglu"}, {"backout": False, "smear": False}, {"n_kv_head": 4}):
        subject = lively_model(sharpness=30.0, **changes)
        tokens = (TOKENS * 12)[:140]  # longer than the short window of 128
        residuals = check_trace(subject, traced(subject, tokens))
        assert set(residuals) == set(TOLERANCE) and broken(residuals) == [], residuals
    trace = traced(model)
    for name, place in (("blocks.1.mlp_out", (3, 2)), ("blocks.2.attn.pattern", (0, 2, 7))):
        falsified = trace.tensor(name).clone()
        falsified[place] += 0.5
        trace.tensors[f"0/{name}"] = falsified
    found = broken(check_trace(model, trace))
    assert "residual contributions sum to the residual" in found and len(found) == 3


def test_statistics_are_those_of_the_whole_tensor(model):
    full, thin = traced(model), traced(model, level="stats")
    assert thin.payload == load_empty() and thin.manifest["payload"]["bytes"] < 100
    for name in ("embed", "blocks.1.mlp.post", "blocks.2.attn.pattern", "residual_scale"):
        x, stats = full.tensor(name).double(), thin.entry(name)["stats"]
        seen = [x.mean(), x.std(correction=0), x.square().mean().sqrt(), x.min(), x.max()]
        kept = [stats[key] for key in ("mean", "std", "rms", "min", "max")]
        torch.testing.assert_close(
            torch.tensor(kept).double(), torch.stack(seen), rtol=1e-4, atol=1e-6
        )
        assert stats["zeros"] == pytest.approx(float((x == 0).double().mean()), abs=1e-6)
    scores = thin.entry("blocks.0.attn.scores")["stats"]
    T = len(TOKENS)
    assert scores["nonfinite"] == 4 * T * (T - 1) // 2 and abs(scores["min"]) < 1e6
    with pytest.raises(BadTrace, match="only statistics"):
        thin.tensor("embed")


def test_figures_taken_together_are_those_of_each_tensor_alone():
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn(70_000, generator=generator)
    far_off, holes = 1e4 + 1e-2 * draw[:500], draw[:300].clamp(min=0).clone()
    holes[::3] = float("-inf")
    pieces = [draw[:7].view(1, 7), draw, far_off, draw[:64].bfloat16(), holes, torch.ones(1)]
    pieces += [draw[:12].view(3, 4).T, draw[:0], torch.full((4,), float("nan")), 1e30 * draw[:9]]
    copy = torch.empty(sum(x.numel() for x in pieces), dtype=torch.float32)
    found = measured(pieces, copy)
    assert torch.equal(copy.nan_to_num(), torch.cat([x.reshape(-1) for x in pieces]).nan_to_num())
    for x, row in zip(pieces, found.tolist(), strict=True):
        seen = x[x.isfinite()].double()
        seen = seen if len(seen) else torch.zeros(1).double()  # nothing to measure: zeros
        centred = seen - seen.mean()
        spread = (seen.mean(), centred.square().mean().sqrt(), seen.square().mean().sqrt())
        extremes = (seen.min(), seen.max())
        expected = [float(v) for v in (*spread, *extremes)]
        assert row[:5] == pytest.approx(expected, rel=2e-5, abs=1e-5), x.shape
        finite = x[x.isfinite()]
        assert row[5] == pytest.approx(float((finite == 0).sum()) / max(1, len(finite)))
        assert row[6] == x.numel() - len(finite)


def load_empty() -> bytes:
    head = b'{"__metadata__":{"schema_version":"1"}}'
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head


def test_cached_decoding_is_traced_as_one_full_pass_is(model):
    request = TraceRequest(tuple(TOKENS), max_new_tokens=4, dtype="f32")
    done = trace_prompt(model, request)
    whole = traced(model, done.tokens)
    assert [step["start"] for step in done.trace.manifest["steps"]] == [0, 12, 13, 14, 15]
    for name in known_names(model.config):
        axes = axes_of(name)
        if "T" not in axes:
            continue
        if "S" not in axes:
            torch.testing.assert_close(
                done.trace.joined(name), whole.tensor(name), rtol=2e-4, atol=2e-4
            )
            continue
        for step in range(1, 5):
            row = done.trace.tensor(name, step)[:, 0]  # (H, S)
            expected = whole.tensor(name)[:, 11 + step, : 12 + step]
            torch.testing.assert_close(row, expected, rtol=2e-4, atol=2e-4)


def test_the_same_request_gives_the_same_bytes_and_another_seed_other_tokens(model):
    request = TraceRequest(tuple(TOKENS), max_new_tokens=3, temperature=1.0, seed=5)
    first, second = trace_prompt(model, request), trace_prompt(model, request)
    assert first.trace.payload == second.trace.payload
    assert first.trace.manifest == second.trace.manifest
    others = {
        tuple(trace_prompt(model, TraceRequest(tuple(TOKENS), 3, seed, 1.0, level="stats")).tokens)
        for seed in range(6)
    }
    assert len(others) > 1
    assert first.max_logit_difference < 1e-3


# --- what is kept ---


def test_over_the_budget_the_newest_positions_stay_then_the_largest_entries(model):
    whole = traced(model, names="*.resid_post")
    per_position = 3 * 32 * 4
    thin = traced(model, names="*.resid_post", max_bytes=5 * per_position + 7)
    entry = thin.entry("blocks.1.resid_post")
    assert entry["truncated"] == {"axis": "T", "kept": 5, "of": 12}
    assert torch.equal(thin.tensor("blocks.1.resid_post"), whole.tensor("blocks.1.resid_post")[-5:])
    assert entry["stats"] == whole.entry("blocks.1.resid_post")["stats"]
    sparse = traced(model, names="*.resid_post", max_bytes=3 * 8 * 4)
    kept = sparse.tensor("blocks.1.resid_post")
    expected = whole.tensor("blocks.1.resid_post")[-1:]
    largest = expected.abs().topk(4).indices
    assert torch.equal(kept.gather(-1, largest), expected.gather(-1, largest))
    assert int(kept.isfinite().sum()) == 4
    with pytest.raises(BudgetTooSmall, match="needs 24"):
        traced(model, names="*.resid_post", max_bytes=23)


def test_topk_keeps_the_largest_entries_of_each_vector(model):
    whole, thin = traced(model), traced(model, level="topk", topk=3)
    for name in ("embed", "blocks.0.mlp.pre", "blocks.1.attn.z"):
        x, kept = whole.tensor(name), thin.tensor(name)
        assert (kept.isfinite().sum(-1) == 3).all()
        assert torch.equal(
            kept[kept.isfinite()].abs().reshape(-1, 3).sort().values,
            x.abs().topk(3).values.reshape(-1, 3).sort().values,
        )
    assert len(thin.payload) < len(whole.payload)


def test_chosen_positions_are_kept_alone(model):
    whole, some = traced(model), traced(model, positions=[2, 7])
    assert torch.equal(some.tensor("x0"), whole.tensor("x0")[[2, 7]])
    assert torch.equal(
        some.tensor("blocks.0.attn.pattern"), whole.tensor("blocks.0.attn.pattern")[:, [2, 7]]
    )


def test_the_file_is_safetensors_and_reads_back(model, tmp_path):
    trace = traced(model, dtype="f16")
    _, manifest = save_trace(trace, tmp_path / "one")
    again = read_trace(manifest)
    assert again.manifest == trace.manifest
    assert torch.equal(again.tensor("logits"), traced(model).tensor("logits").half().float())
    entry = again.entry("x0")
    raw = again.payload[entry["offset"] :][: entry["nbytes"]]
    assert raw == load(again.payload)["0/x0"].numpy().tobytes()
    manifest.with_suffix(".safetensors").write_bytes(trace.payload[:-1])
    with pytest.raises(BadTrace, match="not the file it was"):
        read_trace(manifest)
    manifest.write_text("{")
    with pytest.raises(BadTrace, match="cannot be read"):
        read_trace(manifest)


def test_the_shared_vectors_are_read_as_they_say():
    for expected in json.loads((VECTORS / "expected.json").read_text()):
        trace = read_trace(VECTORS / expected["file"])
        for wanted in expected["tensors"]:
            found = trace.tensor(wanted["name"], wanted["step"])
            assert list(found.shape) == wanted["shape"]
            values = [None if v != v else v for v in found.flatten().tolist()]
            assert values == wanted["values"]


# --- editing and gradients ---


@torch.inference_mode()
def logits_with(model: GPT, *edits: Edit) -> torch.Tensor:
    with TraceContext(model, names="logits", mode="edit", edits=edits):
        return model(torch.tensor([TOKENS]))


@torch.inference_mode()
def test_a_muted_head_is_a_head_without_weights(model):
    edited = logits_with(model, Edit("blocks.1.attn.z", "scale", 0.0, heads=(2,)))
    surgery = lively_model(sharpness=30.0)
    surgery.blocks[1].attn.out.weight[:, 2 * 8 : 3 * 8] = 0
    torch.testing.assert_close(edited, surgery(torch.tensor([TOKENS])), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_an_edit_reaches_its_positions_and_keys_only(model):
    plain = model(torch.tensor([TOKENS]))
    late = logits_with(model, Edit("blocks.0.resid_pre", "set", 0.5, positions=(9,)))
    torch.testing.assert_close(late[:, :9], plain[:, :9], rtol=1e-4, atol=1e-4)
    assert (late[:, 9:] - plain[:, 9:]).abs().max() > 1e-3
    key = Edit("blocks.*.attn.pattern", "scale", 0.0, keys=(4,))
    unseen = logits_with(model, key)
    torch.testing.assert_close(unseen[:, :4], plain[:, :4], rtol=1e-4, atol=1e-4)
    assert (unseen[:, 5:] - plain[:, 5:]).abs().max() > 1e-3


def test_gradients_of_named_activations_equal_finite_differences(model):
    subject = lively_model(sharpness=30.0)
    subject.dtype = torch.float64
    ids, name = torch.tensor([TOKENS]), "blocks.1.resid_mid"
    with TraceContext(subject, names=name, dtype="f32", gradients=[name]) as trace:
        subject(ids)[0, -1, 7].backward()
    x, grad = trace.steps[0].records[0].tensor[0], trace.gradients()[name][0]

    @torch.no_grad()
    def changed(scale: float) -> float:
        edit = Edit(name, "scale", scale, positions=(3,))
        with TraceContext(subject, names=name, mode="edit", edits=[edit]):
            return float(subject(ids)[0, -1, 7])

    slope = (changed(1 + 1e-5) - changed(1 - 1e-5)) / 2e-5
    assert slope == pytest.approx(float((x[3] * grad[3]).sum()), rel=1e-5)


# --- misuse ---


def test_an_unknown_name_is_answered_with_the_nearest_ones(model):
    with pytest.raises(UnknownHook, match=r"blocks\.1\.attn\.pattern"):
        TraceContext(model, names=["blocks.1.attn.patern"])
    with pytest.raises(UnknownHook):
        chosen("mlp.gate", model.config)  # this model has no gate


def test_misuse_raises_and_leaves_the_taps_closed(model):
    ids, other = torch.tensor([TOKENS]), lively_model()
    with TraceContext(model), pytest.raises(TraceMisuse, match="open already"), TraceContext(model):
        pass
    assert gpt.TAP is None
    with TraceContext(model), pytest.raises(TraceMisuse, match="another model"):
        other(ids)
    with TraceContext(model), pytest.raises(TraceMisuse, match="2 rows"):
        model(ids.repeat(2, 1))
    with TraceContext(model):
        caught = []

        def elsewhere() -> None:
            try:
                model(ids)
            except TraceMisuse as error:
                caught.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert "another thread" in caught[0]
    with pytest.raises(KeyError), TraceContext(model):
        raise KeyError("any mistake")
    assert gpt.TAP is None
    for bad in (
        {"edits": [Edit("x0", "set", 0.0)]},
        {"mode": "edit"},
        {"mode": "edit", "edits": [Edit("blocks.0.attn.result", "set", 0.0)]},
    ):
        with pytest.raises(BadEdit):
            TraceContext(model, **bad)


def test_a_prompt_that_cannot_be_traced_is_refused(model):
    for tokens, new in (((), 0), ((1,) * 290, 20), ((1,), 33), ((999,), 0)):
        with pytest.raises(PromptTooLong):
            trace_prompt(model, TraceRequest(tokens, max_new_tokens=new))


def test_the_cost_is_measured_against_the_plain_pass(model):
    cost = timings(model, TOKENS, rounds=1)
    assert cost["stats_ratio"] == pytest.approx(cost["stats"] / cost["plain"], abs=0.02)
