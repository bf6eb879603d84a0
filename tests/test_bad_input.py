"""Whatever a person gives or does: one clear sentence, a non-zero exit, nothing lost.

Every test runs the real command on a real, tiny build. What a module refuses in detail is in its
own tests; here is what the whole promises.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_build import flags, make_small, nanochat

ROOT = Path(__file__).parent.parent
EVERYTHING = ("tinyworld-make", "tok-train", "base-train", "chat-sft", "chat-eval")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("finished")
    make_small(base, *EVERYTHING)
    return base


@pytest.fixture
def base(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished build, to spoil."""
    copy = tmp_path / "base"
    shutil.copytree(finished, copy)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(copy))
    return copy


@pytest.fixture
def refused(capfd):
    """Run a command that must fail; returns its one sentence."""

    def run(*words: str, code: int = 2) -> str:
        capfd.readouterr()
        assert nanochat(*words) == code
        lines = capfd.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("nanochat: "), lines
        assert "Traceback" not in "".join(lines)
        return lines[-1]

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def only(pattern: str, base: Path) -> Path:
    return sorted(base.glob(pattern))[-1]


@pytest.mark.parametrize(
    ("missing", "command", "remedy"),
    [
        ("data", ["tok-train"], "tinyworld-make"),
        ("tokenizer", ["base-train", "--overwrite"], "tok-train"),
        ("checkpoints/base", ["chat-sft", "--overwrite"], "base-train"),
        ("checkpoints/sft", ["chat-eval"], "chat-sft"),
        ("checkpoints/sft", ["chat-cli", "--prompt", "hello"], "chat-sft"),
        ("checkpoints/sft", ["chat-web", "--port", "0"], "chat-sft"),
        ("data", ["chat-eval"], "tinyworld-make"),
        ("report", ["report"], "make build"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    base, refused, missing, command, remedy
):
    shutil.rmtree(base / missing)
    assert remedy in refused(*command)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "empty", "not-json"])
