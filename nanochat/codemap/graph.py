"""Nodes and edges of everything, in one JSON text: code, ideas, terms, visualisations, notes.

Called by build.py. Read: Graph -> fill_nodes, fill_edges (one file's share) -> Knowledge ->
assemble.
What each field means is in knowledge_graph.schema.json. Ids never collide: a file is its path, a
symbol `path:Class.method` (a second definition of the same name ends in #2), and everything that
is no code of ours has a prefix: external:, concept:, term:, viz:.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat.codemap.files import Problem, decode
from nanochat.codemap.link import Links
from nanochat.codemap.notes import Note, read_note
from nanochat.codemap.records import Record, quick_encoder
from nanochat.codemap.syntax import Facts

GRAPH_VERSION = 1
NOTES_FOLDER = "docs/knowledge_base"
REGISTRY = f"{NOTES_FOLDER}/visualisations.json"
TAG_EDGES = {"learn": ("learns", "concept"), "def": ("defines", "term")}


@dataclass
class Graph:
    """The finished graph, and what the gap report needs besides."""

    root: Path
    text: Iterable[str] = ()  # of knowledge_graph.json, in pieces
    counts: Counter[str] = field(default_factory=Counter)
    records: dict[str, Record] = field(default_factory=dict)
    notes: dict[str, Note] = field(default_factory=dict)
    registry: dict[str, dict[str, str]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)  # Markdown files
    problems: list[Problem] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    duplicate_edges: int = 0
    isolated_concepts: list[str] = field(default_factory=list)
    unresolved: int = 0
    relinked: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """What `nanochat map build --json` prints."""
        nodes = {k: n for k, n in self.counts.items() if k in NODE_KINDS}
        edges = {k: n for k, n in self.counts.items() if k not in NODE_KINDS}
        return {
            "nodes": sum(nodes.values()),
            "edges": sum(edges.values()),
            "by_kind": {"nodes": dict(sorted(nodes.items())), "edges": dict(sorted(edges.items()))},
            "duplicate_ids": sum(count - 1 for count in self.ids.values()),
            "duplicate_edges": self.duplicate_edges,
            "isolated_concepts": len(self.isolated_concepts),
            "unresolved_calls": self.unresolved,
            "problems": len(self.problems),
            "files_linked_anew": self.relinked,
            "seconds": round(self.seconds, 4),
        }


NODE_KINDS = {
    *("file", "class", "function", "concept", "note", "term", "visualisation", "external"),
}


def node(id_: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    """A node of the repository; `more` overrides and adds."""
    empty = {"file_path": None, "line": None, "end_line": None, "docstring": "", "signature": ""}
    return {"id": id_, "kind": kind, "name": name, "source": "repo", "library": None} | empty | more


def edge(kind: str, source: str, target: str, lines: list[int], **more: Any) -> dict[str, Any]:
    return {"kind": kind, "source": source, "target": target, "lines": lines} | more


def fill_nodes(record: Record, rel: str, facts: Facts, own: Facts) -> None:
    """The nodes of one file as text; they say what is in it and rest on nothing else."""
    nodes = [node(rel, "file", rel.rpartition("/")[2], file_path=rel, line=1)]
    nodes[0] |= {"end_line": own["lines"], "docstring": own["doc"]}
    for symbol, told in zip(facts["symbols"], own["told"], strict=True):
        name = f"{rel}:{symbol['name']}"
        place = {"file_path": rel, "line": told["line"], "end_line": told["end"]}
        said = {"docstring": told["doc"], "signature": told["signature"]}
        nodes.append(node(name, symbol["kind"], symbol["name"], **place, **said))
    record.ids = [n["id"] for n in nodes]
    record.nodes = as_rows(nodes)
    record.kinds = dict(Counter(row["kind"] for row in nodes))
    record.bare = bare_functions(rel, facts, own)


def fill_edges(record: Record, rel: str, links: Links) -> None:
    """The edges of one file as text."""
    edges = [edge(*key, sorted(lines)) for key, lines in links.edges.items()]
    edges += tag_edges(record)
    record.edges = as_rows(edges)
    record.counts = dict(Counter(row["kind"] for row in edges))
    different = {(e["kind"], e["source"], e["target"]) for e in edges}
    record.counts["duplicate edges"] = len(edges) - len(different)
    record.counts["unresolved"] = len(links.unresolved)
    record.libraries = sorted({e["target"] for e in edges if e["target"].startswith("external:")})
    keys = ("symbol", "line", "call", "reason")
    rows = [{"file": rel} | dict(zip(keys, row, strict=True)) for row in links.unresolved]
    record.unresolved = as_rows(rows)


def tag_edges(record: Record) -> list[dict[str, Any]]:
    """learns, defines and visualises edges, with the exact spans of lines."""
    spans: dict[tuple[str, str, str], list[list[int]]] = {}
    for tag in record.tags:
        span = [tag["start"], tag["end"]]
        if tag["kind"] in TAG_EDGES:
            kind, prefix = TAG_EDGES[tag["kind"]]
            spans.setdefault((kind, tag["symbol"], f"{prefix}:{tag['id']}"), []).append(span)
        elif tag["kind"] == "viz":
            spans.setdefault(("visualises", f"viz:{tag['id']}", tag["symbol"]), []).append(span)
    return [edge(*key, [s[0] for s in found], spans=found) for key, found in spans.items()]


def bare_functions(rel: str, facts: Facts, own: Facts) -> list[list[Any]]:
    """[id, line] of functions that ought to have a docstring and have none.

    Exempt: private and nested ones, `main` of a script, methods whose name a library fixed (the
    class says what they do), and bodies of at most three lines, which say it themselves.
    """
    found = []
    for symbol, told in zip(facts["symbols"], own["told"], strict=True):
        short = symbol["name"].rpartition(".")[2]
        parent = facts["symbols"][symbol["parent"]] if symbol["parent"] >= 0 else None
        nested = parent is not None and parent["kind"] == "function"
        private = any(part.startswith("_") for part in symbol["name"].split("."))
        if symbol["kind"] != "function" or told["doc"] or nested or private:
            continue
        fixed = short in FIXED_NAMES or short.startswith(("do_", "visit_"))
        if not fixed and told["body"] > SHORT_BODY:
            found.append([f"{rel}:{symbol['name']}", told["line"]])
    return found


SHORT_BODY = 3
FIXED_NAMES = {"main", "forward", "backward"}


def as_rows(rows: list[dict[str, Any]]) -> str:
    return ",\n".join(map(ENCODE, rows))


ENCODE = quick_encoder(False, ", ", ": ")


class Knowledge:
    """The nodes and edges that notes, tags and the registry of visualisations add."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, dict[str, Any]] = {}
        self.edges: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.touched: set[str] = set()

    def add_notes(self) -> None:
        """Concepts, notes, and what the notes say they need, explain and show."""
        for note in self.graph.notes.values():
            about = f"concept:{note.id}"
            given = {"title": note.title, "cluster": note.cluster, "written": True}
            given |= {"file_path": note.file, "docstring": note.definition}
            self.nodes[about] = node(about, "concept", note.id, **given)
            name = note.file.rpartition("/")[2]
            self.nodes[note.file] = node(note.file, "note", name, file_path=note.file, line=1)
            self.link("documents", note.file, about)
            for anchor in note.anchors:
                there = resolve_anchor(self.graph, anchor)
                if there:
                    self.link("documents", note.file, there)
        for note in self.graph.notes.values():
            for needed in note.prerequisites:
                self.need_concept(needed)
                self.link("requires", f"concept:{note.id}", f"concept:{needed}")
            for viz in note.viz:
                self.need_viz(viz)
                self.link("visualises", f"viz:{viz}", f"concept:{note.id}")

    def add_tags(self) -> None:
        """Concepts, terms and visualisations that only the code names."""
        for record in self.graph.records.values():
            for tag in record.tags:
                if tag["kind"] in ("learn", "todo:explain"):
                    self.need_concept(tag["id"])
                elif tag["kind"] == "viz":
                    self.need_viz(tag["id"])
                else:
                    term = f"term:{tag['id']}"
                    told = {"docstring": tag["text"], "file_path": tag["file"], "line": tag["line"]}
                    self.nodes.setdefault(term, node(term, "term", tag["id"], **told))
                if tag["kind"] == "learn":
                    self.touched.add(f"concept:{tag['id']}")

    def need_concept(self, id_: str) -> None:
        name = f"concept:{id_}"
        more = {"title": id_, "cluster": id_.partition(".")[0], "written": False}
        self.nodes.setdefault(name, node(name, "concept", id_, **more))

    def need_viz(self, id_: str) -> None:
        entry = self.graph.registry.get(id_, {})
        more = {"title": entry.get("title", id_), "file_path": entry.get("page")}
        self.nodes.setdefault(f"viz:{id_}", node(f"viz:{id_}", "visualisation", id_, **more))

    def link(self, kind: str, source: str, target: str) -> None:
        self.edges.setdefault((kind, source, target), edge(kind, source, target, []))
        if kind != "documents" or not target.startswith("concept:"):
            self.touched.update((source, target))  # its own note alone is no connection


