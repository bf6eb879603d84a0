"""The code map: its edges against hand-read ones, how a call is followed, and questions to it.

The truth in tests/data/code_map_truth.json was found by reading; everything else here is planted.
Tags, broken repositories and edits are in test_codemap_files.py.
"""

import ast
import hashlib
import json
from pathlib import Path

import jsonschema_rs
import pytest
from code_maps import edges, graph_of, ours, plant

from nanochat.codemap import build as build_module
from nanochat.codemap.build import Sources, build_graph, default_folder, load_graph
from nanochat.codemap.errors import MapError
from nanochat.codemap.queries import Index, callers, learning_path, show

ROOT = Path(__file__).parent.parent
TRUTH = json.loads((ROOT / "tests" / "data" / "code_map_truth.json").read_text("utf-8"))
SCHEMA = json.loads((ROOT / "nanochat" / "codemap" / "knowledge_graph.schema.json").read_text())


@pytest.fixture(scope="session")
def own(tmp_path_factory) -> dict:
    return graph_of(ROOT, tmp_path_factory.mktemp("map"))


# --- against what was found by reading


def hash_of_function(place: str) -> str:
    file, _, name = place.partition(":")
    node: ast.AST | None = ast.parse((ROOT / file).read_text("utf-8"))
    for part in name.split("."):
        node = next((x for x in getattr(node, "body", []) if getattr(x, "name", "") == part), None)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return "gone"
    if ast.get_docstring(node):
        del node.body[0]
    return hashlib.sha256(ast.dump(node).encode()).hexdigest()[:12]


def hash_of_imports(file: str) -> str:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    found = [x for x in ast.walk(tree) if isinstance(x, ast.Import | ast.ImportFrom)]
    return hashlib.sha256(" ".join(map(ast.dump, found)).encode()).hexdigest()[:12]


def still_as_read(kind: str) -> dict[str, set[str]]:
    """The entries whose code is what was read, as {source: targets}."""
    read = hash_of_function if kind == "calls" else hash_of_imports
    kept = {}
    for source, entry in TRUTH[kind].items():
        there = (ROOT / source.partition(":")[0]).exists()
        if there and read(source) == entry["source"]:
            kept[source] = set(entry[kind])
    return kept


@pytest.mark.parametrize(("kind", "fewest"), [("calls", 100), ("imports", 50)])
def test_edges_agree_with_the_hand_checked_ones(own, kind, fewest):
    truth = still_as_read(kind)
    wanted = {(source, target) for source, targets in truth.items() for target in targets}
    assert len(wanted) >= fewest, "too much code has changed: read more, see the data file"
    found = {(a, b) for a, b in ours(own, kind) if a in truth}
    assert len(found & wanted) >= 0.98 * len(found), f"not so: {sorted(found - wanted)}"
    assert len(found & wanted) >= 0.90 * len(wanted), f"not seen: {sorted(wanted - found)}"


# --- the graph of this repository as a whole


def test_the_graph_of_this_repository_keeps_its_schema(own):
    jsonschema_rs.validator_for(SCHEMA).validate(own)


def test_no_id_and_no_edge_occurs_twice_and_both_ends_exist(own):
    ids = [n["id"] for n in own["nodes"]]
    assert len(ids) == len(set(ids))
    keys = [(e["kind"], e["source"], e["target"]) for e in own["edges"]]
    assert len(keys) == len(set(keys)) > 5000
    assert {end for _, a, b in keys for end in (a, b)} <= set(ids)


def test_the_printed_totals_are_those_of_the_file(tmp_path):
    root = plant(tmp_path / "r", {"a.py": "import b\nb.f()\n", "b.py": "def f():\n    g()\n"})
    totals = build_graph(Sources(root, tmp_path / "out")).summary()
    graph = load_graph(tmp_path / "out" / "knowledge_graph.json")
    assert totals["nodes"] == len(graph["nodes"]) == 3
    assert totals["edges"] == len(graph["edges"]) == 3
    assert totals["by_kind"]["edges"] == {"calls": 1, "contains": 1, "imports": 1}
    assert totals["unresolved_calls"] == len(graph["unresolved_calls"]) == 1
    assert graph["unresolved_calls"][0]["reason"] == "nothing binds this name"


def test_every_span_of_a_symbol_is_where_it_stands(own):
    lines = {}
    for node in own["nodes"]:
        if node["kind"] in ("function", "class"):
            file = node["file_path"]
            text = lines.setdefault(file, (ROOT / file).read_text("utf-8").split("\n"))
            block = text[node["line"] - 1 : node["end_line"]]
            short = node["name"].rpartition(".")[2].partition("#")[0]
            words = ("def " + short, "class " + short)
            assert any(word in line for line in block[:30] for word in words), node["id"]


# --- calls, one rule at a time

