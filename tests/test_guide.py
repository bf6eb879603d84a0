"""educational_guide.html without a browser: its parts, its data, and its engine in node.

Python is the slower truth: microgpt.py's own run, CPython's random module and the census names.
The page in a real browser is played by tests/browser/test_guide.py.
"""

import base64
import gzip
import hashlib
import html
import json
import random
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts import guide_build

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "educational_guide.html"
PARTS = ROOT / "docs" / "guide"
NAMES = ROOT / "nanochat" / "scalar" / "data" / "census_names.txt"
LIMIT_BYTES = 700_000
# microgpt.py's weights after its last step, as SHA-256 of their decimal spelling (preset b).
END_FINGERPRINT = "1cfb068a345af92e061512800db50ef748a78077802ba5a2ab29cf3e490a702e"


@pytest.fixture(scope="module")
def page() -> str:
    return GUIDE.read_text(encoding="utf-8")


def embedded(page: str, tag: str, name: str) -> str:
    found = re.search(rf'<{tag}[^>]* id="{name}"[^>]*>\n?(.*?)</{tag}>', page, re.S)
    assert found, f"no <{tag} id={name}>"
    return found.group(1)


def engine_in_node(value_steps: int) -> dict[str, Any]:
    script = PARTS / "test" / "engine_check.mjs"
    paths = [NAMES, guide_build.PYTHON_RUN, ROOT / "microgpt.py"]
    command = ["node", str(script), str(value_steps), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def engine() -> dict[str, Any]:
    return engine_in_node(value_steps=3)


def test_the_committed_page_is_what_its_parts_make(page: str) -> None:
    assert page == guide_build.assemble()


def test_the_embedded_source_is_microgpt(page: str) -> None:
    shown = html.unescape(embedded(page, "pre", "microgpt-source"))
    assert shown == (ROOT / "microgpt.py").read_text(encoding="utf-8")


def test_the_packed_names_are_the_census_names(page: str) -> None:
    packed = base64.b64decode(embedded(page, "script", "packed-names"))
    assert gzip.decompress(packed) == NAMES.read_bytes()


def test_the_shown_names_are_the_first_of_the_shuffled_list(page: str) -> None:
    names = NAMES.read_text(encoding="utf-8").split()
    random.Random(42).shuffle(names)
    shown = json.loads(embedded(page, "script", "first-names"))
    assert shown == {"count": len(names), "first": names[:200]}


def test_the_embedded_weights_are_pythons_to_the_last_bit(page: str) -> None:
    run = json.loads(embedded(page, "script", "python-run"))
    numbers = struct.unpack("<4192d", base64.b64decode(run["weights"]))
    spelled = json.dumps([repr(x) for x in numbers])
    assert hashlib.sha256(spelled.encode()).hexdigest() == END_FINGERPRINT
    assert len(run["losses"]) == 1000 and len(run["samples"]) == 20


def test_the_page_is_small_and_asks_nothing_of_the_network(page: str) -> None:
    assert len(page.encode("utf-8")) <= LIMIT_BYTES
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "Math.random" not in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", page)


def test_every_term_and_question_that_is_used_exists(page: str) -> None:
    glossary = (PARTS / "ui" / "00_glossary.js").read_text(encoding="utf-8")
    terms = set(re.findall(r"^  (\w+): \{", glossary, re.M))
    used = set(re.findall(r'data-term="(\w+)"', page))
    assert used <= terms, used - terms
    assert len(terms) >= 30 and len(used) >= 30
    questions = (PARTS / "ui" / "10_questions.js").read_text(encoding="utf-8")
    asked = set(re.findall(r'class="quiz" data-quiz="(\w+)"></div>', page))
    assert asked == set(re.findall(r"^  (\w+): \{\n    ask", questions, re.M))
    for section in PARTS.glob("sections/[1-7]_*.html"):
        assert "data-quiz" in section.read_text(encoding="utf-8"), section


def test_the_parts_keep_to_the_house_limits() -> None:
    for path in PARTS.rglob("*"):
        if path.suffix in {".js", ".mjs", ".css", ".html"}:
            lines = path.read_text(encoding="utf-8").splitlines()
            assert len(lines) <= 400, path
            long = [n for n, line in enumerate(lines, 1) if len(line) > 100 and "data:" not in line]
            assert not long, f"{path}: lines {long}"


def test_the_engine_repeats_pythons_run(engine: dict[str, Any]) -> None:
    report = engine["report"]
    assert report["steps"] == 1000
    assert report["maxLossGap"] <= 1e-9
    assert report["maxValueGap"] <= 1e-9
    assert report["samples"] == json.loads(guide_build.PYTHON_RUN.read_text())["samples"]


def test_the_fast_gradient_equals_that_of_values(engine: dict[str, Any]) -> None:
    assert 0 < engine["gradientGap"] <= 1e-9


def test_the_random_generator_equals_cpythons(engine: dict[str, Any]) -> None:
    rng = random.Random(7)
    numbers = list(range(50))
    rng.shuffle(numbers)
    drawn = engine["draws"]
    assert drawn["shuffled"] == numbers
    assert drawn["random"] == [rng.random() for _ in range(20)]
    assert drawn["gauss"] == pytest.approx([rng.gauss(0, 0.08) for _ in range(20)], abs=1e-15)
    expected = [rng.choices(range(5), [1, 2, 3, 0, 4])[0] for _ in range(20)]
    assert drawn["choices"] == expected


def test_every_code_region_is_found_in_microgpt(engine: dict[str, Any]) -> None:
    missing = [name for name, lines in engine["regions"].items() if lines is None]
    assert not missing and len(engine["regions"]) > 30
    assert all(last - first < 40 for first, last in engine["regions"].values())


def test_the_learning_rate_is_never_negative(engine: dict[str, Any]) -> None:
    assert engine["lowestRate"] == 0


@pytest.mark.slow
def test_a_hundred_steps_with_values_equal_python() -> None:
    report = engine_in_node(value_steps=100)["report"]
    assert report["valueSteps"] == 100 and report["maxValueGap"] <= 1e-9
