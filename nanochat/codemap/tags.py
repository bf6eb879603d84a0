"""Comments that tie code to ideas: `# @learn:cluster.concept` and three more kinds.

Called by syntax.py with a file's text and the symbols it found. A tag stands alone on its line and
belongs to what follows with the same indentation: the function or class (decorators included) that
starts there, else the statements up to the next empty line. Anything that looks like a tag and is
none becomes a Problem with its file and line. Read: find_tags -> read_tag -> span_below.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.codemap.files import Problem
from nanochat.codemap.syntax import FIELDS

CONCEPT = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*\.[a-z0-9]+(?:_[a-z0-9]+)*")
TERM = re.compile(r"[a-z0-9]+(?:[_.-][a-z0-9]+)*")
FORMS = {  # kind -> what its id looks like
    "learn": (CONCEPT, "# @learn:cluster.concept"),
    "def": (TERM, "# @def:term"),
    "viz": (CONCEPT, "# @viz:group.name"),
    "todo:explain": (CONCEPT, "# @todo:explain:cluster.concept"),
}
# `# @word:` is taken for a tag, and our own words also without the colon; `# @property` is not.
LOOKS_LIKE_ONE = re.compile(r"#\s*@(?:(?:learn|def|viz|todo)\b|[a-z]+:)[^\n]*", re.I)
CHEAP = re.compile(r"#[ \t]*@")


@dataclass(frozen=True)
class Tag:
    """One tag and the exact lines it belongs to."""

    kind: str  # learn | def | viz | todo:explain
    id: str
    file: str
    line: int
    symbol: str  # id of the function, class or file whose lines these are
    start: int
    end: int
    text: str  # a definition, for `def`; else ""


def find_tags(
    rel: str, text: str, tree: ast.Module, symbols: Sequence[tuple[str, int, int]]
) -> tuple[list[Tag], list[Problem]]:
    """All tags of a file. `symbols`: (id, first line, last line), decorators included."""
    tags: list[Tag] = []
    problems: list[Problem] = []
    if not CHEAP.search(text):
        return tags, problems
    lines = text.split("\n")
    quoted, ends = strings_and_statements(tree)
    for number, line in enumerate(lines, 1):
        found = LOOKS_LIKE_ONE.search(line)
        if not found or number in quoted:
            continue
        before = line[: found.start()]
        if before.strip():
            if not inside_a_string(line, found.start()) and not before.lstrip().startswith("#"):
                problems.append(Problem("tag", rel, number, "a tag stands alone on its line"))
            continue
        kind, id_, wrong = read_tag(found.group())
        if wrong:
            problems.append(Problem("tag", rel, number, wrong))
            continue
        span = span_below(lines, number, ends, symbols)
        if span is None:
            problems.append(Problem("tag", rel, number, "nothing below it at its indentation"))
            continue
        definition = comment_below(lines, number) if kind == "def" else ""
        if kind == "def" and not definition:
            problems.append(Problem("tag", rel, number, "no comment below it defines the term"))
            continue
        start, end, symbol = span
        tags.append(Tag(kind, id_, rel, number, symbol or rel, start, end, definition))
    return tags, problems


def read_tag(comment: str) -> tuple[str, str, str]:
    """'# @learn:a.b' -> ('learn', 'a.b', ''); something else -> ('', '', what is wrong)."""
    said = comment.lstrip("#").strip()
    for kind, (form, example) in FORMS.items():
        if said.startswith(f"@{kind}:"):
            id_ = said[len(kind) + 2 :]
            if form.fullmatch(id_):
                return kind, id_, ""
            return "", "", f"{said!r} is malformed: write {example}"
    return "", "", f"{said!r} is no tag: there are {', '.join(form for _, form in FORMS.values())}"


def strings_and_statements(tree: ast.Module) -> tuple[set[int], dict[int, int]]:
    """Lines that begin inside a string (a # there is no comment); each statement's first line ->
    its last."""
    inside: set[int] = set()
    ends: dict[int, int] = {}
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # as ast.walk, at a third of its cost
        if isinstance(node, ast.stmt):
            ends[node.lineno] = node.end_lineno or node.lineno
        elif isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno:
            inside.update(range(node.lineno + 1, (node.end_lineno or node.lineno) + 1))
        for name in FIELDS[type(node)]:
            value = getattr(node, name, None)
            if type(value) is list:
                nodes += [child for child in value if isinstance(child, ast.AST)]
            elif isinstance(value, ast.AST):
                nodes.append(value)
    return inside, ends


def inside_a_string(line: str, at: int) -> bool:
    """Whether a place in a line of code is between quotes, by reading the line up to there."""
    quote = ""
    for i, character in enumerate(line[:at]):
        if quote:
            if character == quote and line[i - 1] != "\\":
                quote = ""
        elif character in "'\"":
            quote = character
    return bool(quote)


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def comment_below(lines: Sequence[str], tag_line: int) -> str:
    """The comment lines right below a tag, joined, up to the next tag."""
    said = []
    for line in lines[tag_line:]:
        stripped = line.strip()
        if not stripped.startswith("#") or LOOKS_LIKE_ONE.match(stripped):
            break
        said.append(stripped.lstrip("#").strip())
    return " ".join(part for part in said if part)


def span_below(
    lines: Sequence[str],
    tag_line: int,
    ends: dict[int, int],
    symbols: Sequence[tuple[str, int, int]],
) -> tuple[int, int, str] | None:
    """(first line, last line, id of the symbol) of what the tag in `tag_line` belongs to."""
    first = tag_line + 1
    while first <= len(lines) and lines[first - 1].strip().startswith("#"):
        first += 1
    if first > len(lines) or not lines[first - 1].strip():
        return None
    if indentation(lines[first - 1]) != indentation(lines[tag_line - 1]):
        return None
    for name, start, end in symbols:
        if start == first:
            return start, end, name
    around = [(end - start, name) for name, start, end in symbols if start <= first <= end]
    symbol = min(around)[1] if around else ""
    last = end_of_block(lines, first, ends)
    return first, last, symbol


def end_of_block(lines: Sequence[str], first: int, ends: dict[int, int]) -> int:
    """The last line of the statements (or parts of one) from `first` up to the next empty line."""
    last = max(first, ends.get(first, first))
    depth = indentation(lines[first - 1])
    while last < len(lines):
        below = lines[last]
        if not below.strip() or indentation(below) < depth:
            break
        last = max(last + 1, ends.get(last + 1, last + 1))
    return last
