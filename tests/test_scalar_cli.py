"""nanochat scalar as its users meet it: bad input is a sentence, the documented commands run.

Read: sampling uses the weights -> its guards -> bad input -> the commands of docs/scalar.md.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scalar_graphs import library_folder

from nanochat.errors import UserError
from nanochat.scalar import checkpoint
from nanochat.scalar.sampling import Sampler, chances, keep
from nanochat.scalar.settings import SampleSettings
from nanochat.scalar.streams import CONSTANTS
from scripts import scalar

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scalar.md"
TINY = "--width 4 --heads 2 --context 6 --steps 20"


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """An empty place for made things, which knows the C library already."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "scalar").symlink_to(library_folder())
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    return folder


@pytest.fixture
def names(tmp_path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("anna\nbea\ncara\ndana\neva\n")
    return path


def run(line: str, capsys) -> str:
    assert scalar.main(shlex.split(line)) == 0
    return capsys.readouterr().out


def refused(line: str) -> str:
    with pytest.raises(UserError) as caught:
        scalar.main(shlex.split(line))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_training_leaves_a_report_and_sampling_draws_from_it(base, names, capsys):
    shown = run(f"train --data {names} {TINY} --json", capsys)
    record = json.loads(shown.splitlines()[-1])
    assert record["steps"] == 20 and len(record["losses"]) == 20
    folder = base / "checkpoints" / "scalar" / "names"
    assert {"report.md", "report.json", "losses.csv", "step_000020"} <= set(os.listdir(folder))
    drawn = json.loads(run("sample --count 5 --json", capsys).splitlines()[-1])["samples"]
    assert len(drawn) == 5 and set("".join(drawn)) <= set("abcdenrv")
    assert drawn == json.loads(run("sample --count 5 --json", capsys).splitlines()[-1])["samples"]


def test_one_changed_weight_moves_the_scores(base, names, capsys):
    run(f"train --data {names} {TINY}", capsys)
    sampler = Sampler(SampleSettings(), base / "checkpoints/scalar/names", library_folder())
    tokens = [0, *sampler.tokenizer.ids("an")]
    before = np.array(sampler.engine.scores(sampler.parameters, tokens))
    for name in ("token", "head", "0.query", "0.down"):
        matrix = sampler.shape.matrices[name]
        row = tokens[-1] if name == "token" else 1
        moved = sampler.parameters.copy()
        moved[matrix.start + row * matrix.columns] += 0.5
        after = np.array(sampler.engine.scores(moved, tokens))
        assert np.abs(after - before).max() > 1e-6, name


def test_what_a_checkpoint_holds_is_what_is_drawn_from(base, names, capsys, tmp_path):
    """A head that only likes 'e' after anything writes e until the context is full."""
    run(f"train --data {names} {TINY}", capsys)
    arrays, state = checkpoint.newest(base / "checkpoints/scalar/names")
    for name in ("0.mix", "0.down"):
        arrays[name][:] = 0.0
    arrays["token"][:], arrays["position"][:], arrays["head"][:] = 1.0, 0.0, 0.0
    arrays["head"][state["characters"].index("e") + 1] = 100.0
    checkpoint.save(tmp_path / "changed", 1, arrays, state)
    drawn = run(f"sample --checkpoint {tmp_path / 'changed'} --count 2", capsys)
    assert drawn.split() == ["eeeeee", "eeeeee"]
    drawn = run(f"sample --checkpoint {tmp_path / 'changed'} --prompt an --count 1", capsys)
    assert drawn.split() == ["aneeee"]
    path = tmp_path / "changed" / "step_000001"
    drawn = run(f"sample --checkpoint {path} --max-new-tokens 2 --count 1", capsys)
    assert drawn.split() == ["ee"]


def test_chances_and_what_is_kept_of_them_by_hand():
    assert chances([0.0, np.log(3.0)], 1.0) == pytest.approx([0.25, 0.75])
    assert chances([0.0, np.log(3.0)], 0.5) == pytest.approx([0.1, 0.9])
    likely = [0.1, 0.4, 0.2, 0.3]
    assert keep(likely, None, None) == likely
    assert keep(likely, 1, None) == [0, 0.4, 0, 0]
    assert keep(likely, None, 0.5) == [0, 0.4, 0, 0.3]
    assert keep(likely, 3, 0.95) == [0, 0.4, 0.2, 0.3]
    assert keep(likely, None, 1e-9) == [0, 0.4, 0, 0]


def test_draws_follow_their_probabilities(base, names, capsys):
    """Chi-squared over 2,000 first letters: 99.9% of honest samplers stay below the limit."""
    run(f"train --data {names} {TINY}", capsys)
    settings = SampleSettings(seed=1, temperature=1.0, max_new_tokens=1)
    sampler = Sampler(settings, base / "checkpoints/scalar/names", library_folder())
    likely = chances(sampler.engine.scores(sampler.parameters, [0]), 1.0)
    drawn = [sampler.draw() for _ in range(2000)]
    observed = [drawn.count(c) for c in ["", *sampler.tokenizer.characters]]
    expected = [2000 * p for p in likely]
    distance = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    assert distance < 26.1  # 8 degrees of freedom


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--temperature 0", "--temperature 0.0: it must be a number above 0"),
        ("--temperature -1", "--temperature -1.0"),
        ("--temperature nan", "--temperature nan"),
        ("--temperature inf", "--temperature inf"),
        ("--top-k 0", "--top-k 0: it must be 1 or more"),
        ("--top-p 0", "--top-p 0.0: it must be above 0"),
        ("--top-p 1.5", "at most 1"),
        ("--count 0", "--count 0"),
        ("--max-new-tokens 0", "--max-new-tokens 0"),
        ("--prompt annaan", "a prompt of 6 characters, limit 5"),
        ("--prompt anna7", "'7' was not in the training text"),
        ("--tag other", "no checkpoint in"),
    ],
)
def test_a_request_that_cannot_be_served_is_a_sentence(flags, complaint, base, names, capsys):
    run(f"train --data {names} {TINY} --steps 1", capsys)
    assert complaint in refused(f"sample {flags}")


