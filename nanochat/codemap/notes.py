"""Notes of the knowledge base: read one, and say everything that is not as its README asks.

Called by build.py (what a note says about itself) and gaps.py (what is wrong with it).
Read: Note -> read_note -> read_front -> faults (sections, length, questions, quotations).
The format itself is written down in docs/knowledge_base/README.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nanochat.codemap.tags import CONCEPT

CLUSTERS = (
    *("foundations", "tokenization", "architecture", "optimization"),
    *("inference", "data", "systems", "production"),
)
SECTIONS = [
    *("Why it exists", "The picture", "The mathematics", "A worked example", "The code"),
    *("What breaks without it", "Check yourself"),
]
KEYS = ["title", "cluster", "prerequisites", "anchors", "viz", "sources"]
FEWEST_WORDS, MOST_WORDS, QUESTIONS = 500, 1200, 3
FENCED = re.compile(r"^(```+)[^\n]*\n.*?^\1[ \t]*$", re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```[ \t]*$", re.M | re.S)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


@dataclass
class Note:
    """One file <cluster>.<concept>.md."""

    id: str
    file: str
    title: str = ""
    cluster: str = ""
    prerequisites: list[str] = field(default_factory=list)
    anchors: list[str] = field(default_factory=list)
    viz: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    definition: str = ""
    body: str = ""  # the text below the front matter
    first_line: int = 1  # where the body begins in the file
    wrong: list[tuple[int, str]] = field(default_factory=list)  # of the front matter


def read_note(rel: str, text: str) -> Note:
    """The text of a note as a Note; what is wrong with its front matter is in `wrong`."""
    note = Note(id=Path(rel).stem, file=rel)
    match = re.match(r"---\n(.*?)^---[ \t]*\n", text, re.M | re.S)
    if not match:
        note.body = text
        note.wrong.append((1, "does not begin with front matter between two --- lines"))
        return note
    note.body = text[match.end() :]
    note.first_line = text.count("\n", 0, match.end()) + 1
    for key, (line, value) in read_front(match.group(1), note.wrong).items():
        wanted = str if key in ("title", "cluster") else list
        if key not in KEYS:
            note.wrong.append((line, f"{key}: no such key; there are {', '.join(KEYS)}"))
        elif not isinstance(value, wanted):
            note.wrong.append((line, f"{key} is {'one text' if wanted is str else 'a list'}"))
        else:
            setattr(note, key, value)
    given = [line.partition(":")[0] for line in match.group(1).split("\n")]
    note.wrong += [(1, f"{key} is missing") for key in KEYS if key not in given]
    opening = re.match(r"\s*# [^\n]*\n+((?:(?!#)[^\n]+\n)+)", note.body)
    note.definition = " ".join(opening.group(1).split()) if opening else ""
    return note


def read_front(text: str, wrong: list[tuple[int, str]]) -> dict[str, tuple[int, str | list[str]]]:
    """The few forms of YAML a note uses: `key: text`, `key: [a, "b, c"]`, `- item` lines."""
    found: dict[str, tuple[int, str | list[str]]] = {}
    key = ""
    for number, line in enumerate(text.split("\n"), 2):
        item = re.match(r"\s*-\s+(.*)$", line)
        pair = re.match(r"(\w+):\s*(.*)$", line)
        if not line.strip():
            continue
        if pair:
            key, value = pair.group(1), pair.group(2).strip()
            if key in found:
                wrong.append((number, f"{key} is given twice"))
            listed = value.startswith("[") and value.endswith("]")
            found[key] = (number, list_items(value[1:-1]) if listed else unquote(value) or [])
        elif item and key and isinstance(found[key][1], list):
            found[key][1].append(unquote(item.group(1).strip()))  # type: ignore[union-attr]
        else:
            wrong.append((number, f"{line.strip()!r} is neither `key: value` nor `- item`"))
    return found


def list_items(inside: str) -> list[str]:
    """'a, "b, c"' -> ['a', 'b, c']"""
    parts = re.findall(r'"(?:[^"\\]|\\.)*"|[^,\s][^,]*', inside)
    return [unquote(part.strip()) for part in parts]


def unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1].replace('\\"', '"')
    return value


def faults(note: Note, root: Path) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for everything a program can see in one note alone."""
    yield from note.wrong
    if not CONCEPT.fullmatch(note.id):
        yield 1, f"{note.id!r} is no id: <cluster>.<concept>, lower case"
    if note.cluster not in CLUSTERS:
        yield 1, f"cluster {note.cluster!r}: choose one of {', '.join(CLUSTERS)}"
    elif note.cluster != note.id.partition(".")[0]:
        yield 1, f"cluster {note.cluster!r}, but the file's name says otherwise"
    if not note.prerequisites and note.cluster != "foundations":
        yield 1, "no prerequisites: only a note of foundations may have none"
    if not note.anchors:
        yield 1, "no anchors: which lines do what it explains?"
    if not note.definition:
        yield note.first_line, "no paragraph that defines it below the title"
    yield from headings(note)
    words = len(re.findall(r"\S*\w\S*", FENCED.sub("", note.body)))
    if not FEWEST_WORDS <= words <= MOST_WORDS:
        yield 1, f"{words} words: a note has {FEWEST_WORDS} to {MOST_WORDS}"
    yield from questions(note)
    yield from quotations(note, root)


