"""What an expression can be: a class, a function, an instance of something. Nothing is guessed.

Called by link.py with the facts of all files. Read: the legend -> Values.eval (OPERATIONS) ->
lookup -> module_member -> class_member -> call (types.py says what annotations mean).

A value is a tuple, and an expression has several when it may be several things:
    ("file", rel), ("folder", rel)     a module of ours
    ("cls", rel, n), ("fun", rel, n)   the n-th symbol of a file
    ("obj", rel, n)                    an instance of our class
    ("ext", dotted)                    something of a library; what kind, nobody says
    ("xobj", dotted, args)             an instance of a library's class; args as in list[args]
    ("xm", dotted, name, args)         a method of such an instance
    ("tup", items)                     a tuple whose items are known one by one
    ("super", rel, n), ("calls", values), ("typevar", name), ("alias", number)

Every answer is remembered with the names it rests on (`deps`), so that a file is linked again only
when one of those changed. A circle is cut where it closes; what was seen on the way is forgotten,
so the answer does not depend on the order of the questions.
"""

import builtins
from collections.abc import Callable
from typing import Any

from nanochat.codemap.expressions import Form
from nanochat.codemap.library import element_of, enter_of, item_of, library_call, method_call
from nanochat.codemap.modules import Modules, parent
from nanochat.codemap.syntax import is_fixture
from nanochat.codemap.types import Types

Value = tuple[Any, ...]
Many = tuple[Value, ...]
MOST_VALUES = 12
DEEPEST = 60


def union(*groups: Many) -> Many:
    """Several answers as one, without repeats, and not too many."""
    together = dict.fromkeys(value for group in groups for value in group)
    return tuple(together)[:MOST_VALUES]


