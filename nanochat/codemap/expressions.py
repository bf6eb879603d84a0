"""Code expressions in a short form that can be stored: enough to ask later what a value is.

Called by syntax.py; read by values.py. A form is a list whose first item says what it is:

    ["n", name]            a name               ["k", type]     a constant: str, int, ...
    [".", form, name]      an attribute         ["t", items]    a tuple
    ["()", form, args]     a call               ["l", items]    a list or set
    ["[]", form, index]    an item              ["d", values]   a dict
    ["e", form]            what a loop takes    ["|", forms]    one of these
    ["w", form]            what `with` gives    ["@", scope, form]  seen from another scope
    ["of", form]           an instance of       ["lambda"]      a function without a name
    ["op", left, right]    left + right         ["#", n], [":"] an index: a number, a slice

None stands for what we don't follow (arithmetic, comparisons of unknown things). Read: encode ->
encode_annotation -> render.
"""

import ast
from typing import Any

Form = list[Any] | None
MOST_ITEMS = 12  # of a literal: enough to know what is in it
MOST_ARGS = 4


def encode(node: ast.expr | None) -> Form:
    """An expression of the program as a form."""
    kind = type(node)
    if kind is ast.Name:
        return ["n", node.id]  # type: ignore[union-attr]
    if kind is ast.Attribute:
        inner = encode(node.value)  # type: ignore[union-attr]
        return [".", inner, node.attr]  # type: ignore[union-attr]
    if kind is ast.Constant:
        value = node.value  # type: ignore[union-attr]
        return ["k", type(value).__name__]
    reader = OTHERS.get(kind)
    return reader(node) if reader else None


def encode_call(node: ast.Call) -> Form:
    function = encode(node.func)
    args = [encode(arg) for arg in node.args[:MOST_ARGS]]
    return ["()", function, args] if function else None


def encode_item(node: ast.Subscript) -> Form:
    """`a[b]`; the index as a number, a slice or a form."""
    value = encode(node.value)
    index = node.slice
    if isinstance(index, ast.Constant) and isinstance(index.value, int):
        return ["[]", value, ["#", index.value]] if value else None
    if isinstance(index, ast.Slice):
        return ["[]", value, [":"]] if value else None
    return ["[]", value, encode(index)] if value else None


def encode_choice(*nodes: ast.expr) -> Form:
    forms = [form for form in map(encode, nodes) if form]
    return ["|", forms] if len(forms) > 1 else forms[0] if forms else None


def encode_operation(node: ast.BinOp) -> Form:
    """`A | B` may be a type; `text + more` and `path / name` are what their left side is."""
    if isinstance(node.op, ast.BitOr):
        return encode_choice(node.left, node.right)
    left, right = encode(node.left), encode(node.right)
    return ["op", left, right] if left else None


def encode_many(kind: str, nodes: list[ast.expr]) -> Form:
    return [kind, [encode(node) for node in nodes[:MOST_ITEMS]]]


def encode_comprehension(
    node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp,
) -> Form:
    """A list (or dict) of its element, seen from the scope which syntax.py gave it."""
    kind, result = ("d", node.value) if isinstance(node, ast.DictComp) else ("l", node.elt)
    scope = getattr(node, "scope", None)
    return [kind, [["@", scope, encode(result)]]] if scope is not None else None


OTHERS: dict[type, Any] = {
    ast.ListComp: encode_comprehension,
    ast.SetComp: encode_comprehension,
    ast.GeneratorExp: encode_comprehension,
    ast.DictComp: encode_comprehension,
    ast.Call: encode_call,
    ast.Subscript: encode_item,
    ast.IfExp: lambda node: encode_choice(node.body, node.orelse),
    ast.BoolOp: lambda node: encode_choice(*node.values),
    ast.BinOp: encode_operation,
    ast.Await: lambda node: encode(node.value),
    ast.NamedExpr: lambda node: encode(node.value),
    ast.Starred: lambda node: None,
    ast.Tuple: lambda node: encode_many("t", node.elts),
    ast.List: lambda node: encode_many("l", node.elts),
    ast.Set: lambda node: encode_many("l", node.elts),
    ast.Dict: lambda node: encode_many("d", node.values),
    ast.JoinedStr: lambda node: ["k", "str"],
    ast.Compare: lambda node: ["k", "bool"],
    ast.Lambda: lambda node: ["lambda"],
}


def encode_annotation(node: ast.expr | None) -> Form:
    """A type as written after `:` or `->`; text in quotes is read as the type it spells."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return encode_annotation(ast.parse(node.value.strip(), mode="eval").body)
        except SyntaxError:
            return None
    if isinstance(node, ast.Subscript):
        value = encode_annotation(node.value)
        if not value or value[-1] == "Literal":
            return value
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return ["[]", value, ["t", [encode_annotation(part) for part in inner[:MOST_ITEMS]]]]
    if isinstance(node, ast.BinOp):
        sides = [encode_annotation(node.left), encode_annotation(node.right)]
        return ["|", [side for side in sides if side]]
    if isinstance(node, ast.List):  # the arguments of a Callable
        return ["l", []]
    return encode(node)


def render(form: Form) -> str:
    """A form as text a reader recognises; what was not kept is an ellipsis."""
    if not form:
        return "…"
    kind = form[0]
    if kind == "n":
        return str(form[1])
    if kind == ".":
        return f"{render(form[1])}.{form[2]}"
    if kind == "()":
        return f"{render(form[1])}(…)"
    if kind == "[]":
        return f"{render(form[1])}[…]"
    if kind == "k":
        return {"str": '"…"'}.get(form[1], f"{form[1]} constant")
    if kind == "@":
        return render(form[2])
    return {"l": "[…]", "t": "(…)", "d": "{…}", "lambda": "lambda"}.get(kind, "(…)")
