"""The gap report: everything that is named and not there, or there and not named.

Called by scripts/map.py (`nanochat map gaps`) and by the tests, which allow no gap.
Read: Gap -> find_gaps (one finder for each kind, listed in FINDERS) -> as_markdown.

A repository without a knowledge base has no concepts to miss; the other kinds still count.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.codemap.examples import faults_of_example, run_example
from nanochat.codemap.files import decode
from nanochat.codemap.graph import REGISTRY, Graph, resolve_anchor
from nanochat.codemap.notes import FENCED, LINK, faults

# Folders whose functions are explained by their names and callers, not for reading.
NOT_TAUGHT = ("tests/", "dev/", "docs/")


@dataclass(frozen=True)
class Gap:
    """One thing missing in one place."""

    kind: str
    file: str
    line: int
    text: str


def find_gaps(graph: Graph, run_examples: bool = False) -> list[Gap]:
    """Every gap of a repository, by kind and place."""
    finders = [*FINDERS, *([wrong_examples] if run_examples else [])]
    return sorted({gap for finder in finders for gap in finder(graph)}, key=place_of)


def place_of(gap: Gap) -> tuple[str, str, int, str]:
    return gap.kind, gap.file, gap.line, gap.text


def tags(graph: Graph) -> Iterator[dict[str, Any]]:
    for record in graph.records.values():
        yield from record.tags


def bad_files(graph: Graph) -> Iterator[Gap]:
    """Files that could not be read as what they are, and tags that are none."""
    for problem in graph.problems:
        kind = "malformed tag" if problem.kind == "tag" else f"file: {problem.kind}"
        yield Gap(kind, problem.file, problem.line, problem.text)


def used_but_not_written(graph: Graph) -> Iterator[Gap]:
    """Tags and prerequisites whose note is missing."""
    for tag in tags(graph):
        if tag["kind"] == "learn" and tag["id"] not in graph.notes:
            said = f"{tag['id']} is used here and no note explains it"
            yield Gap("concept without a note", tag["file"], tag["line"], said)
    for note in graph.notes.values():
        for needed in note.prerequisites:
            if needed not in graph.notes:
                said = f"prerequisite {needed} has no note"
                yield Gap("concept without a note", note.file, 1, said)


def written_but_not_used(graph: Graph) -> Iterator[Gap]:
    """A note that no code points to, or whose anchors point to nothing."""
    used = {tag["id"] for tag in tags(graph) if tag["kind"] == "learn"}
    for note in graph.notes.values():
        if note.id not in used:
            yield Gap("note without code", note.file, 1, f"no `# @learn:{note.id}` points to it")
        for anchor in note.anchors:
            if not resolve_anchor(graph, anchor):
                yield Gap("dead anchor", note.file, 1, f"{anchor} is not there")


def to_be_explained(graph: Graph) -> Iterator[Gap]:
    """Every `@todo:explain`."""
    for tag in tags(graph):
        if tag["kind"] == "todo:explain":
            said = f"{tag['id']} waits for an explanation"
            yield Gap("todo:explain", tag["file"], tag["line"], said)


def unknown_visualisations(graph: Graph) -> Iterator[Gap]:
    """Ids that no visualisation answers to, and entries of the registry that are not true."""
    named = [(tag["file"], tag["line"], tag["id"]) for tag in tags(graph) if tag["kind"] == "viz"]
    named += [(note.file, 1, viz) for note in graph.notes.values() for viz in note.viz]
    for file, line, viz in named:
        if viz not in graph.registry:
            yield Gap("visualisation missing", file, line, f"{viz} is not in {REGISTRY}")
    for viz, entry in graph.registry.items():
        wrong = fault_of_entry(graph.root, entry)
        if wrong:
            yield Gap("visualisation missing", REGISTRY, 0, f"{viz}: {wrong}")


def fault_of_entry(root: Path, entry: dict[str, str]) -> str:
    """Why a visualisation can't be opened as registered; '' when it can."""
    if set(entry) != {"title", "page", "section"}:
        return "an entry has title, page and section"
    page = root / entry["page"]
    if not page.is_file():
        return f"no page {entry['page']}"
    text = page.read_text(encoding="utf-8")
    if f'id="{entry["section"]}"' not in text:
        return f"{entry['page']} has no section {entry['section']}"
    if f">{entry['title']}<" not in text:
        return f"{entry['page']} has no heading {entry['title']!r}"
    return ""


