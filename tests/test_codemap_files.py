"""The code map and the files it reads: tags to the line, repositories in any state, edits."""

import json
import random
from pathlib import Path

import jsonschema_rs
import pytest
from code_maps import graph_of, plant

from nanochat.codemap.build import Sources, build_graph, load_graph
from nanochat.codemap.errors import MapError
from nanochat.codemap.files import find_files

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "nanochat" / "codemap" / "knowledge_graph.schema.json").read_text())


# --- tags


def tags_of(tmp_path: Path, text: str) -> tuple[list[dict], list[dict]]:
    graph = graph_of(plant(tmp_path / "r", {"a.py": text}))
    return graph["tags"], graph["problems"]


def test_a_tag_belongs_to_the_exact_lines_below_it(tmp_path):
    text = (
        "import x\n# @learn:a.one\n@x.y\ndef f():\n    a = 1\n\n    # @learn:a.two\n    # why\n"
        "    b = [\n        1,\n\n    ]\n    c = 2\n\n    return b\n\n\n"
        "# @def:logits\n# Scores before\n# softmax.\nLOGITS = 1\nMORE = 2\n"
    )
    tags, problems = tags_of(tmp_path, text)
    assert not problems
    spans = [(t["id"], t["symbol"], t["line"], t["start"], t["end"]) for t in tags]
    assert spans == [
        ("a.one", "a.py:f", 2, 3, 15),
        ("a.two", "a.py:f", 7, 9, 13),
        ("logits", "a.py", 18, 21, 22),
    ]
    assert tags[2]["text"] == "Scores before softmax."


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# @learn:rope\nx = 1\n", "write # @learn:cluster.concept"),
        ("# @learn: a.rope\nx = 1\n", "malformed"),
        ("# @learn a.rope\nx = 1\n", "is no tag"),
        ("# @lern:a.rope\nx = 1\n", "is no tag"),
        ("# @learn:A.Rope\nx = 1\n", "malformed"),
        ("# @todo:a.rope\nx = 1\n", "is no tag"),
        ("x = 1  # @learn:a.rope\n", "stands alone"),
        ("# @learn:a.rope\n\nx = 1\n", "nothing below"),
        ("def f():\n    x = 1\n    # @learn:a.rope\ny = 1\n", "nothing below"),
        ("# @def:rope\nx = 1\n", "no comment below"),
    ],
)
def test_a_malformed_tag_is_an_error_with_file_and_line(text, complaint, tmp_path):
    tags, (problem,) = tags_of(tmp_path, text)
    assert not tags and complaint in problem["text"]
    assert (problem["kind"], problem["file"]) == ("tag", "a.py")
    assert "@" in text.split("\n")[problem["line"] - 1]


def test_what_only_looks_like_a_tag_is_left_alone(tmp_path):
    text = 'S = """\n# @learn:a.b\n"""\nT = "# @learn:a.b"\n# @property\n# write me@x.org: now\n'
    assert tags_of(tmp_path, text) == ([], [])


# --- repositories in any state


def test_a_repository_in_any_state_is_indexed_and_what_is_wrong_is_named(tmp_path):
    root = plant(tmp_path / "r", {"good.py": "def f(): ...\n", "bad.py": "def f(:\n"})
    (root / "latin.py").write_bytes("# coding: latin-1\ns = 'é'\ndef g(): ...\n".encode("latin-1"))
    (root / "liar.py").write_bytes(b"s = '\xe9'\ndef h(): ...\n")
    (root / "unknown.py").write_bytes(b"# coding: klingon\ndef k(): ...\n")
    (root / "null.py").write_bytes(b"x = 1\0\n")
    (root / "bom.py").write_bytes(b"\xef\xbb\xbfdef b(): ...\r\n")
    (root / "deep.py").write_text("x = " + "(" * 500 + ")" * 500 + "\n")
    (root / "chain.py").write_text("x = a" + ".b()" * 3000 + "\n")
    (root / "half.py").write_text('def f():\n    """A half: \\ud83d."""\n')
    (root / "name-\udce9.py").write_text("def f(:\n")
    (root / "large.py").write_text("x = 1\n" * 1_000_000)
    (root / "loop").symlink_to(root)
    (root / "self.py").symlink_to(root / "self.py")
    (root / "out.py").symlink_to("/etc/hostname")
    graph = graph_of(root)
    assert graph == graph_of(root), "the cache can hold all of it"
    kinds = {(p["kind"], p["file"]) for p in graph["problems"]}
    assert kinds == {
        *(("syntax", name) for name in ("bad.py", "null.py", "deep.py", "chain.py")),
        *(("encoding", name) for name in ("liar.py", "unknown.py")),
        *(("symlink", name) for name in ("loop", "self.py", "out.py")),
        ("too_large", "large.py"),
        ("syntax", "name-\udce9.py"),
    }
    names = {n["id"] for n in graph["nodes"]}
    assert {"good.py:f", "latin.py:g", "liar.py:h", "unknown.py:k", "bom.py:b"} <= names
    assert {"bad.py", "large.py", "null.py"} <= names
    jsonschema_rs.validator_for(SCHEMA).validate(graph)


