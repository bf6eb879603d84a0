"""What is known of one Python file, and the cache that keeps it from one run to the next.

Called by build.py. A file's record is made from its content alone (`make_record`) and then linked
(link.py); both halves stay valid until the content, or a name they rest on, changes. Which names
a file offers to others, and a hash of what each means, is in `digests`.
Read: Record -> make_record -> digests_of -> Cache.
"""

import ast
import hashlib
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat.codemap.files import Problem, decode
from nanochat.codemap.syntax import Facts, read_python
from nanochat.codemap.tags import find_tags


@dataclass
class Record:
    """A file's content, read; `nodes` and `edges` are ready for the graph, as JSON text."""

    hash: str
    digests: dict[str, str] = field(default_factory=dict)
    tags: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    bare: list[list[Any]] = field(default_factory=list)  # public functions without a docstring
    deps: list[list[str]] = field(default_factory=list)  # [file, name] that the links rest on
    basis: str = ""  # what those names meant then
    ids: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)  # how many nodes of each
    counts: dict[str, int] = field(default_factory=dict)  # and edges
    libraries: list[str] = field(default_factory=list)  # external ids its edges lead to
    changed: bool = False  # since it was last written down
    nodes: str = ""  # from here on, parts of the graph
    edges: str = ""
    unresolved: str = ""


def make_record(rel: str, raw: bytes) -> tuple[Record, Facts, Facts]:
    """Read one file. A file that is no Python gives a record with the problem and no symbols."""
    record = Record(hash=content_hash(raw))
    text, problem = decode(rel, raw)
    if problem:
        record.problems.append(asdict(problem))
    tree = ast.Module(body=[], type_ignores=[])
    facts, own = read_python(rel, tree)  # of an empty file, should this one be no Python
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the files' own, such as a bad escape
            tree = ast.parse(text)
        facts, own = read_python(rel, tree)
    except (SyntaxError, ValueError) as error:  # a ValueError is a null byte
        line = getattr(error, "lineno", 0) or 0
        said = getattr(error, "msg", str(error))
        record.problems.append(asdict(Problem("syntax", rel, line, f"is no Python: {said}")))
    except (RecursionError, MemoryError):
        record.problems.append(asdict(Problem("syntax", rel, 0, "is nested too deeply to read")))
    own["lines"] = text.count("\n") + (not text.endswith("\n"))
    spans = [
        (f"{rel}:{symbol['name']}", told["line"], told["end"])
        for symbol, told in zip(facts["symbols"], own["told"], strict=True)
    ]
    tags, problems = find_tags(rel, text, tree, spans)
    record.tags = [asdict(tag) for tag in tags]
    record.problems += [asdict(problem) for problem in problems]
    record.digests = digests_of(facts)
    return record, facts, own


def content_hash(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=12).hexdigest()


def digests_of(facts: Facts) -> dict[str, str]:
    """Module-level name -> hash of what it is; of a function or class, `name.*` -> hash of what is
    in it, which only those read who use what it gives or has; '*': starred."""
    scopes, symbols = facts["scopes"], facts["symbols"]
    seen_from_outside = reachable_scopes(facts)
    parts: dict[int, list[Any]] = {}
    for number, symbol in enumerate(symbols):
        top = top_of(symbols, number)
        parts.setdefault(top, []).append(symbol)
    for number, scope in enumerate(scopes):
        if number in seen_from_outside:
            top = top_of(symbols, scope["symbol"])
            own = symbols[top]["scope"] if top >= 0 else 0
            parts.setdefault(top, []).append([number - own, scope])
    loose = parts.get(-1, [])  # comprehensions of the module itself
    digests = {}
    for name, bindings in scopes[0]["names"].items():
        numbers = [b[1] for b in bindings if b[0] == "symbol"]
        others = [b for b in bindings if b[0] != "symbol"]
        plain = any(b[0] != "import" for b in others)
        heads = [head_of(symbols[n]) for n in numbers]
        digests[name] = short_hash([others, heads, loose if plain else []])
        if numbers:
            digests[f"{name}.*"] = short_hash(
                [counted_from(COMPACT(parts[n]), n, symbols[n]["scope"]) for n in numbers]
            )
    digests["*"] = short_hash([facts["stars"], facts["exports"]])
    return digests


def head_of(symbol: dict[str, Any]) -> list[Any]:
    """What a function or class is, to one who only names it; a class is its bases, too."""
    bases = symbol.get("bases")
    said = counted_from(COMPACT(bases), 0, symbol["scope"]) if bases else ""
    return [symbol["name"], symbol["kind"], symbol["decorators"], said]


