"""One Python file -> plain facts about it: symbols, names, imports, calls, tags. Nothing is run.

Called by build.py for each file whose content is new; the facts are stored, so they are made of
lists, dicts and text only. What the names mean is found out later, in values.py.
Read: Facts -> Reader -> read_python; the reader of each kind of statement is listed in READERS.

A scope is where names live: {"kind", "up", "symbol", "names": {name: [binding, ...]}}, and for
a class also "self", the attributes its methods set. A binding is a form (see expressions.py) or
    ["import", module, level, name]   `from module import name`; name "" is the module itself
    ["symbol", number]                a function or class of this file
    ["of", form]                      declared by an annotation
    ["self", number], ["cls", number] the first argument of a method of that class
    ["fixture", name]                 a parameter which pytest fills in
    ["outer", is global]              another scope's name
    ["?"]                             bound to something we know nothing about
"""

import ast
from typing import Any

from nanochat.codemap.expressions import Form, encode, encode_annotation

Facts = dict[str, Any]
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


class Reader:
    """Walks a file once. `at` is the scope we are in."""

    def __init__(self, rel: str) -> None:
        self.rel = rel
        self.scopes: list[dict[str, Any]] = []
        self.symbols: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []  # of each symbol, what no other file asks for
        self.imports: list[list[Any]] = []
        self.calls: list[list[Any]] = []
        self.stars: list[list[Any]] = []
        self.exports: list[str] | None = None
        self.taken: dict[str, int] = {}
        self.at = self.open_scope("module", -1, -1)

    def open_scope(self, kind: str, parent: int, symbol: int) -> int:
        self.scopes.append({"kind": kind, "up": parent, "symbol": symbol, "names": {}})
        return len(self.scopes) - 1

    def bind(self, name: str, what: list[Any] | None) -> None:
        self.scopes[self.at]["names"].setdefault(name, []).append(what or ["?"])

    def read(self, node: ast.AST) -> None:
        """Read one node: by its reader, else by reading what is in it."""
        reader = READERS.get(type(node))
        if reader:
            reader(self, node)
            return
        for name in FIELDS[type(node)]:  # as ast.iter_child_nodes, at half its cost
            value = getattr(node, name, None)
            if type(value) is list:
                for child in value:
                    if type(child) not in LEAVES:
                        self.read(child)
            elif type(value) not in LEAVES:
                self.read(value)  # type: ignore[arg-type]

    def read_all(self, nodes: Any) -> None:
        for node in nodes:
            if node is not None:
                self.read(node)

    # --- functions and classes

    def add_symbol(self, node: Any, kind: str) -> int:
        """Note a function or class; returns its number."""
        outer = self.scopes[self.at]["symbol"]
        prefix = f"{self.symbols[outer]['name']}." if outer >= 0 else ""
        name = plain = prefix + node.name
        self.taken[plain] = self.taken.get(plain, 0) + 1
        if self.taken[plain] > 1:  # defined again, or in the other branch of an if
            name = f"{plain}#{self.taken[plain]}"
        decorators = node.decorator_list
        self.symbols.append(
            {
                "name": name,
                "kind": kind,
                "parent": outer,
                "decorators": [ast.unparse(d) for d in decorators],
            }
        )
        self.told.append(
            {
                "line": min([node.lineno, *(d.lineno for d in decorators)]),
                "end": node.end_lineno,
                "doc": ast.get_docstring(node) or "",
                "body": (node.end_lineno or 0) - node.body[0].lineno + 1,
            }
        )
        return len(self.symbols) - 1

    def read_function(self, node: FUNCTION) -> None:
        """A function: its symbol, its parameters, its body in a scope of its own."""
        args = node.args
        everything = [*args.posonlyargs, *args.args, *args.kwonlyargs]
        self.read_all([*node.decorator_list, *args.defaults, *args.kw_defaults, node.returns])
        self.read_all([arg.annotation for arg in everything])
        number = self.add_symbol(node, "function")
        symbol, outer = self.symbols[number], self.at
        self.bind(node.name, ["symbol", number])
        prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        self.told[number]["signature"] = f"{prefix} {node.name}({ast.unparse(args)}){returns}"
        symbol["returns"] = encode_annotation(node.returns)
        symbol["params"] = [
            [arg.arg, encode_annotation(arg.annotation)] for arg in [*args.posonlyargs, *args.args]
        ]
        if node.returns is None:
            symbol["gives"], symbol["yields"] = [], []
        self.at = symbol["scope"] = self.open_scope("function", outer, number)
        self.bind_parameters(node, number, outer)
        self.read_all(node.body)
        self.at = outer

    def bind_parameters(self, node: FUNCTION, number: int, outer: int) -> None:
        """Give each parameter the meaning its place, annotation or default has."""
        args = node.args
        positional = [*args.posonlyargs, *args.args]
        symbol = self.symbols[number]
        in_class = self.scopes[outer]["kind"] == "class"
        symbol["method"] = in_class
        first = positional[0] if in_class and positional else None
        if first and "staticmethod" not in symbol["decorators"]:
            kind = "cls" if is_class_method(symbol) else "self"
            symbol["first"] = first.arg
            self.bind(first.arg, [kind, self.scopes[outer]["symbol"]])
            positional = positional[1:]
        defaults = dict(zip(reversed(positional), reversed(args.defaults), strict=False))
        defaults.update((a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d)
        for arg in [*positional, *args.kwonlyargs]:
            declared = encode_annotation(arg.annotation)
            given = encode(defaults.get(arg))
            if not declared and not given and takes_fixtures(symbol):
                given = ["fixture", arg.arg]
            self.bind(arg.arg, ["of", declared] if declared else given)
        for rest, box in ((args.vararg, "tuple"), (args.kwarg, "dict")):
            if rest:
                inner = encode_annotation(rest.annotation)
                parts = [["n", "str"], inner] if box == "dict" else [inner, ["k", "ellipsis"]]
                self.bind(rest.arg, ["of", ["[]", ["n", box], ["t", parts]]])

    def read_class(self, node: ast.ClassDef) -> None:
        """A class: its symbol, its bases, its body in a scope of its own."""
        self.read_all([*node.decorator_list, *node.bases, *node.keywords])
        number = self.add_symbol(node, "class")
        symbol, outer = self.symbols[number], self.at
        self.bind(node.name, ["symbol", number])
        self.told[number]["signature"] = f"class {node.name}" + (
            f"({', '.join(ast.unparse(base) for base in node.bases)})" if node.bases else ""
        )
        symbol["bases"] = [
            encode(b.value if isinstance(b, ast.Subscript) else b) for b in node.bases
        ]
        self.told[number]["base_lines"] = [base.lineno for base in node.bases]
        self.at = symbol["scope"] = self.open_scope("class", outer, number)
        self.scopes[self.at]["self"] = {}
        self.read_all(node.body)
        self.at = outer

    def read_lambda(self, node: ast.Lambda) -> None:
        """A function without a name: a scope, and parameters nobody knows."""
        self.read_all([*node.args.defaults, *node.args.kw_defaults])
        outer, args = self.at, node.args
        self.at = self.open_scope("lambda", outer, self.scopes[outer]["symbol"])
        rest = [arg for arg in (args.vararg, args.kwarg) if arg]
        for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, *rest]:
            self.bind(arg.arg, None)
        self.read(node.body)
        self.at = outer

    # --- statements that give names a meaning

    def assign(self, target: ast.expr, value: Form) -> None:
        """Bind the names in `target` to the form of what they get."""
        if isinstance(target, ast.Name):
            self.bind(target.id, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for i, part in enumerate(target.elts):
                self.assign(part, ["[]", value, ["#", i]] if value else None)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, ["l", [["e", value]]] if value else None)
        else:
            self.set_attribute(target, value)
            self.read_all(ast.iter_child_nodes(target))

    def set_attribute(self, target: ast.expr, value: Form) -> None:
        """`self.x = ...` in a method says what the instances of its class have."""
        scope = self.at
        while scope >= 0 and self.scopes[scope]["kind"] != "function":
            scope = self.scopes[scope]["up"]
        if not isinstance(target, ast.Attribute) or not isinstance(target.value, ast.Name):
            return
        if scope < 0:
            return
        symbol = self.symbols[self.scopes[scope]["symbol"]]
        if symbol.get("first") == target.value.id:
            owner = self.scopes[self.symbols[symbol["parent"]]["scope"]]
            owner["self"].setdefault(target.attr, []).append(["@", self.at, value or ["?"]])

    def read_assign(self, node: ast.Assign) -> None:
        """`a = b = value`, and the list in `__all__`."""
        self.read(node.value)
        for target in node.targets:
            self.assign(target, encode(node.value))
            if isinstance(target, ast.Name) and target.id == "__all__" and self.at == 0:
                parts = getattr(node.value, "elts", [])
                self.exports = [str(p.value) for p in parts if isinstance(p, ast.Constant)]

    def read_declaration(self, node: ast.AnnAssign) -> None:
        self.read_all([node.annotation, node.value])
        declared = encode_annotation(node.annotation)
        self.assign(node.target, ["of", declared] if declared else encode(node.value))

    def read_walrus(self, node: ast.NamedExpr) -> None:
        self.read(node.value)
        self.bind(node.target.id, encode(node.value))

    def read_loop(self, node: ast.For | ast.AsyncFor) -> None:
        self.read(node.iter)
        self.assign(node.target, element(encode(node.iter)))
        self.read_all([*node.body, *node.orelse])

    def read_with(self, node: ast.With | ast.AsyncWith) -> None:
        """`with value as name`."""
        for item in node.items:
            self.read(item.context_expr)
            if item.optional_vars:
                value = encode(item.context_expr)
                self.assign(item.optional_vars, ["w", value] if value else None)
        self.read_all(node.body)

    def read_except(self, node: ast.ExceptHandler) -> None:
        """`except A as name` makes name an instance of A."""
        self.read_all([node.type])
        if node.name and node.type:
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            forms = [form for form in map(encode, kinds) if form]
            self.bind(node.name, ["of", ["|", forms]])
        self.read_all(node.body)

    def read_comprehension(self, node: Any) -> None:
        """A comprehension: a scope in which its targets take what they loop over."""
        outer = self.at
        for i, part in enumerate(node.generators):
            self.read(part.iter)  # the first one belongs to the scope around
            form = encode(part.iter)
            if i == 0:
                self.at = self.open_scope("lambda", outer, self.scopes[outer]["symbol"])
                form = ["@", outer, form] if form else None
            self.assign(part.target, element(form))
            self.read_all(part.ifs)
        node.scope = self.at  # encode() looks here
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self.read_all(results)
        self.at = outer

    def read_pattern(self, node: ast.MatchAs | ast.MatchStar) -> None:
        """A name caught by a case of `match`; `case A() as name` makes it an A."""
        kind = getattr(node, "pattern", None)
        if node.name:
            declared = encode(kind.cls) if isinstance(kind, ast.MatchClass) else None
            self.bind(node.name, ["of", declared] if declared else None)
        self.read_all([kind])

    def read_shared(self, node: ast.Global | ast.Nonlocal) -> None:
        """The name belongs to a scope further out; say so, or this one would hide it."""
        for name in node.names:
            self.bind(name, ["outer", isinstance(node, ast.Global)])

    def read_return(self, node: ast.Return) -> None:
        """Keep what is returned where no annotation says it."""
        self.read_all([node.value])
        scope = self.scopes[self.at]
        if scope["kind"] == "function" and node.value is not None:
            gives = self.symbols[scope["symbol"]].get("gives")
            form = encode(node.value)
            if gives is not None and form:
                gives.append(form)

    def read_yield(self, node: ast.Yield) -> None:
        """Keep what is yielded where no annotation says it."""
        self.read_all([node.value])
        scope = self.scopes[self.at]
        form = encode(node.value)
        if scope["kind"] == "function" and form:
            self.symbols[scope["symbol"]].get("yields", []).append(form)

    # --- imports and calls

    def read_import(self, node: ast.Import) -> None:
        """`import a.b as c`."""
        for alias in node.names:
            self.imports.append([node.lineno, alias.name, 0, None])
            if alias.asname:
                self.bind(alias.asname, ["import", alias.name, 0, ""])
            else:
                self.bind(alias.name.split(".")[0], ["import", alias.name.split(".")[0], 0, ""])

    def read_import_from(self, node: ast.ImportFrom) -> None:
        """`from a import b as c`, relative and starred ones too."""
        module = node.module or ""
        for alias in node.names:
            self.imports.append([node.lineno, module, node.level, alias.name])
            if alias.name == "*":
                self.stars.append([module, node.level])
            else:
                self.bind(alias.asname or alias.name, ["import", module, node.level, alias.name])

    def read_call(self, node: ast.Call) -> None:
        self.read_all([node.func, *node.args, *node.keywords])
        self.calls.append([self.at, node.lineno, encode(node.func)])


