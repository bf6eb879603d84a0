"""The bench measures real steps and prints one JSON object; how fast is no business of a test."""

import json
from dataclasses import is_dataclass
from importlib import import_module

import pytest

from nanochat.bench import TrainBenchSettings, bench_train
from nanochat.core_eval_bench import CoreBenchSettings, bench_core
from nanochat.errors import UserError
from nanochat.load_drain import DrainBenchSettings, bench_drain
from nanochat.serve.sandbox_bench import SandboxBenchSettings, bench_sandbox
from scripts import bench

TINY = [
    "--depth",
    "1",
    "--aspect-ratio",
    "32",
    "--head-size",
    "16",
    "--vocab",
    "64",
    "--context",
    "16",
    "--rows",
    "1",
]
ROUNDS = ["--rounds", "1", "--steps", "1", "--threads", "1"]


@pytest.mark.slow
def test_the_training_bench_prints_one_json_object_as_its_last_line(capsys):
    assert bench.main(["train", *TINY, *ROUNDS, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("tokens_per_s", "gemm_gflops_fp32", "gemm_share", "peak_mb"):
        assert result[name] > 0
    assert result["gemm_share"] == pytest.approx(
        result["tokens_per_s"] / result["gemm_gflops_fp32"], rel=0.01, abs=0.01
    )


@pytest.mark.slow
def test_the_parts_of_a_step_make_up_the_whole(monkeypatch):
    settings = TrainBenchSettings(1, 32, 16, 64, 16, 1, steps=2, rounds=1, threads=1)
    result = bench_train(settings)
    parts = result["step_ms"]
    assert isinstance(parts, dict) and set(parts) == {"forward", "backward", "optimizer"}


@pytest.mark.parametrize("name", bench.BENCHES)
def test_every_bench_is_where_the_table_says(name):
    place, kind, function = bench.BENCHES[name]
    module = import_module(f"nanochat.{place}")
    assert is_dataclass(getattr(module, kind)) and callable(getattr(module, function))


def test_an_unknown_bench_is_named_with_the_ones_there_are():
    with pytest.raises(UserError, match="train"):
        bench.main(["nothing"])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["c", "torch"])
def test_the_engine_bench_writes_with_either_step_and_says_which(kernel, capsys):
    sizes = ["--depth", "1", "--channels", "64", "--head-size", "32", "--vocab", "512"]
    short = ["--context", "64", "--prompt", "9", "--tokens", "5", "--rows", "3", "--rounds", "1"]
    words = ["engine", *sizes, *short, "--threads", "1", "--kernel", kernel, "--json"]
    assert bench.main(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["kernel"] == kernel and result["rows"] == 3
    assert result["tokens_per_s"] > 0 and result["tokens_per_s_one_row"] > 0


def test_the_engine_bench_refuses_what_it_cannot_measure():
    with pytest.raises(UserError, match="raise --context"):
        bench.main(["engine", "--depth", "1", "--vocab", "512", "--context", "64"])
    with pytest.raises(UserError, match="choose auto"):
        bench.main(["engine", "--kernel", "cobol"])


@pytest.mark.slow
def test_a_server_told_to_stop_while_it_writes_ends_every_stream_and_leaves_with_zero():
    result = bench_drain(DrainBenchSettings(streams=3, server_flags="--drain-s 0.2"))
    assert result["exit_code"] == 0 and result["cut"] == 0
    assert result["finished"] + result["error_event"] == result["streams"] == 3


@pytest.mark.slow
def test_the_trace_bench_compares_closed_taps_with_none_and_says_how_noisy_it_was(capsys):
    assert bench.main(["trace", "--rounds", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["taps"] > 20 and result["tokens"] == 32
    assert result["off_share"] > -1 and result["noise_share"] > -1
    traced = result["traced_ms"]
    assert result["full_ratio"] == pytest.approx(traced["full"] / traced["plain"], rel=0.01)


@pytest.mark.slow
def test_the_sandbox_bench_asks_a_real_bridge_and_every_program_prints_one():
    result = bench_sandbox(SandboxBenchSettings(requests=6, starts=1))
    assert result["requests"] == 6 and result["clients"] == 2
    assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["worst_ms"]


@pytest.mark.slow
def test_the_core_bench_marks_the_same_examples_in_both_ways():
    result = bench_core(CoreBenchSettings(max_per_task=2, rounds=1))
    assert result["same_marks"] and result["examples"] == 8
    assert result["speedup"] > 0