def test_a_checkpoint_of_another_vocabulary_is_refused(base, names, capsys, tmp_path):
    run(f"train --data {names} {TINY}", capsys)
    run(f"sample --data {names} --count 1", capsys)
    other = tmp_path / "other.txt"
    other.write_text("xyz\nzyx\n")
    assert "vocabulary lacks 'xyz'" in refused(f"sample --data {other}")
    assert "trained on other text" in refused(f"train --data {other} {TINY} --resume")
    arrays, state = checkpoint.newest(base / "checkpoints/scalar/names")
    checkpoint.save(tmp_path / "odd", 1, arrays, {**state, "characters": "ab"})
    assert "vocabulary of 9 tokens, its own list has 3" in refused(
        f"sample --checkpoint {tmp_path / 'odd'}"
    )


def test_a_file_without_enough_text_is_exit_2(base, tmp_path):
    path = tmp_path / "text.txt"
    for content, complaint in (("", "has no text"), ("a", "has one character only")):
        path.write_text(content)
        assert complaint in refused(f"train --data {path}")
    done = subprocess.run(
        [sys.executable, "-m", "scripts", "scalar", "train", "--data", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "has one character only" in done.stderr


def test_an_unknown_command_is_a_sentence_and_help_lists_the_known(capsys):
    assert "choose one of train, sample, ablate, bench" in refused("trian")
    shown = run("--help", capsys)
    assert "usage: nanochat scalar {train,sample,ablate,bench}" in shown


def test_the_page_lists_the_streams():
    page = PAGE.read_text(encoding="utf-8")
    for name, constant in CONSTANTS.items():
        assert f"| {name} | `{constant:016x}` |" in page


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.strip().splitlines()]


@pytest.mark.slow
def test_the_commands_of_the_page_run_as_they_stand(base, tmp_path, monkeypatch, capsys):
    """In their order, in one empty place; the bench with its own checks of equal losses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_words.txt").write_text("tick tock says the clock\nthe clock says tick\n" * 5)
    lines = commands()
    assert len(lines) >= 11
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["nanochat", "scalar"], line
        assert scalar.main(words[2:]) == 0, line
        shown = capsys.readouterr().out
        if "bench" in words:
            assert "losses equal: yes" in shown
        if "ablate" in words:
            assert (base / "report/scalar/ablation/effects.svg").exists()
        if "parity-a" in words and "sample" in words:
            golden = json.loads((ROOT / "tests/data/golden_microgpt_a.json").read_text())
            assert shown.split() == golden["samples"]


@pytest.mark.slow
def test_bench_gives_the_ratios_as_json(base, capsys):
    shown = run("bench --rounds 1 --documents 1 --largest 1000 --json", capsys)
    record = json.loads(shown.splitlines()[-1])
    assert record["losses_equal"] is True
    names = ("object_x", "numpy_replay_x", "c_replay_x", "numpy_tensor_x", "full_run_s")
    assert all(record[name] > 0 for name in names)