RULES = {
    "an alias": ("import b as c\ndef f():\n    c.g()\n", "b.py:g"),
    "a name from a module": ("from b import g as h\ndef f():\n    h()\n", "b.py:g"),
    "a re-export": ("import p\ndef f():\n    p.g()\n", "b.py:g"),
    "a star": ("from b import *\ndef f():\n    g()\n", "b.py:g"),
    "an import inside": ("def f():\n    from b import g\n    g()\n", "b.py:g"),
    "an annotation": ("from b import K\ndef f(k: K | None):\n    k.m()\n", "b.py:K.m"),
    "text as annotation": ("import b\ndef f(k: 'b.K'):\n    k.m()\n", "b.py:K.m"),
    "an instance": ("from b import K\ndef f():\n    k = K()\n    k.m()\n", "b.py:K.m"),
    "a method inherited": ("from b import L\ndef f():\n    L().m()\n", "b.py:K.m"),
    "super": (
        "from b import K\nclass A(K):\n    def m(self):\n        super().m()\n",
        "b.py:K.m",
    ),
    "an attribute set in __init__": (
        "from b import K\nclass A:\n    def __init__(self):\n        self.k = K()\n"
        "    def f(self):\n        self.k.m()\n",
        "b.py:K.m",
    ),
    "what a function promises": ("from b import new\ndef f():\n    new().m()\n", "b.py:K.m"),
    "items of a list": ("from b import K\ndef f(ks: list[K]):\n    ks[0].m()\n", "b.py:K.m"),
    "a loop": (
        "from b import K\ndef f(ks: dict[str, K]):\n    for n, k in ks.items():\n        k.m()\n",
        "b.py:K.m",
    ),
    "a comprehension": (
        "from b import K\ndef f(ks: set[K]):\n    [k.m() for k in ks]\n",
        "b.py:K.m",
    ),
    "with": (
        "from b import opened\ndef f():\n    with opened() as k:\n        k.m()\n",
        "b.py:K.m",
    ),
    "a class as argument": ("from b import K, make\ndef f():\n    make(K).m()\n", "b.py:K.m"),
    "a property": ("from b import K\ndef f(k: K):\n    k.twin.m()\n", "b.py:K.m"),
    "a named type": ("from b import Ks\ndef f(ks: Ks):\n    ks[0].m()\n", "b.py:K.m"),
    "one of two": ("from b import g, new\ndef f(x):\n    (g if x else new)()\n", "b.py:g"),
    "an instance that is called": ("from b import K\ndef f(k: K):\n    k(1)\n", "b.py:K.__call__"),
    "relative": ("from . import b\ndef f():\n    b.g()\n", "b.py:g"),
    "a library": ("import os.path as p\ndef f():\n    p.join('a')\n", "external:os.path.join"),
    "a method of text": ("def f(s: str):\n    s.strip()\n", "external:builtins.str.strip"),
}
B = """from contextlib import contextmanager
from typing import Iterator, TypeVar
T = TypeVar("T")
class K:
    def m(self): ...
    def __call__(self, x): ...
    @property
    def twin(self) -> "K": ...
class L(K): ...
Ks = list[K]
def g(): ...
def new() -> K: ...
def make(kind: type[T]) -> T: ...
@contextmanager
def opened() -> Iterator[K]: ...
"""


@pytest.mark.parametrize("rule", RULES)
def test_a_call_is_followed_through(rule, tmp_path):
    text, target = RULES[rule]
    root = plant(tmp_path / "r", {"a.py": text, "b.py": B, "p/__init__.py": "from b import g\n"})
    if rule == "relative":
        (root / "__init__.py").touch()
    found = {b for a, b in edges(graph_of(root), "calls") if a.startswith("a.py:")}
    assert target in found
    assert {b for b in found if b.startswith("b.py")} - {target} <= {
        *("b.py:new", "b.py:K", "b.py:L", "b.py:opened", "b.py:make"),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(x):\n    x.m()\n", "what stands before the dot is not known"),
        ("def f(x):\n    x()\n", "what this name holds is not known"),
        ("from b import K\ndef f(k: K):\n    k.no()\n", "before the dot has no such attribute"),
        ("def f():\n    nowhere()\n", "nothing binds this name"),
        (
            "from collections.abc import Callable\ndef f(x: Callable[[], int]):\n    x()\n",
            "a function given from outside",
        ),
    ],
)
def test_what_can_not_be_followed_is_listed_with_its_reason_and_not_guessed(text, reason, tmp_path):
    graph = graph_of(plant(tmp_path / "r", {"a.py": text, "b.py": B}))
    assert not {b for a, b in edges(graph, "calls") if a == "a.py:f"}
    (row,) = [row for row in graph["unresolved_calls"] if row["file"] == "a.py"]
    assert reason in row["reason"] and row["symbol"] == "a.py:f"
    assert row["line"] == text.count("\n")


