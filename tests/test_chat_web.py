"""Starting and stopping `nanochat chat-web`: taken ports, missing models, signals."""

import json
import re
import signal
import socket
import subprocess
import sys
from dataclasses import asdict

import httpx
import pytest
from tiny_models import byte_tokenizer, lively_model

from nanochat.checkpoint import CheckpointMissing, save_checkpoint
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.serve.errors import AddressUnusable
from nanochat.serve.server import open_socket
from scripts import chat_web


def test_a_port_in_use_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))  # no model: loading would fail otherwise
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressUnusable, match=f"port {port}: another program"):
            chat_web.main(["--port", str(port)])


def test_other_unusable_addresses_are_one_sentence_too():
    for host, port in [("127.0.0.1", 70_000), ("no.such.host.invalid", 1)]:
        with pytest.raises(AddressUnusable, match="can't listen on"):
            open_socket(host, port).close()


def test_a_missing_checkpoint_names_the_command_that_makes_one(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    with pytest.raises(CheckpointMissing, match="nanochat chat-sft"):
        chat_web.main(["--port", "0"])


@pytest.fixture
def tiny_checkpoint(tmp_path, monkeypatch):
    """A small model with random weights, saved as the newest one of stage sft."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    model, tokenizer = lively_model(sharpness=1.0), byte_tokenizer()
    meta = {"model": asdict(model.config), "tokenizer": tokenizer.fingerprint()}
    tokenizer.save(tokenizer_dir())
    save_checkpoint(checkpoints_dir("sft", "d3"), 1, model.state_dict(), {}, meta)


@pytest.mark.slow
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_a_real_model_and_ends_cleanly(tiny_checkpoint, stop_signal):
    command = [sys.executable, "-m", "scripts.chat_web", "--port", "0", "--drain-s", "0.1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout and process.stderr
    ready = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", ready)
    assert address, ready + process.stderr.read()
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "seed": 7,
        "max_tokens": 40,
        "temperature": 1,
    }
    with httpx.Client(base_url=address[0], timeout=300) as client:
        one, two = (client.post("/chat/completions", json=body).json() for _ in range(2))
        assert one["choices"] == two["choices"] and one["usage"] == two["usage"]
        lasting = {**body, "max_tokens": 290, "stream": True}
        with client.stream("POST", "/chat/completions", json=lasting) as response:
            lines = response.iter_lines()
            assert "assistant" in next(lines)
            process.send_signal(stop_signal)
            last = [line for line in lines if line][-1]
            assert last == "data: [DONE]"
    assert process.wait(300) == 0
    logged = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert {line["severity"] for line in logged} == {"INFO"}, (
        "only the structured log, no traceback"
    )


@pytest.mark.slow
def test_a_port_in_use_ends_the_command_with_one_line_and_code_2(tiny_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [
            sys.executable,
            "-m",
            "scripts",
            "chat-web",
            "--port",
            str(taken.getsockname()[1]),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.count("\n") == 1 and "another program listens there" in ended.stderr
