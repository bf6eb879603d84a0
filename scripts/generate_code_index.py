"""Index a Python repository as knowledge_graph.json (the same as map build).

Read: IndexSettings -> main. What the graph holds: nanochat/codemap/knowledge_graph.schema.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.cli import parse, print_json, run
from nanochat.codemap.build import Sources, build_graph, default_folder
from nanochat.codemap.errors import MapError
from nanochat.errors import UserError
from nanochat.paths import ROOT, base_dir


@dataclass(frozen=True)
class IndexSettings:
    """Which repository to index."""

    root: Path = ROOT
    """Folder of the repository, or of an installed package; the default is this one."""
    out: Path | None = None
    """Folder for knowledge_graph.json and its cache; the default is map/ where things are made."""
    limit_bytes: int = 3_000_000
    """Files larger than this are named in the graph's problems and not read."""
    afresh: bool = False
    """Forget the cache of the last run."""
    json: bool = False
    """Print the totals as one line of JSON at the end."""


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(IndexSettings, argv, "nanochat generate-code-index", __doc__)
    out = settings.out or default_folder(settings.root, ROOT, base_dir() / "map")
    try:
        graph = build_graph(Sources(settings.root, out, settings.limit_bytes, settings.afresh))
    except MapError as error:
        raise UserError(str(error)) from None
    totals = graph.summary()
    print(f"{totals['nodes']} nodes and {totals['edges']} edges in {out / 'knowledge_graph.json'}")
    if settings.json:
        print_json(totals)
    return 0


if __name__ == "__main__":
    run(main)