def test_names_defined_twice_and_nested_ones_have_ids_of_their_own(tmp_path):
    text = "def f():\n    def f(): ...\ndef f(): ...\nclass A:\n    def f(self): ...\n"
    graph = graph_of(plant(tmp_path / "r", {"a.py": text}))
    ids = {n["id"] for n in graph["nodes"]}
    assert ids == {"a.py", "a.py:f", "a.py:f.f", "a.py:f#2", "a.py:A", "a.py:A.f"}


def test_imports_find_a_src_layout_a_namespace_and_a_script_beside(tmp_path):
    files = {
        "src/pkg/__init__.py": "",
        "src/pkg/deep/one.py": "from .. import two\nfrom ..two import x\n",
        "src/pkg/two.py": "x = 1\n",
        "tools/run.py": "import helper\nimport pkg.deep.one\nimport json\n",
        "tools/helper.py": "",
    }
    got = edges(graph_of(plant(tmp_path / "r", files)), "imports")
    assert got == {
        ("src/pkg/deep/one.py", "src/pkg/two.py"),
        ("tools/run.py", "tools/helper.py"),
        ("tools/run.py", "src/pkg/deep/one.py"),
        ("tools/run.py", "external:json"),
    }


# --- questions


def test_callers_and_what_a_node_is_joined_to(own):
    found = {row["caller"] for row in callers(Index(own), "calculate")}
    assert "nanochat/engine.py:Answer._run_call" in found
    shown = show(Index(own), "nanochat/kv_cache.py:CacheView.update")
    assert "nanochat/kv_cache.py:CacheView._mask" in shown["joined"]["calls"]
    assert shown["joined"]["contained in"] == ["nanochat/kv_cache.py:CacheView"]


def concept_graph(needs: dict[str, list[str]]) -> Index:
    nodes = [{"id": f"concept:{c}", "kind": "concept", "name": c, "source": "repo"} for c in needs]
    pairs = [(c, other) for c, others in needs.items() for other in others]
    rows = [
        {"kind": "requires", "source": f"concept:{a}", "target": f"concept:{b}", "lines": []}
        for a, b in pairs
    ]
    return Index({"nodes": nodes, "edges": rows})


def test_a_learning_path_has_every_step_after_what_it_needs():
    index = concept_graph(
        {"f.a": [], "f.b": ["f.a"], "g.c": ["f.a", "f.b"], "g.d": ["g.c", "f.e"], "f.e": []}
    )
    assert [n["name"] for n in learning_path(index, "f.a", "g.d")] == [
        "f.a",
        "f.e",
        "f.b",
        "g.c",
        "g.d",
    ]
    assert [n["name"] for n in learning_path(index, "f.b", "c")] == ["f.b", "g.c"]
    with pytest.raises(MapError, match="does not rest on"):
        learning_path(index, "g.d", "f.b")
    with pytest.raises(MapError, match=r"did you mean f\.a"):
        learning_path(index, "f.aa", "g.d")
    with pytest.raises(MapError, match="no name given"):
        learning_path(index, "", "g.d")


def test_a_circle_of_prerequisites_is_a_sentence():
    with pytest.raises(MapError, match="circle"):
        learning_path(concept_graph({"a.a": ["a.b"], "a.b": ["a.a"]}), "a.a", "a.b")


# --- another package


@pytest.mark.slow
def test_the_graph_of_an_installed_package_holds_what_its_source_says(tmp_path):
    import fastapi

    graph = graph_of(Path(fastapi.__file__).parent, tmp_path)
    jsonschema_rs.validator_for(SCHEMA).validate(graph)
    assert graph["root"] == "fastapi" and not graph["problems"]
    calls, inherits = edges(graph, "calls"), edges(graph, "inherits")
    assert ("applications.py:FastAPI.get", "routing.py:APIRouter.get") in calls
    assert (
        "routing.py:get_request_handler.app",
        "dependencies/utils.py:solve_dependencies",
    ) in calls
    assert ("applications.py:FastAPI", "external:starlette.applications.Starlette") in inherits
    assert ("security/http.py:HTTPBearer", "security/http.py:HTTPBase") in inherits
    assert ("__init__.py", "applications.py") in edges(graph, "imports")
    ids = [n["id"] for n in graph["nodes"]]
    assert len(ids) == len(set(ids))


def test_each_repository_has_a_folder_of_its_own(tmp_path):
    made = tmp_path / "made"
    assert default_folder(tmp_path, tmp_path, made) == made
    folders = {default_folder(tmp_path / x / "lib", tmp_path, made) for x in ("a", "b")}
    assert len(folders) == 2 and all(folder.parent == made for folder in folders)


def test_the_collector_is_on_again_after_a_build(tmp_path):
    with build_module.no_collector():
        assert not build_module.gc.isenabled()
    assert build_module.gc.isenabled()
