#!/usr/bin/env python3
"""House rules, checked: python dev/house.py [ROOT] prints each broken rule and exits 1 if any.

Read: the limits -> area_of (which room a file is in) -> MAY_IMPORT (the walls) -> ROWS (the order
of the core) -> check_file -> check_rows -> draws_without_a_seed -> machine_paths -> broken_rules.
Standard library only. tests/test_house.py runs it over this repository and over planted mistakes.
Not covered: imports by computed name, draws hidden behind another name (`r = random; r.random()`).
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE, MAX_FUNCTION, MAX_LINE, MAX_SCRIPT = 400, 60, 100, 150
BANNED_NAMES = {"utils.py", "common.py", "helpers.py", "misc.py"}
SUBPACKAGES = {"scalar", "tasks", "codemap", "observe", "serve"}
CHECKED = ("nanochat", "scripts", "tracks", "tests", "dev")
RESULTS_DEPEND_ON = ("nanochat", "scripts", "tracks")  # where a draw needs a seed
MAP_CHARACTERS = 80  # a map shorter than this cannot say promise, callers and reading order

# area -> our areas it may import (its own is always allowed)
MAY_IMPORT: dict[str, set[str]] = {
    "nanochat": set(),
    "nanochat.scalar": set(),
    "nanochat.codemap": set(),
    "nanochat.observe": set(),
    "nanochat.tasks": {"nanochat"},
    "nanochat.serve": {"nanochat", "nanochat.tasks", "nanochat.codemap", "nanochat.observe"},
    "tracks": {"nanochat", "nanochat.scalar", "nanochat.observe"},
    "scripts": {
        "nanochat",
        "nanochat.scalar",
        "nanochat.tasks",
        "nanochat.codemap",
        "nanochat.observe",
        "nanochat.serve",
    },
}

# nanochat/*.py from the ground up: a module imports its own row and the rows above it here.
# `tinyworld` stands for tinyworld_people.py too, and so on: a part lives in its whole's row.
ROWS = (
    "errors atomic cli launch paths device distributed server_process",
    "tokenizer chat_format corpus_files dataset download dataloader tinyworld compression",
    "attention cross_entropy fused gpt trace",
    "sharding muon adamw optimizers precision compiled schedules scaling",
    "checkpoint picture run_log train_loop progress pretrain sft rl bench",
    "loss_eval core_eval chat_eval report stages load",
    "kv_cache sampling engine scheduler speculative quantize tools execution export",
)

# Draws from the one global generator: nobody can say what they will be.
MODULE_DRAWS = {
    "random": "random randint randrange uniform gauss normalvariate choice choices sample shuffle",
    "np.random": "rand randn randint random choice shuffle permutation normal uniform",
    "torch": "rand randn randint randperm rand_like randn_like multinomial bernoulli normal",
}
METHOD_DRAWS = "normal_ uniform_ trunc_normal_ bernoulli_ exponential_ multinomial"
EMPTY_GENERATORS = {"random.Random", "np.random.default_rng", "np.random.RandomState"}

MACHINE_PATH = re.compile(r"/(?:work|root|home/\w+|opt/(?:wheels|pypi))/|/opt/wheels|C:\\\\Users")


def area_of(dotted: str) -> str:
    """'nanochat.serve.chat_app' -> 'nanochat.serve'; 'nanochat.gpt' -> 'nanochat'; else the top."""
    parts = dotted.split(".")
    if parts[0] == "nanochat" and len(parts) > 1 and parts[1] in SUBPACKAGES:
        return ".".join(parts[:2])
    return parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every absolute import, lazy ones too, as (dotted name, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def body_length(fn: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    doc = fn.body[0] if ast.get_docstring(fn) else None
    last = fn.end_lineno or fn.lineno
    return last - fn.lineno + 1 - ((doc.end_lineno or 0) - doc.lineno + 1 if doc else 0)


def check_file(path: Path, root: Path) -> Iterator[str]:
    rel = path.relative_to(root).as_posix()
    area = area_of(rel.removesuffix(".py").replace("/", "."))
    source = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    limit = MAX_SCRIPT if area == "scripts" else MAX_FILE
    if len(lines) > limit:
        yield f"{rel}: {len(lines)} lines (at most {limit})"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            yield f"{rel}:{number}: {len(line)} characters (at most {MAX_LINE})"
    yield from check_map(rel, tree, lines)
    if path.name in BANNED_NAMES:
        yield f"{rel}: a name that says nothing; name the file after what is in it"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = body_length(node)
            if length > MAX_FUNCTION:
                yield f"{rel}:{node.lineno}: {node.name} is {length} lines (at most {MAX_FUNCTION})"
    for name, at in imports(tree):
        other = area_of(name)
        if other in MAY_IMPORT and other != area and other not in MAY_IMPORT.get(area, {other}):
            yield f"{rel}:{at}: {area} may not import {other}"
        if area == other == "scripts" and path.name != "__main__.py":
            yield f"{rel}:{at}: a script may not import a script"
        if other == "scripts" and area not in (*MAY_IMPORT, "tests"):
            yield f"{rel}:{at}: only tests import scripts"
    if area.split(".")[0] in RESULTS_DEPEND_ON:
        yield from (f"{rel}:{row}" for row in draws_without_a_seed(tree))


def check_map(rel: str, tree: ast.Module, lines: list[str]) -> Iterator[str]:
    """A file opens with its map; one of the core says enough to be one."""
    if not lines or rel.endswith("__init__.py"):
        return
    docstring = ast.get_docstring(tree) or ""
    if not docstring:
        yield f"{rel}: opens without a map (module docstring)"
    elif rel.startswith("nanochat/") and len(docstring) < MAP_CHARACTERS:
        yield f"{rel}: its map is too short to say what it promises and who calls it"


def row_of(module: str) -> int | None:
    """The row a core module lives in, by its own name or its whole's: report_card -> report."""
    whole = module
    while whole:
        for number, row in enumerate(ROWS):
            if whole in row.split():
                return number
        whole = whole.rpartition("_")[0]
    return None


