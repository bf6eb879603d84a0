"""Make everything that is missing: data, tokenizer, model, exam, report card; then maybe serve.

`make build` and `make up` call this. Each stage is a command of its own, so a beginner can run the
same steps by hand; TABLE is the whole recipe. Stopped anywhere (Ctrl-C, kill, a full
disk), the next run goes on from there. Read: TABLE -> BuildSettings -> main -> serve.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.cli import parse, run
from nanochat.paths import base_dir
from nanochat.report_card import publish_card, text_card
from nanochat.serve.settings import ServeSettings
from nanochat.server_process import refuse_second_server, write_pid_file
from nanochat.stages import Stage, build, duration, plan, read_ledger, write_entry

TAG = "laptop"  # the build overwrites runs of this name only, never one made by hand

# What a laptop learns in minutes: four layers, 128 channels, steps of 2,048 tokens.
BASE = (
    *("--depth", "4", "--aspect-ratio", "32", "--head-size", "32"),
    *("--context", "256", "--max-context", "512", "--rows", "8", "--batch-tokens", "2048"),
    *("--steps", "700", "--buffer", "64", "--eval-every", "200"),
    *("--warmdown-share", "0.4", "--final-lr-share", "0.1", "--optimizer.lr-scale", "0.3"),
)
SFT = (
    *("--steps", "3500", "--rows", "8", "--context", "256", "--eval-every", "1200"),
    *("--warmup-steps", "40", "--optimizer.lr-scale", "0.3"),
)

TABLE = (
    Stage(
        name="tinyworld-make",
        about="writing the stories and questions of a small made-up world",
        command=("-m", "scripts", "tinyworld-make"),
        outputs=(
            "data/tinyworld/train-*.parquet",
            "data/tinyworld/val.parquet",
            "data/tinyworld/sft_train.jsonl",
            "data/tinyworld/sft_val.jsonl",
            "data/tinyworld/exam.jsonl",
        ),
        fresh=("--force",),
        resume=("--force",),
        files=("nanochat/tinyworld*.json",),
    ),
    Stage(
        name="tok-train",
        about="finding the pieces of text that the model will read and write",
        command=("-m", "scripts", "tok-train"),
        outputs=("tokenizer/tokenizer.json",),
        needs=("tinyworld-make",),
    ),
    Stage(
        name="base-train",
        about="training the model to continue the stories",
        command=("-m", "scripts", "base-train", "--tag", TAG, *BASE),
        outputs=(f"checkpoints/base/{TAG}/step_*", "report/base.json"),
        needs=("tinyworld-make", "tok-train"),
        fresh=("--overwrite",),
        resume=("--resume",),
    ),
    Stage(
        name="chat-sft",
        about="teaching it to answer in a conversation",
        command=("-m", "scripts", "chat-sft", "--base-tag", TAG, "--tag", TAG, *SFT),
        outputs=(f"checkpoints/sft/{TAG}/step_*", "report/sft.json"),
        needs=("base-train",),
        fresh=("--overwrite",),
        resume=("--resume",),
    ),
    Stage(
        name="chat-eval",
        about="asking it the questions it has never seen",
        command=("-m", "scripts", "chat-eval", "--tag", TAG),
        outputs=("report/exam.json",),
        needs=("chat-sft",),
    ),
)


@dataclass(frozen=True)
class BuildSettings:
    """What to make, and whether to serve it afterwards."""

    serve: bool = False
    """Serve the chat page in the foreground when everything is made (`make up`)."""
    port: int = 0
    """Port of the chat page; 0: the one `nanochat chat-web` chooses by itself."""
    keep: bool = False
    """Use what is made already even where the code or settings behind it have changed since."""
    dry_run: bool = False
    """Print each stage and whether it would run, then stop."""
    install_s: float = 0.0
    """Seconds the installation took, for the report card; 0: not known."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(BuildSettings, argv, "nanochat build", __doc__)
    if settings.dry_run:
        for stage, todo in plan(TABLE, settings.keep):
            print(f"{stage.name:<16} {'to do' if todo else 'made'}: {stage.about}")
        return 0
    if settings.serve:
        check_address(settings.port)
    if settings.install_s and "install" not in read_ledger():
        write_entry("install", "done", settings.install_s)
    seconds = build(TABLE, say, settings.keep)
    say(f"everything is made (this run: {duration(seconds)})\n")
    report, page = publish_card()
    print(f"{text_card(report)}\n\nThe same card with pictures: {page}", flush=True)
    if settings.serve:
        serve(settings.port)
    return 0


def say(line: str) -> None:
    print(f"build: {line}", flush=True)  # before the stage's own output, also in a pipe


def check_address(port: int) -> None:
    """A taken port, or a server that runs already, is told before the training, not after it."""
    from nanochat.serve.server import open_socket  # a build that serves nothing needs no server

    refuse_second_server(base_dir())
    usual = ServeSettings()
    open_socket(usual.host, port or usual.port).close()


def serve(port: int) -> None:
    """Become the chat server: this process is replaced, so Ctrl-C goes straight to it."""
    write_pid_file(base_dir())
    start_bridge((port or ServeSettings().port) + 1)
    more = ["--log", str(base_dir() / "chat_log.jsonl"), *(["--port", str(port)] if port else [])]
    os.execv(sys.executable, [sys.executable, "-m", "scripts.chat_web", "--tag", TAG, *more])


def start_bridge(port: int) -> None:
    """The learner's window into the model, beside the chat server; it ends when that one does."""
    command = [sys.executable, "-m", "scripts.bridge", "--beside", "--tag", TAG]
    subprocess.Popen([*command, "--port", str(port)], stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    run(main)
