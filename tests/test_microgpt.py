"""microgpt.py, page one, gives the bits of the original program with only the standard library.

The golden files in tests/data hold every loss, three fingerprints of the weights and the samples of
the original on the census names. Read: the hand-worked case -> the first steps -> the whole runs.
"""

import ast
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "microgpt.py"
DATA = ROOT / "tests" / "data"


def golden(preset: str) -> dict:
    return json.loads((DATA / f"golden_microgpt_{preset}.json").read_text())


def start(*flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PAGE), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_gradient_worked_out_by_hand():
    x, y = microgpt.Value(3.0), microgpt.Value(-2.0)
    z = (x * y + x**2).relu() / 3.0
    z.backward()
    assert z.data == 1.0
    assert math.isclose(x.grad, (-2 + 6) / 3) and math.isclose(y.grad, 3 / 3)


def test_a_chain_longer_than_pythons_recursion_is_fine():
    x = microgpt.Value(1.0)
    y = x
    for _ in range(5 * sys.getrecursionlimit()):
        y = y * 1.0
    y.backward()
    assert x.grad == 1.0


def test_page_one_imports_only_the_standard_library():
    tree = ast.parse(PAGE.read_text(encoding="utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else
                     [alias.name for alias in node.names])
    }  # fmt: skip
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize("preset", ["a", "b"])
def test_the_first_steps_are_the_golden_ones_bit_for_bit(preset):
    truth = golden(preset)
    lines = microgpt.read_lines(microgpt.NAMES)
    assert len(lines) == truth["num_docs"]
    rng = random.Random(microgpt.SEED)
    rng.shuffle(lines)
    tokens, recipe = microgpt.Tokens(lines), microgpt.PRESETS[preset]
    weights = microgpt.make_weights(recipe, tokens.bos + 1, rng)
    assert microgpt.fingerprint(weights) == truth["fingerprints"]["init"]
    assert list(microgpt.train(lines, tokens, weights, recipe, 1)) == truth["losses"][:1]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # minutes of plain Python, several times that on a busy machine
def test_whole_runs_of_both_presets_are_the_golden_ones_bit_for_bit():
    runs = {p: start("--preset", p, "--data", str(microgpt.NAMES), "--json") for p in "ab"}
    for preset, run in runs.items():
        shown, _ = run.communicate(timeout=1400)
        result, truth = json.loads(shown), golden(preset)
        assert run.returncode == 0
        for name in ("losses", "fingerprints", "samples"):
            assert result[name] == truth[name], (preset, name)


@pytest.mark.slow
def test_a_shorter_run_keeps_the_full_schedule():
    started = start("--steps", "2", "--json")
    assert json.loads(started.communicate()[0])["losses"] == golden("b")["losses"][:2]


@pytest.mark.parametrize(
    ("text", "flags", "complaint"),
    [
        ("\n \n", [], "has no line of text"),
        (None, [], "can't be read"),
        ("eve\n", ["--steps", "1001"], "has a schedule of 1000"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(text, flags, complaint, tmp_path):
    path = tmp_path / "lines.txt"
    if text is not None:
        path.write_text(text)
    run = start("--data", str(path), *flags)
    _, errors = run.communicate()
    assert run.returncode == 2 and complaint in errors