class Values:
    """Answers questions about the values in a set of files."""

    def __init__(self, facts: dict[str, dict[str, Any]], modules: Modules) -> None:
        self.facts, self.modules = facts, modules
        self.memo: dict[Any, tuple[Any, frozenset[tuple[str, str]]]] = {}
        self.local_memo: dict[Any, tuple[Any, frozenset[tuple[str, str]]]] = {}  # of one file
        self.running: set[Any] = set()
        self.cuts: set[Any] = set()
        self.deps: set[tuple[str, str]] = set()
        self.types = Types(self)

    def remember(self, key: Any, compute: Callable[[], Any], cut: Any = ()) -> Any:
        """The answer to a question, computed once; `cut` when the question is in its own answer."""
        memo = self.local_memo if isinstance(key[1], int) else self.memo
        hit = memo.get(key)
        if hit:
            self.deps |= hit[1]
            return hit[0]
        if key in self.running or len(self.running) > DEEPEST:
            self.cuts.add(key)
            return cut
        outer, self.deps = self.deps, set()
        self.running.add(key)
        value = compute()
        self.running.discard(key)
        self.cuts.discard(key)
        if not self.cuts or not self.running:
            memo[key] = (value, frozenset(self.deps))
            self.cuts.clear()
        outer |= self.deps
        self.deps = outer
        return value

    # --- expressions

    def eval(self, form: Form, rel: str, scope: int) -> Many:
        """All the values an expression can have, as far as they are known."""
        if not form:
            return ()
        operation = OPERATIONS.get(form[0])
        return operation(self, form, rel, scope) if operation else ()

    def each(self, form: Form, rel: str, scope: int, step: Callable[[Value], Many]) -> Many:
        return union(*[step(value) for value in self.eval(form, rel, scope)])

    def _eval_name(self, form: list[Any], rel: str, scope: int) -> Many:
        return self.lookup(rel, scope, form[1]) or ()

    def _eval_attribute(self, form: list[Any], rel: str, scope: int) -> Many:
        return self.each(form[1], rel, scope, lambda value: self.attribute(value, form[2]))

    def _eval_call(self, form: list[Any], rel: str, scope: int) -> Many:
        if form[1] == ["n", "super"]:
            owner = self.class_around(rel, scope)
            return (("super", rel, owner),) if owner >= 0 else ()
        asked = (form[2], rel, scope)
        return self.each(form[1], rel, scope, lambda value: self.call(value, asked))

    def _eval_item(self, form: list[Any], rel: str, scope: int) -> Many:
        found: Many = ()
        for value in self.eval(form[1], rel, scope):
            if value[0] in ("ext", "cls") and form[2] and form[2][0] not in ("#", ":"):
                found = union(found, (self.types.alias(form, rel, scope),))
            else:
                found = union(found, item_of(self, value, form[2]))
        return found

    def _eval_many(self, form: list[Any], rel: str, scope: int) -> Many:
        items = [self.eval(item, rel, scope) for item in form[1]]
        if form[0] == "t":
            return (("tup", tuple(items)),)
        if form[0] == "l":
            return (("xobj", "builtins.list", (union(*items),)),)
        return (("xobj", "builtins.dict", ((), union(*items))),)

    def _eval_constant(self, form: list[Any], rel: str, scope: int) -> Many:
        known = form[1] not in ("NoneType", "ellipsis")
        return (("xobj", f"builtins.{form[1]}", ()),) if known else ()

    def _eval_operation(self, form: list[Any], rel: str, scope: int) -> Many:
        """Text plus anything is text, a path over anything a path; the rest is not followed."""
        left = self.eval(form[1], rel, scope)
        return tuple(v for v in left if v[0] == "xobj" and v[1] in CLOSED_UNDER_OPERATORS)

    # --- names

    def lookup(self, rel: str, scope: int, name: str) -> Many | None:
        """What a name means in a scope; None when nothing binds it, not even Python."""
        scopes = self.facts[rel]["scopes"]
        at = scope
        while at > 0:
            visible = at == scope or scopes[at]["kind"] != "class"
            if visible and name in scopes[at]["names"]:
                return self.local(rel, at, name)
            at = scopes[at]["up"]
        found = self.module_member(rel, name)
        if found or self.binds(rel, name):
            return found
        return (("ext", f"builtins.{name}"),) if hasattr(builtins, name) else None

    def local(self, rel: str, scope: int, name: str) -> Many:
        bindings = self.facts[rel]["scopes"][scope]["names"][name]
        found = self.remember((rel, scope, name), lambda: self.bound(bindings, rel, scope, name))
        return found  # type: ignore[no-any-return]

    def binds(self, rel: str, name: str) -> bool:
        return name in self.facts[rel]["scopes"][0]["names"]

    def module_member(self, rel: str, name: str) -> Many:
        """What `name` means in the module `rel`: bound there, starred in, or a submodule."""
        found = self.remember(("m", rel, name), lambda: self._find_member(rel, name))
        return found  # type: ignore[no-any-return]

    def _find_member(self, rel: str, name: str) -> Many:
        self.deps.add((rel, name))
        facts = self.facts[rel]
        bindings = facts["scopes"][0]["names"].get(name)
        if bindings:
            found = self.bound(bindings, rel, 0, name)
            return tuple(("typevar", f"{rel}:{name}") if v[0] == "typevar" else v for v in found)
        self.deps.add((rel, "*"))
        for module, level in facts["stars"]:
            place = self.modules.find(module, level, rel)
            if place[0] == "file" and place[1] in self.facts and self.is_public(place[1], name):
                found = self.module_member(place[1], name)
                if found:
                    return found
        place_below = self.modules.below(("file", rel), name)
        return self.module_at(place_below) if place_below else ()

    def is_public(self, rel: str, name: str) -> bool:
        self.deps.add((rel, "*"))
        exports = self.facts[rel]["exports"]
        return name in exports if exports is not None else not name.startswith("_")

    def module_at(self, place: tuple[str, str]) -> Many:
        if place[0] == "external":
            return (("ext", place[1]),)
        return (place,) if place[0] == "folder" or place[1] in self.facts else ()

    def bound(self, bindings: list[list[Any]], rel: str, scope: int, name: str) -> Many:
        """The values of a name's bindings in one scope."""
        if len(bindings) > 1:
            bindings = self._without_overloads(bindings, rel)
        return union(*[self._binding(binding, rel, scope, name) for binding in bindings])

    def _without_overloads(self, bindings: list[list[Any]], rel: str) -> list[list[Any]]:
        symbols = self.facts[rel]["symbols"]

        def is_extra(binding: list[Any]) -> bool:
            if binding[0] != "symbol":
                return False
            marks = symbols[binding[1]]["decorators"]
            return any(m.endswith(("overload", ".setter", ".deleter")) for m in marks)

        return [binding for binding in bindings if not is_extra(binding)] or bindings

    def _binding(self, binding: list[Any], rel: str, scope: int, name: str) -> Many:
        kind = binding[0]
        if kind == "symbol":
            symbol = self.facts[rel]["symbols"][binding[1]]
            return (("cls" if symbol["kind"] == "class" else "fun", rel, binding[1]),)
        if kind == "import":
            return self._imported(rel, *binding[1:])
        if kind == "self":
            return (("obj", rel, binding[1]),)
        if kind == "cls":
            return (("cls", rel, binding[1]),)
        if kind == "fixture":
            return self.fixture(rel, binding[1])
        if kind == "outer":
            above = 0 if binding[1] else self.facts[rel]["scopes"][scope]["up"]
            return self.lookup(rel, above, name) or ()
        return self.eval(binding, rel, scope)

    def fixture(self, rel: str, name: str) -> Many:
        """What pytest hands to a parameter: looked for in the file, then in conftest.py upwards."""
        folder = parent(rel)
        places = [rel, f"{folder}/conftest.py"]
        while folder:
            folder = parent(folder)
            places.append(f"{folder}/conftest.py".lstrip("/"))
        for place in places:
            for value in self.module_member(place, name) if place in self.facts else ():
                if value[0] == "fun" and is_fixture(self.facts[value[1]]["symbols"][value[2]]):
                    given = self.types.returned(value)
                    return union(*[enter_of(self, v) if v[0] == "xobj" else (v,) for v in given])
        return ()

    def _imported(self, rel: str, module: str, level: int, name: str) -> Many:
        place = self.modules.find(module, level, rel)
        if not name:
            return self.module_at(place)
        if place[0] == "external":
            return (("ext", f"{place[1]}.{name}"),)
        if place[0] == "file" and place[1] in self.facts:
            found = self.module_member(place[1], name)
            if found:
                return found
        below = self.modules.below(place, name)
        return self.module_at(below) if below else ()

    def class_around(self, rel: str, scope: int) -> int:
        """The number of the class whose method (or body) a scope is in; -1 outside."""
        facts = self.facts[rel]
        symbol = facts["scopes"][scope]["symbol"]
        while symbol >= 0 and facts["symbols"][symbol]["kind"] != "class":
            symbol = facts["symbols"][symbol]["parent"]
        return int(symbol)

    # --- attributes

    def attribute(self, value: Value, name: str) -> Many:
        """value.name for every kind of value."""
        kind = value[0]
        if kind == "file":
            return self.module_member(value[1], name)
        if kind == "folder":
            below = self.modules.below(value, name)  # type: ignore[arg-type]
            return self.module_at(below) if below else ()
        if kind == "ext":
            return (("ext", f"{value[1]}.{name}"),)
        if kind == "xobj":
            return (("xm", value[1], name, value[2]),) if has_attribute(value[1], name) else ()
        if kind == "tup":
            return (("xm", "builtins.tuple", name, (union(*value[1]),)),)
        if kind in ("cls", "obj", "super"):
            return self.class_member(value, name)
        return ()

    def class_member(self, value: Value, name: str) -> Many:
        found = self.remember(("c", *value, name), lambda: self._find_class_member(value, name))
        return found  # type: ignore[no-any-return]

    def _find_class_member(self, value: Value, name: str) -> Many:
        line = self.ancestry(value[1], value[2])
        libraries = []
        for ancestor in line[1:] if value[0] == "super" else line:
            if ancestor[0] == "ext":
                if has_attribute(ancestor[1], name):
                    libraries.append(ancestor[1])
                continue
            found = self._own_member(ancestor, name, value[0] != "cls")
            if found is not None:
                return found
        if name == "apply" and AUTOGRAD & set(libraries):
            return self.class_member(value, "forward")
        return (("ext", f"{libraries[0]}.{name}"),) if len(libraries) == 1 else ()

    def _own_member(self, owner: Value, name: str, on_instance: bool) -> Many | None:
        """What a class itself says about an attribute; None when nothing."""
        self.look_inside(owner)
        facts = self.facts[owner[1]]
        scope = facts["symbols"][owner[2]]["scope"]
        bindings = [*facts["scopes"][scope]["names"].get(name, [])]
        if on_instance:
            bindings += facts["scopes"][scope]["self"].get(name, [])
        if not bindings:
            return None
        found = self.bound(bindings, owner[1], scope, name)
        if not on_instance:
            return found
        return union(*[self._if_property(value) for value in found])

    def look_inside(self, value: Value) -> None:
        """The answer rests on what is in a function or class, not only on which one it is."""
        name = self.facts[value[1]]["symbols"][value[2]]["name"]
        self.deps.add((value[1], f"{name.partition('.')[0].partition('#')[0]}.*"))

    def _if_property(self, value: Value) -> Many:
        if value[0] != "fun":
            return (value,)
        marks = self.facts[value[1]]["symbols"][value[2]]["decorators"]
        is_one = any(mark.split(".")[-1] in ("property", "cached_property") for mark in marks)
        return self.types.returned(value) if is_one else (value,)

    def ancestry(self, rel: str, number: int) -> list[Value]:
        """A class and what it inherits from, nearest first."""
        line = self.remember(("a", rel, number), lambda: self._find_ancestry(rel, number), [])
        return line  # type: ignore[no-any-return]

    def _find_ancestry(self, rel: str, number: int) -> list[Value]:
        line: list[Value] = [("cls", rel, number)]
        for base in self.bases(rel, number):
            if base[0] == "cls":
                line += self.ancestry(base[1], base[2])
            elif base[0] == "ext" and base[1].rpartition(".")[2] not in SILENT_BASES:
                line.append(base)
        return list(reversed(dict.fromkeys(reversed(line))))  # a shared base comes last

    def bases(self, rel: str, number: int) -> Many:
        symbol = self.facts[rel]["symbols"][number]
        outer = self.facts[rel]["scopes"][symbol["scope"]]["up"]
        return union(*[self.eval(base, rel, outer) for base in symbol["bases"]])

    # --- calls

    def call(self, value: Value, asked: tuple[list[Form], str, int]) -> Many:
        """What calling `value` gives; `asked` are the arguments' forms and where they stand."""
        kind = value[0]
        if kind == "cls":
            return (("obj", value[1], value[2]),)
        if kind == "fun":
            return self.types.returned(value, asked)
        if kind == "ext":
            return library_call(self, value[1], asked)
        if kind == "xm":
            return method_call(value)
        if kind == "calls":
            return value[1]  # type: ignore[no-any-return]
        if kind == "obj":
            called = self.called_instance(value)
            return union(*[self.call(v, asked) for v in called if v[0] != "obj"])
        return ()

    def called_instance(self, value: Value) -> Many:
        """What runs when an instance is called: __call__, or forward in a torch module."""
        line = self.ancestry(value[1], value[2])
        if MODULE & {ancestor[1] for ancestor in line if ancestor[0] == "ext"}:
            own = self.class_member(value, "forward")
            if any(v[0] == "fun" for v in own):
                return own
        return self.class_member(value, "__call__")


