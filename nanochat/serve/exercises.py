"""Small coding exercises: read from docs/exercises/*.md, checked without trusting the learner.

A file has a front matter (title, concepts, level), the task in Markdown, then the sections
`## Start`, `## Hints`, `## Checks` and `## Solution`. A check is an expression, such as
`softmax([1.0, 2.0])`. The learner's code runs in the sandbox and its values come out; the solution
runs in another box; the two are compared here. So code that claims to be right gains nothing: it
would have to return the right values, which it never gets to see.
Called by bridge_app.py and the tests. Read: Exercise -> read_exercise -> verdict -> same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import UserError
from nanochat.execution import Outcome

Json = dict[str, Any]
SECTIONS = ("Start", "Hints", "Checks", "Solution")
FENCE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


class BadExercise(UserError):
    """The file does not have the form of an exercise."""


@dataclass(frozen=True)
class Exercise:
    """One task, with what stays hidden from the learner."""

    id: str
    title: str
    concepts: tuple[str, ...]  # ids of notes in docs/knowledge_base
    level: int  # 1 easy, 2 middle, 3 hard
    task: str  # Markdown
    start: str
    hints: tuple[str, ...]
    checks: tuple[tuple[str, str], ...]  # expression, what it looks at
    solution: str

    def public(self) -> Json:
        """What a page may know."""
        return {
            "id": self.id,
            "title": self.title,
            "concepts": list(self.concepts),
            "level": self.level,
            "task": self.task,
            "start": self.start,
            "hints": list(self.hints),
            "checks": len(self.checks),
        }

    @property
    def calls(self) -> list[str]:
        return [call for call, _ in self.checks]


def read_exercise(path: Path) -> Exercise:
    """Raises BadExercise with what is missing."""
    text = path.read_text(encoding="utf-8")
    head = re.match(r"---\n(.*?)\n---\n", text, re.S)
    if head is None:
        raise BadExercise(f"{path.name}: begins without a front matter between two ---")
    fields = dict(line.split(": ", 1) for line in head[1].splitlines())
    task, *rest = re.split(r"^## (\w+)\n", text[head.end() :], flags=re.M)
    parts = dict(zip(rest[::2], rest[1::2], strict=True))
    missing = [name for name in SECTIONS if name not in parts]
    if missing or not {"title", "concepts", "level"} <= fields.keys():
        raise BadExercise(f"{path.name}: needs title, concepts, level and {', '.join(SECTIONS)}")
    checks = []
    for line in code_in(path, parts["Checks"]).splitlines():
        call, _, about = line.partition("  # ")
        if call.strip():
            checks.append((call.strip(), about.strip()))
    return Exercise(
        id=path.stem,
        title=fields["title"],
        concepts=tuple(re.findall(r"[\w.]+", fields["concepts"])),
        level=int(fields["level"]),
        task=task.strip(),
        start=code_in(path, parts["Start"]),
        hints=tuple(re.findall(r"^\d+\. (.+(?:\n {3}.+)*)", parts["Hints"], re.M)),
        checks=tuple(checks),
        solution=code_in(path, parts["Solution"]),
    )


def code_in(path: Path, section: str) -> str:
    """The Python block of a section. Raises BadExercise."""
    found = FENCE.search(section)
    if found is None:
        raise BadExercise(f"{path.name}: a section lacks its ```python block")
    return found[1]


def read_exercises(folder: Path) -> dict[str, Exercise]:
    """By id, in the order of the file names."""
    paths = sorted(path for path in folder.glob("*.md") if path.stem != "README")
    return {path.stem: read_exercise(path) for path in paths}


def verdict(exercise: Exercise, learner: Outcome, truth: Outcome) -> Json:
    """Compare values, number by number. Only `values` of the learner's outcome is looked at."""
    checks = []
    for number, (_, about) in enumerate(exercise.checks):
        expected = truth.values[number]
        if number in learner.values:
            ok, message = same(learner.values[number], expected)
        else:
            reason = learner.errors.get(number, f"the program {learner.ended} before this check")
            ok, message = False, reason
        checks.append({"ok": ok, "message": f"{about}: {message}" if about else message})
    return {
        "passed": bool(checks) and all(check["ok"] for check in checks),
        "checks": checks,
        "stdout": learner.stdout,
        "stderr": learner.stderr,
        "ended": learner.ended,
    }


def same(value: Any, expected: Any) -> tuple[bool, str]:
    """Equal, numbers within a millionth; if not, a word about the difference that gives nothing
    away.

    >>> same([1.0000001, "a"], [1, "a"]), same([1, 2], [1, 2, 3])
    ((True, 'right'), (False, 'a list of 2 where 3 are expected'))
    """
    if isinstance(expected, bool) or isinstance(value, bool):
        return (value is expected, "right" if value is expected else "not the right truth value")
    if isinstance(expected, int | float):
        if not isinstance(value, int | float):
            return False, f"{kind_of(value)} where a number is expected"
        near = abs(value - expected) <= 1e-6 * max(1.0, abs(expected))
        return near, "right" if near else "a number is not right"
    if isinstance(expected, list):
        return same_lists(value, expected)
    if isinstance(expected, dict):
        if not isinstance(value, dict) or value.keys() != expected.keys():
            return False, f"{kind_of(value)} with other keys than expected"
        return same_lists(list(value.values()), [expected[key] for key in value])
    return value == expected, "right" if value == expected else "not what is expected"


def same_lists(value: Any, expected: Sequence[Any]) -> tuple[bool, str]:
    """Whether a value is the expected list, and where it first differs."""
    if not isinstance(value, list):
        return False, f"{kind_of(value)} where a list is expected"
    if len(value) != len(expected):
        return False, f"a list of {len(value)} where {len(expected)} are expected"
    for mine, right in zip(value, expected, strict=True):
        ok, message = same(mine, right)
        if not ok:
            return False, message
    return True, "right"


def kind_of(value: Any) -> str:
    names = {dict: "a dictionary", list: "a list", str: "text", type(None): "None"}
    return names.get(type(value), "a number")