def resolve_anchor(graph: Graph, anchor: str) -> str:
    """The id of what an anchor names (for a constant: of its file); '' when it is not there."""
    file, _, name = anchor.partition(":")
    if anchor in graph.ids:
        return anchor
    return file if file in graph.records and name in graph.records[file].digests else ""


def external_node(id_: str) -> dict[str, Any]:
    dotted = id_.partition(":")[2]
    library = dotted.partition(".")[0]
    return node(id_, "external", dotted, source="external", library=library)


def assemble(
    root: Path,
    inside: str,
    records: dict[str, Record],
    texts: dict[str, bytes],
    problems: list[Problem],
) -> Graph:
    """All parts -> one Graph with its JSON text and its totals."""
    graph = Graph(root, records=records, texts=texts, problems=[*problems])
    for rel, raw in texts.items():
        folder, _, name = rel.rpartition("/")
        if folder == NOTES_FOLDER and name != "README.md":
            text, problem = decode(rel, raw)
            graph.problems += [problem] if problem else []
            note = read_note(rel, text)
            graph.notes[note.id] = note
    graph.registry = read_registry(root)
    for record in records.values():
        graph.problems += [Problem(**problem) for problem in record.problems]
        graph.ids.update(record.ids)
        graph.counts.update(record.kinds)
        graph.counts.update(record.counts)
    graph.unresolved = graph.counts.pop("unresolved", 0)
    graph.duplicate_edges = graph.counts.pop("duplicate edges", 0)
    knowledge = Knowledge(graph)
    knowledge.add_notes()
    knowledge.add_tags()
    libraries = sorted({id_ for record in records.values() for id_ in record.libraries})
    more_nodes = [*knowledge.nodes.values(), *map(external_node, libraries)]
    more_edges = list(knowledge.edges.values())
    graph.ids.update(n["id"] for n in more_nodes)
    graph.counts.update(row["kind"] for row in [*more_nodes, *more_edges])
    concepts = [n["id"] for n in more_nodes if n["kind"] == "concept"]
    graph.isolated_concepts = [c for c in concepts if c not in knowledge.touched]
    graph.counts = +graph.counts
    graph.text = whole_text(graph, inside, more_nodes, more_edges)
    return graph


def whole_text(
    graph: Graph, inside: str, nodes: list[dict[str, Any]], edges: list[dict[str, Any]]
) -> Iterator[str]:
    """The file knowledge_graph.json in pieces: one row a line, in the order of the files."""
    records = graph.records.values()
    head = {"version": GRAPH_VERSION, "root": inside or graph.root.resolve().name}
    parts: dict[str, Iterable[str]] = {
        "nodes": (*(r.nodes for r in records), as_rows(nodes)),
        "edges": (*(r.edges for r in records), as_rows(edges)),
        "tags": (as_rows(r.tags) for r in records),
        "unresolved_calls": (r.unresolved for r in records),
        "problems": (as_rows([asdict(problem) for problem in graph.problems]),),
    }
    yield json.dumps(head)[:-1]
    for name, rows in parts.items():
        yield f',\n"{name}": ['
        between = "\n"
        for row in filter(None, rows):
            yield between
            yield row
            between = ",\n"
        yield "\n]"
    yield "\n}\n"


def read_registry(root: Path) -> dict[str, dict[str, str]]:
    """The visualisations that exist; {} for a repository without any."""
    try:
        found: dict[str, dict[str, str]] = json.loads((root / REGISTRY).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found
