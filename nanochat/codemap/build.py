"""Make the graph of a repository, or bring yesterday's up to date.

Called by scripts/map.py and scripts/generate_code_index.py. Read: Settings -> build_graph ->
read_files -> link_files -> assemble (graph.py).

Each file is hashed. A file whose content is known keeps its record; a file whose content and whose
used names are all as they were also keeps its edges. So the second run costs little more than
reading the files, and gives byte for byte what a run from nothing gives: a test says so.
"""

import gc
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.codemap.errors import MapError
from nanochat.codemap.files import Problem, find_files, read_bytes
from nanochat.codemap.graph import Graph, assemble, fill_edges, fill_nodes
from nanochat.codemap.link import link_file
from nanochat.codemap.modules import Modules, package_around
from nanochat.codemap.records import (
    COMPACT,
    Cache,
    LazyFacts,
    Record,
    content_hash,
    make_record,
    write_whole,
)
from nanochat.codemap.values import Values


@dataclass(frozen=True)
class Sources:
    """Which repository, and where its graph goes."""

    root: Path
    out: Path  # the folder of knowledge_graph.json and of the cache
    limit_bytes: int = 3_000_000  # a larger file is named, not read
    afresh: bool = False  # forget the cache


def build_graph(sources: Sources) -> Graph:
    """Index `sources.root` and write knowledge_graph.json. Raises MapError for a bad root."""
    started = time.perf_counter()
    if not sources.root.is_dir():
        raise MapError(f"{sources.root} is no folder: give the root of a repository")
    with no_collector():
        cache = Cache(sources.out / "cache.jsonl")
        if not sources.afresh:
            cache.load()
        files, problems = find_files(sources.root)
        inside = package_around(sources.root)
        records, lines, texts = read_files(sources, files, cache, problems)
        modules = Modules(records, inside)
        linked = link_files(records, lines, modules, layout_hash(records, inside))
        graph = assemble(sources.root, inside, records, texts, problems)
        graph.relinked = linked
        # A lone half of a character, legal in a name or a string, is written as its JSON escape.
        parts = (part.encode("utf-8", "backslashreplace") for part in graph.text)
        write_whole(sources.out / "knowledge_graph.json", parts)
        if linked or records.keys() != cache.records.keys():
            cache.save(records, lines)
    graph.seconds = time.perf_counter() - started
    return graph


@contextmanager
def no_collector() -> Iterator[None]:
    """Millions of small lists live until the end: looking through them for rubbish is half the
    time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


LINKED = ("line", "base_lines")  # what edges need to know of a symbol's own facts


def read_files(
    sources: Sources, files: list[str], cache: Cache, problems: list[Problem]
) -> tuple[dict[str, Record], dict[str, tuple[str, str]], dict[str, bytes]]:
    """Records and stored facts of the Python files, and the content of the others."""
    records: dict[str, Record] = {}
    lines: dict[str, tuple[str, str]] = {}
    texts: dict[str, bytes] = {}
    for rel in files:
        raw, problem = read_bytes(sources.root, rel, sources.limit_bytes)
        if problem:
            problems.append(problem)
        if not rel.endswith(".py"):
            texts[rel] = raw
            continue
        old = cache.records.get(rel)
        if old and old.hash == content_hash(raw):
            records[rel], lines[rel] = old, cache.lines[rel]
        else:
            records[rel], facts, own = make_record(rel, raw)
            fill_nodes(records[rel], rel, facts, own)
            own["told"] = [{k: told[k] for k in LINKED if k in told} for told in own["told"]]
            lines[rel] = COMPACT(facts), COMPACT(own)
    return records, lines, texts


def layout_hash(records: dict[str, Record], inside: str) -> str:
    """Which files there are decides what an import finds."""
    names = "\n".join([inside, *records]).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(names, digest_size=8).hexdigest()


def link_files(
    records: dict[str, Record], lines: dict[str, tuple[str, str]], modules: Modules, layout: str
) -> int:
    """Link the files whose edges may have changed; returns how many those were."""
    facts = LazyFacts(lines)
    values = Values(facts, modules)
    linked = 0
    for rel, record in records.items():
        if record.basis and record.basis == basis_of(record.deps, records, layout):
            continue
        own = json.loads(lines[rel][1])
        links = link_file(values, rel, own)
        record.deps = sorted([file, name] for file, name in links.deps if file != rel)
        record.basis = basis_of(record.deps, records, layout)
        fill_edges(record, rel, links)
        record.changed = True
        values.local_memo.clear()
        linked += 1
    facts.clear()  # Values and Types hold each other: without the collector they would stay
    values.memo.clear()
    return linked


def basis_of(deps: list[list[str]], records: dict[str, Record], layout: str) -> str:
    """One hash of what all the names a file rests on mean now."""
    said = [layout]
    for file, name in deps:
        said.append(records[file].digests.get(name, "") if file in records else "gone")
    return hashlib.blake2b(" ".join(said).encode(), digest_size=8).hexdigest()


def default_folder(root: Path, own: Path, made: Path) -> Path:
    """Where a graph goes: `made` for our own repository, a folder in it for any other."""
    if root.resolve() == own.resolve():
        return made
    tail = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=4).hexdigest()
    return made / f"{root.resolve().name}-{tail}"


def load_graph(path: Path) -> dict[str, Any]:
    """A graph from its file. Raises MapError when there is none."""
    try:
        graph: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise MapError(f"no graph at {path}: run `nanochat map build` first") from None
    return graph