def line_of(note: Note, position: int) -> int:
    return note.first_line + note.body.count("\n", 0, position)


def sections(note: Note) -> dict[str, tuple[int, str]]:
    """Title of each ## section -> (line, text)."""
    hidden = FENCED.sub(lambda m: re.sub(r"[^\n]", ".", m.group()), note.body)
    starts = list(re.finditer(r"^## (.*)$", hidden, re.M))
    ends = [start.start() for start in starts[1:]] + [len(note.body)]
    return {
        start.group(1).strip(): (line_of(note, start.start()), note.body[start.end() : end])
        for start, end in zip(starts, ends, strict=True)
    }


def headings(note: Note) -> Iterator[tuple[int, str]]:
    """The title once, then the sections, in order and none empty."""
    hidden = FENCED.sub("", note.body)
    titles = re.findall(r"^# (.*)$", hidden, re.M)
    if titles != [note.title]:
        yield note.first_line, f"one heading `# {note.title}`, the title; found {titles}"
    found = re.findall(r"^## (.*?)\s*$", hidden, re.M)
    if found != SECTIONS:
        yield note.first_line, f"the sections are {SECTIONS}; found {found}"
    for title, (line, text) in sections(note).items():
        if not text.strip():
            yield line, f"nothing under {title!r}"


def questions(note: Note) -> Iterator[tuple[int, str]]:
    """Three questions, each with its answer."""
    line, text = sections(note).get("Check yourself", (1, ""))
    asked = re.findall(r"^(\d+)\. ", text, re.M)
    answered = text.count("**Answer.**")
    if asked != [str(n + 1) for n in range(QUESTIONS)] or answered != QUESTIONS:
        yield line, f"{QUESTIONS} questions, each with its **Answer.**; found {asked}, {answered}"


def quotations(note: Note, root: Path) -> Iterator[tuple[int, str]]:
    """A block of Python that is no example quotes an anchored file, line by line, in order."""
    files = {anchor.partition(":")[0] for anchor in note.anchors}
    sources = []
    for rel in sorted(files):
        if (root / rel).is_file():
            text = (root / rel).read_text(encoding="utf-8")
            sources.append([line.strip() for line in text.split("\n")])
    for block in PYTHON.finditer(note.body):
        if ">>>" in block.group(1):
            continue
        lines = [line.strip() for line in block.group(1).split("\n") if line.strip()]
        quoted = [line for line in lines if line != "..."]
        if not any(stands_in(quoted, source) for source in sources):
            what = f"quotes lines that stand in no anchored file: {quoted[:1]}"
            yield line_of(note, block.start()), what


def stands_in(quoted: list[str], source: list[str]) -> bool:
    """Whether the lines occur in this order, others between them allowed."""
    rest = iter(source)
    return all(line in rest for line in quoted)
