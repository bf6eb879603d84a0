"""The house rules hold here, and the checker, dev/house.py, sees each mistake it promises to."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from dev import house

ROOT = Path(__file__).parent.parent
MAP = '"""A map that says what this file promises, who calls it and in which order to read it."""'


def plant(root: Path, rel: str, text: str) -> list[str]:
    path = root / rel
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return house.broken_rules(root)


def test_the_house_rules_hold_in_this_repository():
    assert house.broken_rules(ROOT) == []


@pytest.mark.parametrize(
    ("rel", "text", "complaint"),
    [
        ("nanochat/gpt.py", "x = 1\n", "opens without a map"),
        ("nanochat/gpt.py", '"""Short."""\n', "map is too short"),
        ("nanochat/gpt.py", MAP + "\nx = 1" * 401, "402 lines (at most 400)"),
        ("scripts/base_train.py", MAP + "\nx = 1" * 151, "152 lines (at most 150)"),
        ("nanochat/gpt.py", f"{MAP}\nx = '{'a' * 99}'\n", "105 characters (at most 100)"),
        ("nanochat/gpt.py", f"{MAP}\ndef f():\n" + "    x = 1\n" * 60, "f is 61 lines"),
        ("tests/utils.py", MAP, "a name that says nothing"),
        ("nanochat/gpt.py", f"{MAP}\nimport nanochat.serve.chat_app\n", "may not import"),
        ("nanochat/scalar/value.py", f"{MAP}\nimport nanochat.gpt\n", "may not import nanochat"),
        ("nanochat/codemap/x.py", f"{MAP}\nimport nanochat.paths\n", "may not import nanochat"),
        ("nanochat/gpt.py", f"{MAP}\ndef f():\n    import scripts.x\n", "may not import"),
        ("dev/x.py", f"{MAP}\nimport scripts.x\n", "only tests import scripts"),
        ("scripts/a.py", f"{MAP}\nfrom scripts import b\n", "a script may not import a script"),
        ("nanochat/paths.py", f"{MAP}\nfrom nanochat import gpt\n", "in a later row"),
        ("nanochat/wonder.py", MAP, "in no row of the core"),
        ("nanochat/gpt.py", f"{MAP}\nimport random\nx = random.random()\n", "random.random draws"),
        ("nanochat/gpt.py", f"{MAP}\nx = torch.randn(3)\n", "torch.randn draws"),
        ("nanochat/gpt.py", f"{MAP}\nw.normal_(0, 1)\n", "w.normal_ draws"),
        ("nanochat/gpt.py", f"{MAP}\nr = random.Random()\n", "random.Random() has no seed"),
        ("nanochat/gpt.py", f"{MAP}\nr = numpy.random.default_rng()\n", "has no seed"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path, rel, text, complaint):
    broken = plant(tmp_path, rel, text)
    assert len(broken) == 1 and complaint in broken[0], broken


@pytest.mark.parametrize(
    ("rel", "text"),
    [
        ("nanochat/report_card.py", f"{MAP}\nimport nanochat.report\nimport nanochat.paths\n"),
        ("nanochat/gpt.py", f"{MAP}\nimport random\nr = random.Random(7)\nx = r.random()\n"),
        ("nanochat/gpt.py", f"{MAP}\nx = torch.randn(3, generator=g)\n"),
        (
            "nanochat/serve/chat_app.py",
            f"{MAP}\nimport nanochat.engine\nimport nanochat.observe.x\n",
        ),
        ("tests/test_x.py", f"{MAP}\nimport scripts.build\nx = random.random()\n"),
    ],
)
def test_what_the_rules_allow_is_left_alone(tmp_path, rel, text):
    assert plant(tmp_path, rel, text) == []


def test_a_path_of_one_machine_is_found_in_any_tracked_text(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    place = "/home" + "/somebody/models"
    assert "exists on one machine only" in plant(tmp_path, "notes.md", f"see {place}\n")[0]
    assert plant(tmp_path, "notes.md", "see ~/models\n") == []


def test_no_two_core_modules_import_each_other():
    graph = {
        path.stem: {
            name.split(".")[1]
            for name, _ in house.imports(ast.parse(path.read_text(encoding="utf-8")))
            if name.startswith("nanochat.")
        }
        for path in (ROOT / "nanochat").glob("[a-z]*.py")
    }
    while graph:  # take away what imports nothing that is left; a circle would remain
        free = [name for name, wants in graph.items() if not wants & graph.keys()]
        assert free, f"these import each other in a circle: {sorted(graph)}"
        for name in free:
            del graph[name]


def test_every_dependency_has_an_exact_version_in_the_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.M))
    names = {re.split(r"[\[<>=!~ ;]", name)[0] for name in wanted}
    assert names <= pinned.keys(), f"without a pin: {sorted(names - pinned.keys())}"
    assert pinned["torch"] == "2.13.0"


def test_every_skip_has_its_row():
    rows = (ROOT / "tests" / "SKIPS.md").read_text(encoding="utf-8")
    skipping = re.compile(r"pytest\.skip\(|mark\.skip|mark\.xfail|importorskip")
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path.name == "test_house.py":
            continue
        source = path.read_text(encoding="utf-8")
        for place in skipping.finditer(source):
            line = source.count("\n", 0, place.start()) + 1
            rel = path.relative_to(ROOT).as_posix()
            assert f"`{rel}`" in rows, (
                f"{rel}:{line} skips; say in tests/SKIPS.md what would mend it"
            )