def reachable_scopes(facts: Facts) -> set[int]:
    """Scopes whose names decide what another file sees: classes, and functions that don't say
    what they return or that set attributes."""
    scopes, symbols = facts["scopes"], facts["symbols"]
    found = {number for number, scope in enumerate(scopes) if scope["kind"] == "class"}
    found |= {symbol["scope"] for symbol in symbols if "gives" in symbol}
    for scope in scopes:
        for forms in scope.get("self", {}).values():
            found.update(form[1] for form in forms)
    for number, scope in enumerate(scopes):  # lambdas and comprehensions go with what holds them
        if scope["kind"] == "lambda" and (scope["up"] in found or scope["up"] == 0):
            found.add(number)
    return found - {0}


def top_of(symbols: list[dict[str, Any]], number: int) -> int:
    while number >= 0 and symbols[number]["parent"] >= 0:
        number = symbols[number]["parent"]
    return number


PLACES = re.compile(
    r'(\["(?:symbol|self|cls)",|"(?:parent|symbol)":)(\d+)'  # numbers of symbols
    r'|(\["@",|"(?:scope|up)":)(\d+)'  # and of scopes
)


def counted_from(text: str, symbol: int, scope: int) -> str:
    """JSON of one function or class whose numbers count from itself: code put above it in the
    file changes nothing. What is inside quotes has its own quotes escaped, and is left alone."""

    def shifted(match: re.Match[str]) -> str:
        head, number, base = match[1], match[2], symbol
        if match[3]:
            head, number, base = match[3], match[4], scope
        return f"{head}{int(number) - base if int(number) >= base else number}"

    return PLACES.sub(shifted, text)


def quick_encoder(ascii_only: bool, comma: str, colon: str) -> Callable[[Any], str]:
    """json.dumps for many small things: the standard one builds its machine anew for each."""
    plain = json.JSONEncoder(
        ensure_ascii=ascii_only, separators=(comma, colon), check_circular=False
    )
    make = getattr(json.encoder, "c_make_encoder", None)  # CPython has it
    if make is None:
        return plain.encode
    text = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    machine = make(None, plain.default, text, None, colon, comma, False, False, True)
    return lambda what: "".join(machine(what, 0))


COMPACT = quick_encoder(True, ",", ":")


def short_hash(what: Any) -> str:
    text = COMPACT(what)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


BETWEEN = "\x1d"  # JSON spells control characters out, so this one is never in it


class Cache:
    """Records and facts on disk, six texts for each file; facts are parsed only when needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self.lines: dict[str, tuple[str, str]] = {}  # shared and own facts, as JSON
        self.rows: dict[str, str] = {}  # records, as JSON

    def load(self) -> None:
        """A cache that is damaged, or was made by other code than this, is no cache."""
        try:
            raw = self.path.read_bytes()
        except OSError:
            return
        at = raw.rfind(BETWEEN.encode()) + 1
        if raw[at:].decode("latin-1") != f"{maker()} {zlib.crc32(memoryview(raw)[:at]):08x}":
            return
        texts = raw.decode("utf-8", "surrogatepass").split(BETWEEN)
        for at in range(0, len(texts) - 6, 6):
            rel, *values = json.loads(texts[at])
            self.records[rel] = Record(*values, *texts[at + 1 : at + 4])
            self.lines[rel] = texts[at + 4], texts[at + 5]
            self.rows[rel] = texts[at]

    def save(self, records: dict[str, Record], lines: dict[str, tuple[str, str]]) -> None:
        """Write all records, row by row, with the checksum last."""
        said = 0

        def rows() -> Iterator[bytes]:
            nonlocal said
            for rel, record in records.items():
                *about, nodes, edges, unresolved = vars(record).values()
                if rel not in self.rows or record.changed:
                    about[-1] = record.changed = False
                    self.rows[rel] = COMPACT([rel, *about])
                texts = (self.rows[rel], nodes, edges, unresolved, *lines[rel], "")
                row = BETWEEN.join(texts).encode("utf-8", "surrogatepass")
                said = zlib.crc32(row, said)
                yield row
            yield f"{maker()} {said:08x}".encode()

        write_whole(self.path, rows())


def maker() -> str:
    """A hash of the code that makes records: a changed indexer starts afresh."""
    parts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return content_hash(b"".join(parts))


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write under another name, then rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class LazyFacts(dict[str, Facts]):
    """Facts of all files; those that only the cache has are parsed at the first question."""

    def __init__(self, lines: dict[str, tuple[str, str]]) -> None:
        super().__init__()
        self.stored = lines

    def __missing__(self, rel: str) -> Facts:
        facts: Facts = json.loads(self.stored[rel][0])
        self[rel] = facts
        return facts

    def __contains__(self, rel: object) -> bool:
        return rel in self.stored or super().__contains__(rel)