def bare_functions(graph: Graph) -> Iterator[Gap]:
    """Public functions whose docstring is missing."""
    for rel, record in graph.records.items():
        if not rel.startswith(NOT_TAUGHT):
            for id_, line in record.bare:
                yield Gap("no docstring", rel, line, f"{id_.partition(':')[2]} does not say what")


def circles(graph: Graph) -> Iterator[Gap]:
    """Prerequisites that lead back to where they began, or never reach the foundations."""
    left = {
        note.id: {needed for needed in note.prerequisites if needed in graph.notes}
        for note in graph.notes.values()
    }
    grounded: set[str] = set()
    while True:
        ready = [id_ for id_, needs in left.items() if needs <= grounded]
        if not ready:
            break
        grounded.update(ready)
        for id_ in ready:
            del left[id_]
    for id_, needs in left.items():
        waiting = ", ".join(sorted(needs - grounded))
        said = f"its prerequisites go round in a circle: {waiting}"
        yield Gap("prerequisite circle", graph.notes[id_].file, 1, said)


def ill_formed_notes(graph: Graph) -> Iterator[Gap]:
    """Notes that are not as their README asks."""
    for note in graph.notes.values():
        for line, said in faults(note, graph.root):
            yield Gap("note not as agreed", note.file, line, said)
        for said in faults_of_example(note):
            yield Gap("note not as agreed", note.file, 1, said)


def dead_links(graph: Graph) -> Iterator[Gap]:
    """Relative links of every Markdown file, #headings of Markdown files included."""
    headings: dict[Path, set[str]] = {}
    for rel, raw in graph.texts.items():
        text = FENCED.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), decode(rel, raw)[0])
        text = re.sub(r"`[^`\n]+`", lambda m: " " * len(m.group()), text)
        page = graph.root / rel
        for match in LINK.finditer(text):
            target = match.group(1)
            if re.match(r"[a-z]+:", target):
                continue
            file, _, heading = target.partition("#")
            there = page.parent / file if file else page
            line = text.count("\n", 0, match.start()) + 1
            if not there.exists():
                yield Gap("dead link", rel, line, f"{target} leads nowhere")
            elif heading and there.suffix == ".md":
                known = headings.setdefault(there, headings_of(there))
                if heading not in known:
                    yield Gap("dead link", rel, line, f"no heading {target}")


def headings_of(page: Path) -> set[str]:
    """The #names of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8", errors="replace"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def isolated(graph: Graph) -> Iterator[Gap]:
    """Concepts that nothing but their own note is joined to."""
    for id_ in graph.isolated_concepts:
        name = id_.partition(":")[2]
        note = graph.notes.get(name)
        yield Gap("isolated concept", note.file if note else "", 1, f"nothing is joined to {name}")


def wrong_examples(graph: Graph) -> Iterator[Gap]:
    """Worked examples that print something else than they say."""
    for note in graph.notes.values():
        said = run_example(note)
        if said:
            first = " ".join(said.split())[:300]
            yield Gap("worked example", note.file, 1, first)


FINDERS: list[Callable[[Graph], Iterator[Gap]]] = [
    bad_files,
    used_but_not_written,
    written_but_not_used,
    to_be_explained,
    unknown_visualisations,
    bare_functions,
    circles,
    ill_formed_notes,
    dead_links,
    isolated,
]


def as_record(graph: Graph, gaps: list[Gap]) -> dict[str, Any]:
    """What `nanochat map gaps --json` prints."""
    kinds: dict[str, int] = {}
    for gap in gaps:
        kinds[gap.kind] = kinds.get(gap.kind, 0) + 1
    anchors = sum(tag["kind"] == "learn" for tag in tags(graph))
    shown = [asdict(gap) for gap in gaps]
    totals = {"notes": len(graph.notes), "learn_tags": anchors, "by_kind": kinds}
    return {"gaps": len(gaps), **totals, "list": shown}


def as_markdown(graph: Graph, gaps: list[Gap]) -> str:
    """The report for people."""
    record = as_record(graph, gaps)
    lines = [
        "# Gaps",
        "",
        f"{record['notes']} notes, {record['learn_tags']} places in the code that point to one, "
        f"{len(gaps) or 'no'} gap{'s' * (len(gaps) != 1)}.",
    ]
    for kind, count in record["by_kind"].items():
        lines += ["", f"## {kind} ({count})", ""]
        for gap in gaps:
            if gap.kind == kind:
                place = f"{gap.file}:{gap.line}" if gap.line else gap.file
                lines.append(f"- `{place}`: {gap.text}")
    report = "\n".join(lines) + "\n"
    return report.encode("utf-8", "backslashreplace").decode()  # any file name can be printed