def check_rows(root: Path) -> Iterator[str]:
    """The core imports upwards only, and every core module has its row."""
    for path in sorted((root / "nanochat").glob("[a-z]*.py")):
        own = row_of(path.stem)
        if own is None:
            yield f"nanochat/{path.name}: in no row of the core; give it one in dev/house.py"
            continue
        for name, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if area_of(name) != "nanochat" or "." not in name:
                continue
            other = name.split(".")[1]
            row = row_of(other)
            if row is not None and row > own:
                yield f"nanochat/{path.name}:{line}: imports {other}, which stands in a later row"


def draws_without_a_seed(tree: ast.AST) -> Iterator[str]:
    """Each call that draws from a generator nobody seeded, as 'LINE: what'."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        owner = owner.replace("numpy", "np")
        named = {keyword.arg for keyword in node.keywords}
        if f"{owner}.{name}" in EMPTY_GENERATORS and not node.args and not named:
            yield f"{node.lineno}: {owner}.{name}() has no seed"
        elif "generator" in named:
            continue
        elif name in MODULE_DRAWS.get(owner, "").split() or (
            name in METHOD_DRAWS.split() and owner not in MODULE_DRAWS and not owner.endswith("rng")
        ):
            yield f"{node.lineno}: {owner}.{name} draws without a seeded generator"


def tracked_text(root: Path) -> Iterator[tuple[str, str]]:
    """Every file git knows (untracked but not ignored ones too) that is text, as (path, text)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    for rel in listed.splitlines():
        try:
            yield rel, (root / rel).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # a picture, or a file deleted but not yet committed


def machine_paths(root: Path) -> Iterator[str]:
    """Places that exist on one machine only."""
    for rel, text in tracked_text(root):
        if rel in ("dev/house.py", "tests/test_house.py"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found = MACHINE_PATH.search(line)
            if found:
                yield f"{rel}:{number}: {found.group()} exists on one machine only"


def broken_rules(root: Path) -> list[str]:
    """Every broken rule of the tree under `root`, one sentence each."""
    files = [path for top in CHECKED for path in sorted((root / top).rglob("*.py"))]
    broken = [row for path in files for row in check_file(path, root)]
    broken += check_rows(root)
    if (root / ".git").exists():
        broken += machine_paths(root)
    return broken


def main(root: Path) -> bool:
    broken = broken_rules(root)
    print("\n".join(broken) or "house rules hold")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
