"""What reinforcement brought: the gain of each kind, how sure it is, and whether it meets the bar.

Called by scripts/chat_rl.py. The same held-out questions are answered before and after, so a gain
is a mean of differences, question by question, and its standard error is theirs.
Read: check_measurable -> shares -> gain -> gains -> verdict -> curve_picture.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.errors import UserError
from nanochat.picture import line_chart_svg

Marks = Mapping[str, Sequence[bool]]  # kind -> right or wrong, question by question
Point = tuple[int, dict[str, float]]  # step -> accuracy by kind


class CannotMeasure(UserError):
    """Too few questions to tell the gain from luck."""


def check_measurable(questions: Mapping[str, int], points: float, kinds: int) -> None:
    """Refuse before hours of work: `questions` of each practised kind must show `points`.

    A share of n questions is known to 50 / sqrt(n) percentage points at worst. No points, no bar.

    >>> check_measurable({"first": 300, "how_many": 300}, points=5, kinds=2)
    """
    if points <= 0:
        return
    enough = [kind for kind, count in questions.items() if count and 50 / count**0.5 < points]
    if len(enough) < kinds:
        raise CannotMeasure(
            f"{len(enough)} of the practised kinds ({', '.join(questions) or 'none'}) have enough "
            f"held-out questions to show {points:g} points, and the bar asks for {kinds} kinds: "
            f"--held-out {int((50 / points) ** 2) + 1} or more, other --kinds, or --bar-points 0"
        )


def shares(marks: Marks) -> dict[str, float]:
    """Accuracy of each kind.

    >>> shares({"first": [True, True, False, True]})
    {'first': 0.75}
    """
    return {kind: sum(right) / len(right) for kind, right in marks.items()}


def gain(before: Sequence[bool], after: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Of one kind, in percentage points: the mean over questions and seeds, and its standard error.

    A question's difference is its share of right answers over the seeds, less whether it was right
    before; the error is the deviation of these differences over the root of their number.

    >>> gain([False, True], [[True, True], [True, True]])
    {'gain': 50.0, 'standard_error': 50.0, 'seeds': [50.0, 50.0], 'questions': 2}
    """
    each = [sum(marks) / len(after) - was for was, *marks in zip(before, *after, strict=True)]
    spread = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else 1.0
    by_seed = [100 * (sum(marks) - sum(before)) / len(before) for marks in after]
    return {
        "gain": round(100 * statistics.mean(each), 2),
        "standard_error": round(100 * spread, 2),
        "seeds": [round(one, 2) for one in by_seed],
        "questions": len(each),
    }


def gains(before: Marks, after: Sequence[Marks]) -> dict[str, dict[str, Any]]:
    return {kind: gain(was, [marks[kind] for marks in after]) for kind, was in before.items()}


def verdict(
    found: Mapping[str, Mapping[str, Any]], practised: Sequence[str], points: float, kinds: int
) -> dict[str, Any]:
    """Did `kinds` practised kinds gain `points`, each clear of its standard error?

    >>> all_of_it = {"a": {"gain": 6.0, "standard_error": 1.5}, "b": {"gain": 3.0}}
    >>> verdict(all_of_it, ["a", "b"], points=5, kinds=2)
    {'points': 5, 'kinds': 2, 'reached_by': ['a'], 'holds': False}
    """
    reached = [
        kind
        for kind in practised
        if found[kind]["gain"] >= points and found[kind]["gain"] > found[kind]["standard_error"]
    ]
    return {"points": points, "kinds": kinds, "reached_by": reached, "holds": len(reached) >= kinds}


def curve_picture(curves: Sequence[Sequence[Point]], kinds: Sequence[str]) -> str:
    """Held-out accuracy of the practised kinds over the steps: the mean of the seeds."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for kind in kinds:
        by_step: dict[int, list[float]] = {}
        for curve in curves:
            for step, accuracy in curve:
                by_step.setdefault(step, []).append(100 * accuracy[kind])
        lines[kind.replace("_", " ")] = [
            (float(step), statistics.mean(found)) for step, found in sorted(by_step.items())
        ]
    title = f"Reinforcement: held-out questions, mean of {len(curves)} seeds"
    return line_chart_svg(title, lines, x_label="step", y_label="right answers, %")