@pytest.mark.parametrize("command", [["chat-cli", "--prompt", "hello"], ["chat-eval"]])
def test_a_corrupt_checkpoint_is_refused_and_left_as_it_is(base, refused, damage, command):
    folder = only("checkpoints/sft/*/step_*", base)
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    data = bytearray(weights.read_bytes())
    if damage == "flipped":
        data[-7] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(data[: len(data) // 2])
    elif damage == "gone":
        weights.unlink()
    elif damage == "empty":
        weights.write_bytes(b"")
    else:
        manifest.write_text("{")
    before = snapshot(base)
    assert str(folder.name) in refused(*command)
    assert snapshot(base) == before


def test_a_tokenizer_of_another_vocabulary_is_refused(base, refused):
    assert nanochat("tok-train", "--vocab-size", "400") == 0
    for command in (["chat-cli", "--prompt", "hello"], ["chat-eval"], ["chat-sft", "--overwrite"]):
        assert "tokenizer" in refused(*command) or "vocabulary" in refused(*command)


def test_a_broken_tokenizer_file_is_refused(base, refused):
    (base / "tokenizer" / "tokenizer.json").write_text('{"model": ')
    assert "tokenizer.json" in refused("chat-cli", "--prompt", "hello")


def test_a_prompt_over_the_context_is_refused_with_the_limit(base, refused):
    sentence = refused("chat-cli", "--prompt", "where is anna? " * 2000)
    assert "512" in sentence and "shorten the prompt" in sentence


@pytest.mark.parametrize("content", ["", "\n\n\n"])
@pytest.mark.parametrize("command", ["tok-train", "base-train"])
def test_an_empty_corpus_is_refused_and_nothing_changes(base, refused, tmp_path, content, command):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(content)
    before = snapshot(base)
    refused(command, "--data", str(corpus), *(["--tag", "new"] if command == "base-train" else []))
    assert snapshot(base) == before


def test_a_corpus_that_does_not_exist_is_refused_by_name(base, refused):
    assert "no-such-corpus" in refused("base-train", "--data", "no-such-corpus", "--tag", "new")


def test_training_again_does_not_overwrite_a_model_unasked(base, refused):
    before = snapshot(base)
    assert "--overwrite" in refused("base-train", *flags("base-train"))
    assert snapshot(base) == before


@pytest.mark.timeout(120)  # a server that was not refused would run for ever
@pytest.mark.parametrize(
    "words",
    [
        ["base-train", "--depth", "0", "--tag", "x"],
        ["base-train", "--depth", "-3", "--tag", "x"],
        ["base-train", "--head-size", "7", "--tag", "x"],
        ["base-train", "--device", "cuda:9", "--tag", "x"],
        ["base-train", "--dtype", "fp8", "--tag", "x"],
        ["tok-train", "--vocab-size", "10"],
        ["chat-cli", "--prompt", "hi", "--temperature", "-1"],
        ["chat-cli", "--prompt", "hi", "--temperature", "nan"],
        ["chat-web", "--port", "70000"],
        ["bench", "nothing"],
    ],
)
def test_a_setting_out_of_range_is_refused_and_nothing_changes(base, refused, words):
    before = snapshot(base)
    refused(*words)
    assert snapshot(base) == before


def test_a_port_in_use_is_named_with_the_remedy(base, refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        sentence = refused("chat-web", "--port", port)
    assert port in sentence and "--port" in sentence


def test_a_full_disk_stops_training_in_one_sentence_and_loses_no_checkpoint(finished, tmp_path):
    """On a real file system of its own that is filled up while the model trains."""
    disk = tmp_path / "disk"
    disk.mkdir()
    more = " ".join(flags("base-train")).replace("--steps 4", "--steps 8")
    script = f"""
        mount -t tmpfs -o size=24m none {disk} || exit 77
        cp -r {finished}/. {disk}/ && cd {ROOT}
        dd if=/dev/zero of={disk}/filler bs=4k 2>/dev/null
        {sys.executable} -m scripts base-train {more} --tag full
        echo "full: $?"
        ls {disk}/checkpoints/base
        rm {disk}/filler
        {sys.executable} -m scripts base-train {more} --tag full --resume >/dev/null
        echo "then: $?"
        {sys.executable} -m scripts chat-cli --prompt hello --max-tokens 2 >/dev/null
        echo "chat: $?"
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script],
        env={**os.environ, "NANOCHAT_BASE_DIR": str(disk)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 77, f"no file system of our own can be mounted here: {done.stderr}"
    assert "full: 1" in done.stdout and "then: 0" in done.stdout, done.stdout + done.stderr
    assert "chat: 0" in done.stdout, done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("nanochat:")]
    assert len(sentences) == 1 and "free some space" in sentences[0], done.stderr
    assert "Traceback" not in done.stderr


def start(*words: str, base: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "scripts", *words],
        cwd=ROOT,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def wait_for(pattern: str, base: Path, process: subprocess.Popen) -> None:
    while not any(base.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
@pytest.mark.parametrize("saved", [0, 1, 5])
def test_training_that_is_stopped_goes_on_where_it_was(base, number, saved):
    """`saved`: stopped after that many checkpoints; 0 is at once, while Python still imports."""
    words = ["base-train", *flags("base-train"), "--tag", "cut"]
    words[words.index("--steps") + 1] = "5000"
    cut = start(*words, base=base)
    if saved:
        wait_for(f"checkpoints/base/cut/step_*{saved}", base, cut)
    cut.send_signal(number)
    _, errors = cut.communicate()
    assert cut.returncode != 0
    if saved:
        assert cut.returncode == 130 and "what was saved is kept" in errors
        assert "Traceback" not in errors
    done = sorted(base.glob("checkpoints/base/cut/step_*"))
    reached = int(done[-1].name.removeprefix("step_")) if done else 0
    assert reached >= saved
    words[words.index("--steps") + 1] = str(reached + 1)
    assert nanochat(*words, "--resume") == 0
    assert (base / "checkpoints" / "base" / "cut" / f"step_{reached + 1:06d}").is_dir()
