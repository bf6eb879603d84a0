"""Schemathesis reads the server's own description of its API and sends what fits it and what does
not, over a real socket: nothing may end in a 5xx."""

import subprocess
import sys
from pathlib import Path

import pytest
from served_chat import serving
from tiny_models import byte_tokenizer, lively_model

from nanochat.engine import Engine

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


def attack(address: tuple[str, int], mode: str, folder: Path) -> subprocess.CompletedProcess[str]:
    host, port = address
    flags = f"--mode {mode} --checks not_a_server_error --phases examples,coverage,fuzzing"
    bounds = "--max-examples 8 --seed 1 --generation-deterministic --no-shrink --warnings off"
    quiet = "--no-color --continue-on-failure"
    command = [SCHEMATHESIS, "run", f"http://{host}:{port}/openapi.json"]
    words = f"{flags} {bounds} {quiet}".split()
    return subprocess.run([*command, *words], capture_output=True, text=True, cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_that_fits_the_schema_or_breaks_it_is_answered_with_a_5xx(mode, tmp_path):
    engine = Engine(lively_model(sharpness=1.0), byte_tokenizer())
    with serving(engine, max_tokens=4, max_tokens_limit=8) as served:
        done = attack(served.address, mode, tmp_path)
        assert served.client.get("/health").json()["ready"]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "test cases" in done.stdout or "generated" in done.stdout, done.stdout
