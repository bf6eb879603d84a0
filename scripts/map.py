"""Ask the map of the code: map build|gaps|show|path|who-calls.

`nanochat map show architecture.rope` tells where an idea lives, `nanochat map path
foundations.tensors architecture.rope` what to read before it, `nanochat map who-calls GPT.forward`
who uses a function, `nanochat map gaps` what is not explained yet (exit code 1 if anything).
Read: the settings -> one function for each command -> COMMANDS -> main.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nanochat.cli import parse, print_json, run
from nanochat.codemap.build import Sources, build_graph, default_folder, load_graph
from nanochat.codemap.errors import MapError
from nanochat.codemap.gaps import as_markdown, as_record, find_gaps
from nanochat.codemap.graph import Graph
from nanochat.codemap.queries import Index, as_text, callers, learning_path, path_as_text, show
from nanochat.errors import UserError
from nanochat.paths import ROOT, base_dir

Name = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class BuildSettings:
    """Which repository."""

    root: Path = ROOT
    """Folder of the repository, or of an installed package; the default is this one."""
    out: Path | None = None
    """Folder for knowledge_graph.json and its cache; the default is map/ where things are made."""
    limit_bytes: int = 3_000_000
    """Files larger than this are named in the graph's problems and not read."""
    afresh: bool = False
    """Forget the cache of the last run."""
    json: bool = False
    """Print the result as one line of JSON at the end."""


@dataclass(frozen=True)
class GapsSettings(BuildSettings):
    """Which repository, and whether to recompute the worked examples."""

    examples: bool = False
    """Recompute the worked example of every note, too."""


@dataclass(frozen=True)
class ShowSettings(BuildSettings):
    """What to show."""

    name: Name = ""
    """A concept (architecture.rope), a function (GPT.forward), a file, a term."""


@dataclass(frozen=True)
class PathSettings(BuildSettings):
    """From where to where."""

    known: Name = ""
    """A concept that is understood already."""
    goal: Name = ""
    """The concept to reach."""


def graph_of(s: BuildSettings) -> tuple[Graph, Path]:
    """The graph, brought up to date, and the folder it is in."""
    out = s.out or default_folder(s.root, ROOT, base_dir() / "map")
    return build_graph(Sources(s.root, out, s.limit_bytes, s.afresh)), out


def index_of(s: BuildSettings) -> Index:
    return Index(load_graph(graph_of(s)[1] / "knowledge_graph.json"))


def _build(argv: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    s = parse(BuildSettings, argv, "nanochat map build", "Index a Python repository.")
    graph, out = graph_of(s)
    totals = graph.summary()
    for problem in graph.problems:
        print(f"{problem.file}:{problem.line}: {problem.text}", file=sys.stderr)
    print(f"{totals['nodes']} nodes and {totals['edges']} edges in {out / 'knowledge_graph.json'}")
    return 0, totals if s.json else None


def _gaps(argv: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    s = parse(GapsSettings, argv, "nanochat map gaps", "What is not explained, or not there.")
    graph, out = graph_of(s)
    gaps = find_gaps(graph, s.examples)
    report = as_markdown(graph, gaps)
    (out / "gaps.md").write_text(report, encoding="utf-8")
    print(report)
    return int(bool(gaps)), as_record(graph, gaps) if s.json else None


def _show(argv: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    s = parse(ShowSettings, argv, "nanochat map show", "One idea, function or file.")
    shown = show(index_of(s), s.name)
    print(as_text(shown))
    return 0, shown if s.json else None


def _path(argv: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    s = parse(PathSettings, argv, "nanochat map path", "What to learn, in order.")
    steps = learning_path(index_of(s), s.known, s.goal)
    print(path_as_text(steps))
    return 0, {"path": [step["name"] for step in steps]} if s.json else None


def _callers(argv: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    s = parse(ShowSettings, argv, "nanochat map who-calls", "Who calls a function or class.")
    rows = callers(index_of(s), s.name)
    for row in rows:
        print(f"{row['caller']} line {', '.join(map(str, row['lines']))} -> {row['callee']}")
    print(f"{len(rows)} callers of {s.name}")
    return 0, {"callers": rows} if s.json else None


COMMANDS = {
    "build": _build,
    "gaps": _gaps,
    "show": _show,
    "path": _path,
    "who-calls": _callers,
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: nanochat map {{{','.join(COMMANDS)}}} [--help] [flags]\n\n{__doc__}")
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"no command {argv[0]!r}: choose one of {', '.join(COMMANDS)}")
    try:
        code, record = COMMANDS[argv[0]](argv[1:])
    except MapError as error:
        raise UserError(str(error)) from None
    if record is not None:
        print_json(record)
    return code


if __name__ == "__main__":
    run(main)
