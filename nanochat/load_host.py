"""A real server for a load test: a subprocess on a free port, with the trained or a random model.

Called by scripts/load_test.py and load_drain.py.
Read: hosted -> start -> ready -> save_random_model -> pair_tokenizer.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice, product
from pathlib import Path
from string import ascii_letters, digits
from typing import IO, TYPE_CHECKING

from nanochat.errors import UserError
from nanochat.load_plan import LoadSettings

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

ADDRESS = re.compile(r"http://\S+")
STOP_WITHIN_S = 30.0


class HostFailed(UserError):
    """The server that the load test wanted to start did not."""


@contextmanager
def hosted(settings: LoadSettings) -> Iterator[str]:
    """The address of a server of our own; it is stopped with SIGTERM at the end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if settings.random_model:
            environment["NANOCHAT_BASE_DIR"] = folder
            save_random_model(settings, Path(folder))
        talk = Path(folder) / "server.log"
        with talk.open("w") as errors:
            process = start(settings, environment, errors)
            try:
                yield ready(process, talk)
            finally:
                stop(process)


def start(
    settings: LoadSettings, environment: dict[str, str], errors: IO[str]
) -> subprocess.Popen[str]:
    """Start the server to be measured; `ready` waits for it."""
    command = [sys.executable, "-m", "scripts.chat_web", "--port", "0"]
    return subprocess.Popen(
        command + shlex.split(settings.server_flags),
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
    )


def ready(process: subprocess.Popen[str], talk: Path) -> str:
    """Wait for the line with the address; `talk` is where the server's errors go."""
    assert process.stdout is not None
    said = next((line for line in process.stdout if ADDRESS.search(line)), "")
    address = ADDRESS.search(said)
    if address is None:
        last = talk.read_text("utf-8", "replace").strip().rpartition("\n")[2]
        raise HostFailed(f"the server did not start: {last or 'it said nothing'}")
    return address[0].rstrip("/")


def stop(process: subprocess.Popen[str]) -> None:
    """End the server, gently first."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def save_random_model(settings: LoadSettings, base: Path) -> None:
    """Weights that never learned, of the sizes asked for: as fast as trained ones, and as slow."""
    from nanochat.checkpoint import save_checkpoint
    from nanochat.gpt import GPT
    from nanochat.scaling import model_config
    from nanochat.train_loop import seeded

    tokenizer = pair_tokenizer(settings.vocab)
    head_size = min(128, settings.channels)
    config = model_config(
        settings.depth,
        settings.vocab,
        settings.context,
        aspect_ratio=-(-settings.channels // settings.depth),
        head_size=head_size,
    )
    model = GPT(config)
    model.init_weights(seeded(settings.seed, "weights"))
    meta = {"model": asdict(config), "tokenizer": tokenizer.fingerprint()}
    tokenizer.save(base / "tokenizer")
    folder = base / "checkpoints" / "sft" / f"d{settings.depth}"
    save_checkpoint(folder, 1, model.state_dict(), {}, meta)


def pair_tokenizer(vocab: int) -> "Tokenizer":
    """A tokenizer of that size without a corpus: the bytes, then pairs of letters and digits."""
    from nanochat.tokenizer import SPECIALS, Tokenizer

    merges = vocab - 256 - len(SPECIALS)
    letters = (ascii_letters + digits).encode()
    if not 0 <= merges <= len(letters) ** 2:
        most = 256 + len(letters) ** 2 + len(SPECIALS)
        raise HostFailed(f"--vocab {vocab}: from {256 + len(SPECIALS)} to {most}")
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {
        bytes(pair): 256 + i for i, pair in enumerate(islice(product(letters, repeat=2), merges))
    }
    return Tokenizer(ranks)
