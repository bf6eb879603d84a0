"""Every note is as agreed, its worked example re-computes, and the gap report is empty."""

from pathlib import Path

import pytest
from code_maps import plant

from nanochat.codemap.build import Sources, build_graph
from nanochat.codemap.examples import example_of, faults_of_example, run_example
from nanochat.codemap.gaps import as_markdown, find_gaps
from nanochat.codemap.notes import CLUSTERS, SECTIONS, faults, read_note
from scripts import generate_code_index
from scripts import map as map_script

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "knowledge_base"
FILES = sorted(path.name for path in FOLDER.glob("*.md") if path.name != "README.md")


def note_of(name: str):
    return read_note(f"docs/knowledge_base/{name}", (FOLDER / name).read_text("utf-8"))


# These load the compiler of torch, which takes longer than all the others together.
HEAVY = {"optimization.activation_checkpointing.md"}
RUN = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in FILES]


@pytest.mark.parametrize("name", RUN)
def test_the_worked_example_of_a_note_recomputes(name):
    note = note_of(name)
    assert faults_of_example(note) == []
    assert example_of(note), "no lines to run"
    assert run_example(note) == ""


@pytest.mark.parametrize("name", FILES)
def test_a_note_is_as_agreed(name):
    assert list(faults(note_of(name), ROOT)) == []


def test_there_are_enough_notes_and_places_that_point_to_them(own_graph):
    assert len(own_graph.notes) >= 48
    assert {note.cluster for note in own_graph.notes.values()} == set(CLUSTERS)
    tags = [tag for record in own_graph.records.values() for tag in record.tags]
    places = [t for t in tags if t["kind"] == "learn"]
    assert sum(t["file"].startswith(("nanochat/", "scripts/")) for t in places) >= 80


def test_the_gap_report_of_this_repository_is_empty(own_graph):
    gaps = find_gaps(own_graph)
    assert gaps == [], "\n" + as_markdown(own_graph, gaps)


@pytest.fixture(scope="module")
def own_graph(tmp_path_factory):
    return build_graph(Sources(ROOT, tmp_path_factory.mktemp("map")))


# --- each kind of gap, planted

FRONT = """---
title: {title}
cluster: {cluster}
prerequisites: [{needs}]
anchors: [a.py:f]
viz: [guide.one]
sources: ["Somebody (2020), Something: a paper, volume 1"]
---

# {title}

It is what it is.

"""
EXAMPLE = "```python\n>>> 1 + 1\n2\n>>> round(2 / 3, 4)\n0.6667\n\n```\n"
CHECK = "".join(f"{n}. Why?\n\n   **Answer.** So.\n\n" for n in (1, 2, 3))


def good_note(title: str = "One", cluster: str = "foundations", needs: str = "") -> str:
    parts = [FRONT.format(title=title, cluster=cluster, needs=needs)]
    for section in SECTIONS:
        text = {"A worked example": EXAMPLE, "Check yourself": CHECK}.get(section, "word " * 110)
        parts.append(f"## {section}\n\n{text}\n")
    return "\n".join(parts)


REGISTRY = '{"guide.one": {"title": "First", "page": "g.html", "section": "one"}}'
GOOD = {
    "a.py": "# @learn:foundations.one\ndef f():\n    return 1\n",
    "docs/knowledge_base/foundations.one.md": good_note(),
    "docs/knowledge_base/visualisations.json": REGISTRY,
    "g.html": '<section id="one"><h2>First</h2></section>',
}
NOTE = "docs/knowledge_base/foundations.one.md"


def kinds_of(tmp_path: Path, files: dict[str, str], examples: bool = False) -> list[str]:
    root = plant(tmp_path / "r", files)
    graph = build_graph(Sources(root, tmp_path / "out"))
    return [f"{gap.kind}: {gap.text}" for gap in find_gaps(graph, examples)]


def test_a_repository_with_everything_has_no_gap(tmp_path):
    assert kinds_of(tmp_path, GOOD, examples=True) == []


