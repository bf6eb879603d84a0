"""The commands of this window: tracing the trained TinyWorld model, checking the sandbox."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from nanochat.checkpoint import load_model
from nanochat.engine_trace import TraceRequest, trace_prompt, verify
from nanochat.trace_format import read_trace
from nanochat.trace_invariants import broken
from scripts import sandbox, trace

PROMPT = "Anna has three apples. Ben gives her two more apples. How many apples has Anna now?"


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_the_trained_model_keeps_every_invariant_and_its_trace_is_small(capsys, tmp_path):
    code = trace.main([PROMPT, "--out", str(tmp_path / "one"), "--new-tokens", "2", "--json"])
    told = last_line(capsys)
    assert code == 0 and told["broken"] == [] and len(told["invariants"]) == 5
    assert told["max_logit_difference"] < 1e-3
    assert set(told["cost_ms"]) == {"plain", "stats", "full", "write", "stats_ratio", "full_ratio"}
    written = read_trace(tmp_path / "one.json")
    assert len(written.manifest["tokens"]) == told["tokens"]
    assert written.manifest["payload"]["sha256"] == told["sha256"]


@pytest.mark.slow
def test_a_full_trace_of_32_tokens_in_half_precision_fits_a_megabyte_and_a_half():
    model, tokenizer, _ = load_model("sft")
    ids = [tokenizer.special("bos"), *tokenizer.encode(PROMPT * 3)][:32]
    done = trace_prompt(model, TraceRequest(tuple(ids)))
    assert all(entry["truncated"] is None for entry in done.trace.manifest["tensors"])
    assert len(done.trace.payload) <= 1_500_000
    assert broken(verify(model, ids)) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sandbox_check_contains_all_25_and_says_so(capsys):
    assert shutil.which("bwrap"), "no bubblewrap here: run dev/sandbox.sh"
    assert sandbox.main(["check", "--json"]) == 0
    told = last_line(capsys)
    assert (told["tier"], told["contained"], told["of"]) == ("bubblewrap", 25, 25)
    assert [attack["number"] for attack in told["attacks"]] == list(range(1, 26))
    assert all(attack["contained"] and attack["control"] for attack in told["attacks"])


@pytest.mark.slow
def test_sandbox_run_runs_a_file(capsys, tmp_path):
    program = tmp_path / "x.py"
    program.write_text("print(6 * 7)")
    assert sandbox.main(["run", str(program), "--json"]) == 0
    assert last_line(capsys)["stdout"] == "42\n"
    with pytest.raises(sandbox.NothingToRun):
        sandbox.main(["run", str(tmp_path / "none.py")])


def started(*flags: str) -> tuple[subprocess.Popen[str], str, str]:
    """A bridge as a process of its own: the process, its address, its token."""
    command = [sys.executable, "-m", "scripts.bridge", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"(http://127\.0\.0\.1:\d+)/#token=(\S+)", process.stdout.readline())
    assert found, "the first line is the address"
    return process, found[1], found[2]


@pytest.mark.slow
def test_the_bridge_prints_its_address_serves_and_leaves_with_zero_on_ctrl_c():
    process, address, token = started()
    headers = {"Authorization": f"Bearer {token}"}
    try:
        status = httpx.get(f"{address}/status", headers=headers, timeout=60).json()
        assert status["model"]["layers"] == 4 and status["sandbox"] == "bubblewrap"
        assert httpx.get(f"{address}/status", timeout=60).status_code == 401
        inside = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()  # where an assertion failed; one that has left is left alone
    _, alive = psutil.wait_procs(inside, timeout=30)
    assert alive == [], "the spare box ends with its bridge"


@pytest.mark.slow
def test_a_bridge_beside_another_server_ends_with_it():
    program = (
        "import subprocess, sys, time\n"
        "bridge = subprocess.Popen([sys.executable, '-m', 'scripts.bridge', '--port', '0', "
        "'--beside'], stdout=subprocess.PIPE, text=True)\n"
        "print(bridge.pid, bridge.stdout.readline()[:5], flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    bridge = psutil.Process(int(parent.stdout.readline().split()[0]))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(600):
        if not bridge.is_running() or bridge.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    bridge.kill()
    raise AssertionError("the bridge outlived its server")