OPERATIONS: dict[str, Callable[[Values, list[Any], str, int], Many]] = {
    "n": Values._eval_name,
    ".": Values._eval_attribute,
    "()": Values._eval_call,
    "[]": Values._eval_item,
    "t": Values._eval_many,
    "l": Values._eval_many,
    "d": Values._eval_many,
    "k": Values._eval_constant,
    "op": Values._eval_operation,
    "e": lambda self, f, rel, at: self.each(f[1], rel, at, lambda v: element_of(self, v)),
    "w": lambda self, f, rel, at: self.each(f[1], rel, at, lambda v: enter_of(self, v)),
    "|": lambda self, f, rel, at: union(*[self.eval(part, rel, at) for part in f[1]]),
    "@": lambda self, f, rel, at: self.eval(f[2], rel, f[1]),
    "of": lambda self, f, rel, at: self.types.instances(f[1], rel, at),
}
CLOSED_UNDER_OPERATORS = {
    *("builtins.str", "builtins.bytes", "builtins.list", "builtins.set", "pathlib.Path"),
    "torch.Tensor",
}
SILENT_BASES = {"object", "Generic", "Protocol", "ABC", "NamedTuple", "TypedDict"}
MODULE = {"torch.nn.Module", "torch.nn.modules.module.Module"}
AUTOGRAD = {"torch.autograd.Function", "torch.autograd.function.Function"}


def has_attribute(dotted: str, name: str) -> bool:
    """Python's own types are known by heart; of another library's nothing is ruled out."""
    if not dotted.startswith("builtins."):
        return True
    return hasattr(getattr(builtins, dotted[9:], None), name)
