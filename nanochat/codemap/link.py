"""From facts to edges: what a file imports, inherits from and calls.

Called by build.py for each file that is new or rests on something that changed.
Read: Links -> link_file -> import_target, call_targets -> why_not.

A call is an edge from the innermost function (or class body, or file) it stands in to each thing it
may reach: a function, a class (an instance is made), or something of a library, "external:" before
its dotted name. A call that can't be followed is listed with the reason, never guessed.
"""

from dataclasses import dataclass, field
from typing import Any

from nanochat.codemap.expressions import Form, render
from nanochat.codemap.syntax import Facts
from nanochat.codemap.values import Value, Values

Edge = tuple[str, str, str]  # kind, source id, target id


@dataclass
class Links:
    """What one file contributes: edges with the lines they stand in, and what stayed open."""

    edges: dict[Edge, list[int]] = field(default_factory=dict)
    unresolved: list[list[Any]] = field(default_factory=list)  # [symbol, line, text, reason]
    deps: set[tuple[str, str]] = field(default_factory=set)

    def add(self, kind: str, source: str, target: str, line: int) -> None:
        lines = self.edges.setdefault((kind, source, target), [])
        if line not in lines:
            lines.append(line)


def symbol_id(values: Values, rel: str, number: int) -> str:
    return f"{rel}:{values.facts[rel]['symbols'][number]['name']}" if number >= 0 else rel


def link_file(values: Values, rel: str, own: Facts) -> Links:
    """All edges of one file but those of its tags; `own` is the second half of its facts."""
    links = Links()
    values.deps = links.deps
    facts = values.facts[rel]
    for number, symbol in enumerate(facts["symbols"]):
        name = symbol_id(values, rel, number)
        told = own["told"][number]
        links.add("contains", symbol_id(values, rel, symbol["parent"]), name, told["line"])
        if symbol["kind"] == "class":
            link_bases(values, links, rel, number, told["base_lines"])
    for line, module, level, name in own["imports"]:
        target = import_target(values, rel, module, level, name)
        if target and target != rel:
            links.add("imports", rel, target, line)
    for scope, line, form in own["calls"]:
        source = symbol_id(values, rel, facts["scopes"][scope]["symbol"])
        targets = call_targets(values, form, rel, scope)
        for target in targets:
            links.add("calls", source, target, line)
        if not targets:
            reason = why_not(values, form, rel, scope)
            links.unresolved.append([source, line, render(form), reason])
    return links


def link_bases(values: Values, links: Links, rel: str, number: int, lines: list[int]) -> None:
    """An inherits edge to each base that is known; the others are listed."""
    symbol = values.facts[rel]["symbols"][number]
    outer = values.facts[rel]["scopes"][symbol["scope"]]["up"]
    name = symbol_id(values, rel, number)
    for base, line in zip(symbol["bases"], lines, strict=True):
        found = [v for v in values.eval(base, rel, outer) if v[0] in ("cls", "ext")]
        for value in found:
            target = target_id(values, value)
            if target and target != name:
                links.add("inherits", name, target, line)
        if not found:
            links.unresolved.append([name, line, render(base), "a base that is not known"])


def import_target(values: Values, rel: str, module: str, level: int, name: str | None) -> str:
    """The file an import statement names, or the library's module; '' for a folder."""
    place = values.modules.find(module, level, rel)
    if name and name != "*" and place[0] != "external":
        values.deps.add((place[1], name))
        bound = place[0] == "file" and place[1] in values.facts and values.binds(place[1], name)
        below = None if bound else values.modules.below(place, name)
        place = below or place
    if place[0] == "folder":
        return ""
    return place[1] if place[0] == "file" else f"external:{place[1]}"


def call_targets(values: Values, form: Form, rel: str, scope: int) -> list[str]:
    """The ids of everything a call expression may reach."""
    if form == ["n", "super"]:
        return ["external:builtins.super"]
    found: dict[str, None] = {}
    for value in values.eval(form, rel, scope):
        if value[0] == "obj":
            for called in values.called_instance(value):
                found[target_id(values, called)] = None
        else:
            found[target_id(values, value)] = None
    return [target for target in found if target]


def target_id(values: Values, value: Value) -> str:
    """The node that a value is; '' for a value that is none."""
    kind = value[0]
    if kind in ("cls", "fun"):
        return symbol_id(values, value[1], value[2])
    if kind == "ext":
        return f"external:{value[1]}"
    if kind == "xm":
        return f"external:{value[1]}.{value[2]}"
    return ""


def why_not(values: Values, form: Form, rel: str, scope: int) -> str:
    """The reason a call was not followed."""
    if not form:
        return "the function is computed"
    if any(value[0] == "calls" for value in values.eval(form, rel, scope)):
        return "a function given from outside"
    if form[0] == "n":
        bound = values.lookup(rel, scope, form[1])
        return "nothing binds this name" if bound is None else "what this name holds is not known"
    if form[0] == ".":
        known = values.eval(form[1], rel, scope)
        return f"what stands before the dot {'has no such attribute' if known else 'is not known'}"
    return "the function is computed"
