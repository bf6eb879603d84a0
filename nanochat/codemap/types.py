"""What annotations promise: `x: list[Answer]` makes x a list whose items are Answers.

Called by values.py. Read: Types -> instances -> generic -> returned -> type_variable.
Not covered: narrowing by isinstance, ParamSpec, overloads chosen by argument.
"""

import json
from typing import TYPE_CHECKING

from nanochat.codemap.expressions import Form

if TYPE_CHECKING:
    from nanochat.codemap.values import Many, Value, Values

SAME_AS_FIRST = {
    *("Optional", "Annotated", "Final", "ClassVar", "Required", "NotRequired", "ReadOnly"),
    *("Awaitable", "Coroutine"),
}
SAME_AS_BUILTIN = {"List": "list", "Dict": "dict", "Set": "set", "FrozenSet": "frozenset"}
SAME_AS_BUILTIN |= {"Tuple": "tuple", "Type": "type"}


class Types:
    """Annotations as values."""

    def __init__(self, values: "Values") -> None:
        self.values = values
        self.aliases: dict[str, tuple[Form, str, int]] = {}

    def alias(self, form: Form, rel: str, scope: int) -> "Value":
        """`Progress = list[Answer]` is a type with a name: kept, and read when it is used."""
        key = f"{rel} {scope} {json.dumps(form)}"
        self.aliases[key] = (form, rel, scope)
        return ("alias", key)

    def instances(self, form: Form, rel: str, scope: int) -> "Many":
        """What a thing declared with this annotation can be."""
        if not form:
            return ()
        if form[0] == "|":
            return joined([self.instances(part, rel, scope) for part in form[1]])
        if form[0] == "[]":
            bases = self.values.eval(form[1], rel, scope)
            return joined([self.generic(base, form[2], rel, scope) for base in bases])
        if form[0] == "@":
            return self.instances(form[2], rel, form[1])
        found = self.values.eval(form, rel, scope)
        return joined([self.instance(value, rel, scope) for value in found])

    def instance(self, value: "Value", rel: str, scope: int) -> "Many":
        """An instance of what `value` is, if it is a class or a type."""
        kind = value[0]
        if kind == "cls":
            return (("obj", value[1], value[2]),)
        if kind == "alias":
            form, where, at = self.aliases[value[1]]
            return self.instances(form, where, at)
        if kind == "typevar":
            return (value,)
        if kind != "ext":
            return ()
        short = value[1].rpartition(".")[2]
        if short == "Self":
            owner = self.values.class_around(rel, scope)
            return (("obj", rel, owner),) if owner >= 0 else ()
        if short in ("Any", "object", "None", "Callable"):
            return ()
        return (("xobj", plain_name(value[1]), ()),)

    def generic(self, base: "Value", index: Form, rel: str, scope: int) -> "Many":
        """base[index] as an annotation."""
        parts: list[Form] = index[1] if index and index[0] == "t" else [index]
        if base[0] != "ext":
            return self.instance(base, rel, scope)
        short = plain_name(base[1]).rpartition(".")[2]
        if short in SAME_AS_FIRST:
            which = parts[-1] if short == "Coroutine" else parts[0]
            return self.instances(which, rel, scope)
        if short == "Union":
            return joined([self.instances(part, rel, scope) for part in parts])
        if short == "Literal":
            return ()
        if short == "Callable":
            return (("calls", self.instances(parts[-1], rel, scope)),)
        if short == "type":
            return joined([self.values.eval(part, rel, scope) for part in parts])
        inner = tuple(self.instances(part, rel, scope) for part in parts)
        if short == "tuple" and parts[-1] != ["k", "ellipsis"]:
            return (("tup", inner),)
        return (("xobj", plain_name(base[1]), inner),)

    def returned(
        self, function: "Value", asked: tuple[list[Form], str, int] | None = None
    ) -> "Many":
        """What a function of ours gives back: as annotated, else what its returns say."""
        found: Many = self.values.remember(("r", *function), lambda: self.find_returned(function))
        if asked and any(value[0] == "typevar" for value in found):
            return joined([self.type_variable(v, function, asked) for v in found])
        return found

    def find_returned(self, function: "Value") -> "Many":
        """`returned`, not remembered."""
        _, rel, number = function
        self.values.look_inside(function)
        symbol = self.values.facts[rel]["symbols"][number]
        if symbol["returns"]:
            outer = self.values.facts[rel]["scopes"][symbol["scope"]]["up"]
            return self.instances(symbol["returns"], rel, outer)
        forms = symbol.get("yields") or symbol.get("gives", [])
        found = joined([self.values.eval(form, rel, symbol["scope"]) for form in forms])
        return (("xobj", "typing.Iterator", (found,)),) if symbol.get("yields") else found

    def type_variable(
        self, value: "Value", function: "Value", asked: tuple[list[Form], str, int]
    ) -> "Many":
        """`def f(kind: type[S]) -> S` called with a class gives an instance of that class."""
        if value[0] != "typevar":
            return (value,)
        _, rel, number = function
        symbol = self.values.facts[rel]["symbols"][number]
        outer = self.values.facts[rel]["scopes"][symbol["scope"]]["up"]
        params = symbol["params"][1 if symbol.get("first") else 0 :]
        for (_, declared), given in zip(params, asked[0], strict=False):
            if not declared:
                continue
            wanted = self.values.eval(declared, rel, outer)
            got = self.values.eval(given, asked[1], asked[2])
            if value in wanted:
                return got
            if declared[0] == "[]" and value in self.instances(declared, rel, outer):
                return joined([self.instance(v, asked[1], asked[2]) for v in got])
        return ()


def joined(groups: "list[Many]") -> "Many":
    return tuple(dict.fromkeys(value for group in groups for value in group))[:12]


def plain_name(dotted: str) -> str:
    """typing.List is list, and so on."""
    module, _, short = dotted.rpartition(".")
    if module in ("typing", "typing_extensions") and short in SAME_AS_BUILTIN:
        return f"builtins.{SAME_AS_BUILTIN[short]}"
    return dotted
