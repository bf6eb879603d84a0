"""Questions to a finished graph: what is this, what must I learn first, who calls it.

Called by scripts/map.py with the content of knowledge_graph.json; needs no source file.
Read: Index -> find -> show -> learning_path -> callers.
"""

from collections import defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from nanochat.codemap.errors import MapError

Row = dict[str, Any]


class Index:
    """A graph whose nodes can be found by name and whose edges can be followed both ways."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self.nodes: dict[str, Row] = {row["id"]: row for row in graph["nodes"]}
        self.out: dict[str, list[Row]] = defaultdict(list)
        self.into: dict[str, list[Row]] = defaultdict(list)
        for row in graph["edges"]:
            self.out[row["source"]].append(row)
            self.into[row["target"]].append(row)

    def find(self, name: str, kinds: Iterable[str] = ()) -> list[Row]:
        """Nodes called `name`: by id, by name, or by the last parts of a name (GPT.forward).

        A concept may be named without its cluster, or by the cluster a beginner would look in.
        Raises MapError, with what it could have been, when there is none.
        """
        if not name.strip():
            raise MapError("no name given: say which, such as GPT.forward or architecture.rope")
        wanted = [n for n in self.nodes.values() if not kinds or n["kind"] in kinds]
        for matches in (
            lambda n: n["id"] == name,
            lambda n: n["name"] == name,
            lambda n: n["id"].endswith(f"/{name}") or n["name"].endswith(f".{name}"),
            lambda n: n["kind"] == "concept" and n["name"].endswith(f".{name.split('.')[-1]}"),
        ):
            found = [n for n in wanted if matches(n)]
            if found:
                return found
        names = sorted({n["name"] for n in wanted if n["kind"] != "external"})
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise MapError(f"nothing is called {name!r} in this graph{hint}")


def place(node: Row) -> str:
    """'nanochat/gpt.py:119', or the library something comes from."""
    if node["source"] == "external":
        return f"library {node['library']}"
    line = f":{node['line']}" if node["line"] else ""
    return f"{node['file_path'] or ''}{line}"


def title(node: Row) -> str:
    return str(node.get("title") or node["name"])


def show(index: Index, name: str) -> dict[str, Any]:
    """Everything about one node (the first that answers to the name) and what it is joined to."""
    found = index.find(name)
    node = found[0]
    joined: dict[str, list[str]] = {}
    for row in index.out[node["id"]]:
        joined.setdefault(row["kind"], []).append(line_of(index, row["target"], row))
    for row in index.into[node["id"]]:
        joined.setdefault(PASSIVE[row["kind"]], []).append(line_of(index, row["source"], row))
    others = [n["id"] for n in found[1:]]
    return {"node": node, "joined": joined, "others": others}


PASSIVE = {
    "imports": "imported by",
    "calls": "called by",
    "inherits": "inherited by",
    "contains": "contained in",
    "learns": "learnt from",
    "defines": "defined in",
    "visualises": "visualised by",
    "requires": "required by",
    "documents": "documented by",
}


def line_of(index: Index, id_: str, row: Row) -> str:
    """The other end of an edge, as one line: where it is and what it is called."""
    node = index.nodes[id_]
    if node["kind"] in ("concept", "term", "visualisation"):
        return f"{node['name']} ({title(node)})"
    spans = row.get("spans")
    if spans:
        return f"{id_} (lines {', '.join(f'{a}-{b}' for a, b in spans)})"
    return id_.removeprefix("external:")


def as_text(shown: dict[str, Any]) -> str:
    """`show` for people."""
    node = shown["node"]
    lines = [f"{title(node)} ({node['kind']}) {place(node)}".rstrip()]
    if node["signature"]:
        lines.append(node["signature"])
    if node["docstring"]:
        lines += ["", node["docstring"]]
    for kind, ends in shown["joined"].items():
        lines += ["", f"{kind}:", *(f"  {end}" for end in ends)]
    if shown["others"]:
        lines += ["", "also called so:", *(f"  {other}" for other in shown["others"])]
    return "\n".join(lines)


def path_as_text(steps: list[Row]) -> str:
    """`learning_path` for people."""
    width = max(len(step["name"]) for step in steps)
    rows = [(step["name"].ljust(width), title(step), place(step)) for step in steps]
    return "\n".join(f"{n:>3}. {a}  {b}  ({c})" for n, (a, b, c) in enumerate(rows, 1))


def requirements(index: Index, id_: str) -> list[str]:
    return sorted(row["target"] for row in index.out[id_] if row["kind"] == "requires")


def learning_path(index: Index, known: str, goal: str) -> list[Row]:
    """The notes to read, in order, to understand `goal` when `known` is understood.

    Everything the goal rests on comes before it, except `known` itself and what that rests on.
    Raises MapError when the goal does not rest on `known`, or in a circle.
    """
    start = index.find(known, ("concept",))[0]["id"]
    end = index.find(goal, ("concept",))[0]["id"]
    if start not in resting_on(index, end):
        names = index.nodes[end]["name"], index.nodes[start]["name"]
        raise MapError(f"{names[0]} does not rest on {names[1]}: choose a goal that does")
    order: list[str] = []
    visit(index, end, set(), order, [])
    understood = resting_on(index, start) - {start}
    order = [id_ for id_ in order if id_ not in understood]
    order.sort(key=lambda id_: id_ != start)  # a stable sort: only the start moves
    return [index.nodes[id_] for id_ in order]


def resting_on(index: Index, id_: str) -> set[str]:
    """A concept and all its prerequisites, near and far."""
    found: set[str] = set()
    waiting = [id_]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += requirements(index, at)
    return found


def visit(index: Index, id_: str, done: set[str], order: list[str], above: list[str]) -> None:
    """Prerequisites first."""
    if id_ in above:
        raise MapError(f"prerequisites go round in a circle at {id_}: `nanochat map gaps` shows it")
    if id_ in done:
        return
    for needed in requirements(index, id_):
        visit(index, needed, done, order, [*above, id_])
    done.add(id_)
    order.append(id_)


def callers(index: Index, name: str) -> list[dict[str, Any]]:
    """Who calls each function or class of that name, and in which lines."""
    found = index.find(name, ("function", "class", "external"))
    rows = []
    for node in found:
        for row in index.into[node["id"]]:
            if row["kind"] == "calls":
                file = index.nodes[row["source"]]["file_path"]
                ends = {"caller": row["source"], "callee": node["id"]}
                rows.append(ends | {"file": file, "lines": row["lines"]})
    return sorted(rows, key=lambda row: (row["callee"], row["caller"]))