def element(form: Form) -> Form:
    return ["e", form] if form else None


def takes_fixtures(symbol: dict[str, Any]) -> bool:
    """Whether pytest fills in the parameters, by their names."""
    name = symbol["name"].rpartition(".")[2]
    return name.startswith("test_") or is_fixture(symbol)


def is_fixture(symbol: dict[str, Any]) -> bool:
    marks = [mark.partition("(")[0] for mark in symbol["decorators"]]
    return any(mark in ("fixture", "pytest.fixture") for mark in marks)


def is_class_method(symbol: dict[str, Any]) -> bool:
    """Whether the first argument is the class."""
    name = symbol["name"].rpartition(".")[2]
    return "classmethod" in symbol["decorators"] or name in (
        *("__new__", "__init_subclass__", "__class_getitem__"),
    )


OPERATORS = (ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)
LEAVES: set[type] = {kind for family in OPERATORS for kind in family.__subclasses__()}
LEAVES |= {ast.Name, ast.Constant, ast.Pass, ast.Break, ast.Continue, ast.TypeIgnore}
LEAVES |= {str, int, float, complex, bytes, bool, type(None), type(...)}
WORDS = {"ctx", "op", "ops", "id", "attr", "arg", "name", "kind", "level", "type_comment", "rest"}
KINDS = [kind for kind in vars(ast).values() if isinstance(kind, type) and hasattr(kind, "_fields")]
FIELDS = {kind: tuple(f for f in kind._fields if f not in WORDS) for kind in KINDS}
READERS: dict[type, Any] = {
    ast.FunctionDef: Reader.read_function,
    ast.AsyncFunctionDef: Reader.read_function,
    ast.ClassDef: Reader.read_class,
    ast.Lambda: Reader.read_lambda,
    ast.Assign: Reader.read_assign,
    ast.AnnAssign: Reader.read_declaration,
    ast.NamedExpr: Reader.read_walrus,
    ast.For: Reader.read_loop,
    ast.AsyncFor: Reader.read_loop,
    ast.With: Reader.read_with,
    ast.AsyncWith: Reader.read_with,
    ast.ExceptHandler: Reader.read_except,
    ast.ListComp: Reader.read_comprehension,
    ast.SetComp: Reader.read_comprehension,
    ast.GeneratorExp: Reader.read_comprehension,
    ast.DictComp: Reader.read_comprehension,
    ast.MatchAs: Reader.read_pattern,
    ast.MatchStar: Reader.read_pattern,
    ast.Global: Reader.read_shared,
    ast.Nonlocal: Reader.read_shared,
    ast.Return: Reader.read_return,
    ast.Yield: Reader.read_yield,
    ast.Import: Reader.read_import,
    ast.ImportFrom: Reader.read_import_from,
    ast.Call: Reader.read_call,
}


def read_python(rel: str, tree: ast.Module) -> tuple[Facts, Facts]:
    """(what other files may ask about this one, what only its own nodes and edges are made of)."""
    reader = Reader(rel)
    reader.read_all(tree.body)
    shared = {
        "symbols": reader.symbols,
        "scopes": reader.scopes,
        "stars": reader.stars,
        "exports": reader.exports,
    }
    own = {
        "doc": ast.get_docstring(tree) or "",
        "told": reader.told,
        "imports": reader.imports,
        "calls": reader.calls,
        "lines": 0,
    }
    return shared, own
