"""Planted repositories and their graphs, for the tests of the code map."""

from pathlib import Path

from nanochat.codemap.build import Sources, build_graph, load_graph


def plant(root: Path, files: dict[str, str]) -> Path:
    for rel, text in files.items():
        path = root / rel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def graph_of(root: Path, out: Path | None = None, **more) -> dict:
    """The graph as whoever reads knowledge_graph.json gets it."""
    folder = out or root.parent / f"{root.name}-map"
    build_graph(Sources(root, folder, **more))
    return load_graph(folder / "knowledge_graph.json")


def edges(graph: dict, kind: str) -> set[tuple[str, str]]:
    return {(e["source"], e["target"]) for e in graph["edges"] if e["kind"] == kind}


def ours(graph: dict, kind: str) -> set[tuple[str, str]]:
    return {(a, b) for a, b in edges(graph, kind) if not b.startswith("external:")}
