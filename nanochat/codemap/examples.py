"""Recompute the worked example of a note: its `>>>` lines, run in order, must print what it says.

Called by tests/test_knowledge_base.py and by `nanochat map gaps --examples`. Everything runs in
this process, in a namespace of its own for each note, from the same seeds.
Read: example_of -> run_example. Not covered: a sandbox; notes are as trusted as the code.
"""

import ast
import doctest
import random
import re
import sys

from nanochat.codemap.notes import PYTHON, Note, line_of, sections

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DIGITS_HIDDEN = re.compile(r"\d\.{3}|\.{3}\d|\.\.\.,\s*\d")


def example_of(note: Note) -> list[doctest.Example]:
    """All `>>>` lines of a note from top to bottom, with their lines in the file."""
    parser = doctest.DocTestParser()
    found = []
    for block in PYTHON.finditer(note.body):
        if ">>>" in block.group(1):
            first = line_of(note, block.start(1)) - 1
            for example in parser.get_examples(block.group(1)):
                example.lineno += first
                found.append(example)
    return found


def faults_of_example(note: Note) -> list[str]:
    """What can be said against an example without running it."""
    wrong = []
    _, text = sections(note).get("A worked example", (1, ""))
    shown = [e for e in doctest.DocTestParser().get_examples(text) if e.want.strip()]
    if len(shown) < 2:
        wrong.append("the worked example prints fewer than two results")
    for example in example_of(note):
        if not example.exc_msg and DIGITS_HIDDEN.search(example.want):
            wrong.append(f"line {example.lineno + 1}: `...` hides a number")
        for name in imported(example.source):
            if name not in ALLOWED and name not in sys.stdlib_module_names:
                wrong.append(f"line {example.lineno + 1}: imports {name}")
    return wrong


ALLOWED = {"numpy", "torch", "nanochat", "microgpt"}


def imported(source: str) -> list[str]:
    """The top-level names of what some lines import."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []  # doctest will say so
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return [name.split(".")[0] for name in names]


def run_example(note: Note) -> str:
    """'' when every line prints what the note says, else doctest's account of the first that
    does not."""
    said: list[str] = []
    test = doctest.DocTest(example_of(note), {"__name__": "note"}, note.id, note.file, 0, None)
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    runner = doctest.DocTestRunner(optionflags=FLAGS | doctest.FAIL_FAST, verbose=False)
    runner.run(test, out=said.append)
    return "".join(said)