def test_environments_and_what_tools_leave_behind_are_not_source(tmp_path):
    files = dict.fromkeys(
        [
            *(".git/a.py", "venv/pyvenv.cfg", "venv/lib/b.py", "node_modules/c.py"),
            *("x/__pycache__/d.py", "build/lib/e.py", "x.egg-info/f.py", "x/build/kept.py"),
        ],
        "",
    )
    found, problems = find_files(plant(tmp_path / "r", files))
    assert (found, problems) == (["x/build/kept.py"], [])


def test_a_root_that_is_no_folder_is_one_sentence(tmp_path):
    with pytest.raises(MapError, match="is no folder: give the root"):
        build_graph(Sources(tmp_path / "nowhere", tmp_path / "out"))


# --- yesterday's graph brought up to date


def test_an_edit_gives_the_graph_that_a_run_from_nothing_gives(tmp_path):
    """Eighty random edits of a small repository, each compared byte for byte."""
    rng = random.Random(1)
    files = [*(f"m{i}.py" for i in range(6)), "p/__init__.py", "p/q.py"]
    root = plant(tmp_path / "r", dict.fromkeys(files, ""))
    pieces = [
        "from m{} import f\n",
        "import m{} as other\n",
        "def f():\n    return K()\n",
        "def f() -> int:\n    x = K()\n    return x.go()\n",
        "class K:\n    def __init__(self):\n        self.x = f()\n    def go(self):\n        f()\n",
        "from m{} import K\n",
        "def run(k: K):\n    k.go().go()\n    other.f().x.go()\n",
        "from m{} import *\n",
        "class K(other.K):\n    pass\n",
        "# @learn:a.b\nZ = [f() for k in [K()] if k.go()]\n",
        "class S(K):\n    def far(self):\n        self.go()\n        super().go()\n",
        "class K:\n    go = f\n    def far(self) -> int: ...\n",
        "def f(k: K):\n    class Inner:\n        def go(self): ...\n    return Inner()\n",
        "from p import q\nq.f().go()\n",
        "q = 1\n",
    ]
    for _ in range(80):
        chosen = [rng.choice(pieces).format(rng.randrange(6)) for _ in range(rng.randrange(5))]
        (root / rng.choice(files)).write_text("".join(chosen))
        build_graph(Sources(root, tmp_path / "kept"))
        build_graph(Sources(root, tmp_path / "anew", afresh=True))
        kept, anew = [
            (tmp_path / x / "knowledge_graph.json").read_bytes() for x in ("kept", "anew")
        ]
        assert kept == anew


def test_only_what_an_edit_concerns_is_linked_again(tmp_path):
    files = {
        "a.py": "def f() -> int:\n    return 1\n\ndef g(): ...\n",
        "b.py": "from a import f\nf().real()\n",
        "c.py": "from a import g\ng()\n",
        "d.py": "x = 1\n",
    }
    root = plant(tmp_path / "r", files)
    sources = Sources(root, tmp_path / "out")
    assert build_graph(sources).relinked == 4
    assert build_graph(sources).relinked == 0
    (root / "a.py").write_text(files["a.py"].replace("return 1", "return 2"))
    assert build_graph(sources).relinked == 1, "only the body has changed"
    (root / "a.py").write_text(files["a.py"].replace("-> int", "-> str"))
    assert build_graph(sources).relinked == 2, "b rests on what f gives"
    (root / "b.py").write_text("from a import f\nf()\n")
    assert build_graph(sources).relinked == 1
    (root / "a.py").write_text(files["a.py"])
    assert build_graph(sources).relinked == 1, "now b only names f"
    above = "class New:\n    def m(self):\n        return [x for x in self]\n\n"
    (root / "a.py").write_text(above + files["a.py"])
    assert build_graph(sources).relinked == 1, "what stands below has only moved"
    (root / "e.py").write_text("")
    assert build_graph(sources).relinked == 5, "a new file may be what an import means"


def test_a_damaged_cache_is_made_again(tmp_path):
    """Each byte of a cache changed in turn, and each length cut off."""
    root = plant(tmp_path / "r", {"a.py": "def f(): ...\n"})
    good = graph_of(root, tmp_path / "out")
    cache = tmp_path / "out" / "cache.jsonl"
    whole = cache.read_bytes()
    damaged = [b"", b"{}\n", *(whole[:n] for n in range(0, len(whole), 97))]
    for n in range(0, len(whole), 97):
        damaged.append(whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :])
    for damage in damaged:
        cache.write_bytes(damage)
        assert build_graph(Sources(root, tmp_path / "out")).relinked == 1
        assert load_graph(tmp_path / "out" / "knowledge_graph.json") == good
    assert build_graph(Sources(root, tmp_path / "out")).relinked == 0