LONG = "    x = 1\n" * 5
PLANTED = {
    "concept without a note: foundations.two is used": {
        "b.py": "# @learn:foundations.two\nx = 1\n",
    },
    "concept without a note: prerequisite foundations.two": {
        NOTE: good_note(needs="foundations.two"),
    },
    "note without code: no `# @learn:foundations.one`": {"a.py": "def f():\n    return 1\n"},
    "dead anchor: a.py:f": {"a.py": "# @learn:foundations.one\ndef g():\n    return 1\n"},
    "todo:explain: foundations.one waits": {"b.py": "# @todo:explain:foundations.one\nx = 1\n"},
    "visualisation missing: guide.two is not in": {"b.py": "# @viz:guide.two\nx = 1\n"},
    "visualisation missing: guide.one: no page": {
        "docs/knowledge_base/visualisations.json": REGISTRY.replace("g.html", "h.html"),
    },
    "visualisation missing: guide.one: g.html has no section": {"g.html": "<h2>First</h2>"},
    "visualisation missing: guide.one: g.html has no heading": {"g.html": '<p id="one">'},
    "no docstring: f does not say": {"b.py": "def f():\n" + LONG},
    "malformed tag: '@lern:a.b' is no tag": {"b.py": "# @lern:a.b\nx = 1\n"},
    "file: syntax: is no Python": {"b.py": "def f(:\n"},
    "prerequisite circle: its prerequisites go round": {
        NOTE: good_note(needs="foundations.two"),
        "docs/knowledge_base/foundations.two.md": good_note("Two", needs="foundations.one"),
        "b.py": "# @learn:foundations.two\nx = 1\n",
    },
    "dead link: no.md leads nowhere": {"b.md": "see [this](no.md)\n"},
    "dead link: no heading c.md#three": {"b.md": "[this](c.md#three)\n", "c.md": "# Two\n"},
    "worked example: ": {NOTE: good_note().replace("0.6667", "0.6666")},
    "`...` hides a number": {
        NOTE: good_note().replace("0.6667", "0.66..."),
    },
    ": imports requests": {
        NOTE: good_note().replace(">>> 1 + 1\n2\n", ">>> import requests\n>>> 2\n2\n"),
    },
    "note not as agreed: the worked example prints fewer": {
        NOTE: good_note().replace(">>> 1 + 1\n2\n", ""),
    },
    "words: a note has 500 to 1200": {NOTE: good_note().replace("word " * 110, "word ", 2)},
    "note not as agreed: the sections are": {NOTE: good_note().replace("## The code", "## Code")},
    "note not as agreed: 3 questions": {NOTE: good_note().replace("3. Why?", "Why?")},
    "note not as agreed: sources is missing": {
        NOTE: "\n".join(x for x in good_note().split("\n") if not x.startswith("sources")),
    },
    "note not as agreed: cluster 'magic'": {NOTE: good_note(cluster="magic")},
    "note not as agreed: quotes lines that stand in no anchored file": {
        NOTE: good_note().replace("word word", "\n\n```python\nreturn 2\n```\n\nword", 1),
    },
}


@pytest.mark.parametrize("said", PLANTED)
def test_a_planted_gap_is_reported(said, tmp_path):
    found = kinds_of(tmp_path, GOOD | PLANTED[said], examples=said.startswith("worked"))
    assert any(said in gap for gap in found), found


def test_a_note_above_the_foundations_needs_prerequisites(tmp_path):
    note = good_note("Two", cluster="data")
    files = {"docs/knowledge_base/data.two.md": note, "b.py": "# @learn:data.two\nx = 1\n"}
    assert any("only a note of foundations" in gap for gap in kinds_of(tmp_path, GOOD | files))


def test_a_quotation_may_skip_lines_and_differ_in_indentation(tmp_path):
    quoted = "\n\n```python\ndef f():\n...\nreturn 1\n```\n\nword"
    files = {NOTE: good_note().replace("word word", quoted, 1)}
    assert kinds_of(tmp_path, GOOD | files) == []


def test_lists_in_front_matter_may_be_written_in_two_ways():
    text = good_note(needs="foundations.a, foundations.b").replace(
        "viz: [guide.one]", "viz:\n  - guide.one\n  - guide.two"
    )
    note = read_note(NOTE, text)
    assert note.wrong == []
    assert note.prerequisites == ["foundations.a", "foundations.b"]
    assert note.viz == ["guide.one", "guide.two"]
    assert note.sources == ["Somebody (2020), Something: a paper, volume 1"]
    assert note.definition == "It is what it is."


# --- the commands


def test_gaps_ends_with_1_and_says_which(tmp_path, capsys):
    root = plant(tmp_path / "r", {**GOOD, "b.py": "# @learn:foundations.two\nx = 1\n"})
    flags = ["--root", str(root), "--out", str(tmp_path / "out")]
    assert map_script.main(["gaps", *flags, "--json"]) == 1
    assert '"gaps": 1' in capsys.readouterr().out
    assert "b.py:1" in (tmp_path / "out" / "gaps.md").read_text()
    plant(root, {"b.py": "x = 1\n"})
    assert map_script.main(["gaps", *flags, "--examples"]) == 0
    assert "no gaps" in capsys.readouterr().out


def test_both_verbs_make_the_same_graph(tmp_path, capsys):
    root = plant(tmp_path / "r", GOOD)
    graphs = []
    for run, name in ((map_script.main, "one"), (generate_code_index.main, "two")):
        words = ["build"] if name == "one" else []
        assert not run([*words, "--root", str(root), "--out", str(tmp_path / name), "--json"])
        assert '"duplicate_ids": 0' in capsys.readouterr().out.splitlines()[-1]
        graphs.append((tmp_path / name / "knowledge_graph.json").read_bytes())
    assert graphs[0] == graphs[1]


def test_questions_are_answered_in_the_terminal(tmp_path, capsys):
    two = good_note("Two", needs="foundations.one").replace("a.py:f", "a.py")
    files = {"docs/knowledge_base/foundations.two.md": two, "b.py": "import a\na.f()\n"}
    flags = ["--root", str(plant(tmp_path / "r", GOOD | files)), "--out", str(tmp_path / "out")]
    map_script.main(["who-calls", "f", *flags])
    assert "b.py line 2 -> a.py:f" in capsys.readouterr().out
    map_script.main(["path", "one", "foundations.two", *flags])
    steps = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["foundations.one", "foundations.two"]
    map_script.main(["show", "foundations.one", *flags])
    shown = capsys.readouterr().out
    assert "It is what it is." in shown and "a.py:f (lines 2-3)" in shown
