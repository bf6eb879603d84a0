"""What little must be known about Python's own library to follow a value through it.

Called by values.py. A table entry is a fact of the documentation; what stands in no table stays
unknown. Read: CLASSES -> KEEPERS -> library_call -> method_call -> element_of, item_of, enter_of.
"""

import builtins
from typing import TYPE_CHECKING, Any

from nanochat.codemap.expressions import Form

if TYPE_CHECKING:
    from nanochat.codemap.values import Many, Value, Values

# Calling one of these gives an instance of it.
CLASSES = {
    *("pathlib.Path", "pathlib.PurePath", "collections.deque", "collections.Counter"),
    *("collections.OrderedDict", "collections.defaultdict", "random.Random", "io.BytesIO"),
    *("io.StringIO", "threading.Thread", "threading.Event", "threading.Condition"),
    *("queue.Queue", "subprocess.Popen", "argparse.ArgumentParser", "fractions.Fraction"),
    *("decimal.Decimal", "datetime.datetime", "datetime.timedelta", "contextlib.ExitStack"),
    *("torch.Generator", "torch.nn.Embedding", "torch.nn.Linear", "torch.nn.Parameter"),
}
# These give back what they are given, or the items of it in another box.
SAME = {"copy.copy", "copy.deepcopy", "dataclasses.replace", "functools.partial"}
KEEPERS = {
    *("list", "set", "frozenset", "tuple", "sorted", "reversed", "iter", "filter"),
}
KEEPERS_ELSEWHERE = {
    *("collections.deque", "torch.nn.ModuleList", "itertools.islice", "itertools.cycle"),
}
DICTS = {"dict", "Mapping", "MutableMapping", "defaultdict", "OrderedDict", "Counter"}
# method -> the type it gives, for the types everything is made of
TEXT = (
    *("capitalize", "casefold", "center", "expandtabs", "format", "format_map", "join", "ljust"),
    *("lower", "lstrip", "removeprefix", "removesuffix", "replace", "rjust", "rstrip", "strip"),
    *("swapcase", "title", "translate", "upper", "zfill"),
)
PATH = (
    *("resolve", "absolute", "expanduser", "with_name", "with_suffix", "with_stem", "joinpath"),
    *("relative_to", "rename", "replace", "readlink"),
)
RETURNS = {
    "builtins.str": {
        **dict.fromkeys(TEXT, "builtins.str"),
        **dict.fromkeys(("split", "rsplit", "splitlines", "partition"), "list of builtins.str"),
        "encode": "builtins.bytes",
    },
    "builtins.bytes": {"decode": "builtins.str", "hex": "builtins.str"},
    "pathlib.Path": {
        **dict.fromkeys(PATH, "pathlib.Path"),
        **dict.fromkeys(("read_text", "as_posix"), "builtins.str"),
        **dict.fromkeys(("glob", "rglob", "iterdir"), "list of pathlib.Path"),
        "read_bytes": "builtins.bytes",
    },
}


def library_call(values: "Values", dotted: str, asked: tuple[list[Form], str, int]) -> "Many":
    """What calling something of a library gives, where that is known."""
    module, _, short = dotted.rpartition(".")
    args, rel, scope = asked

    def arg(at: int) -> "Many":
        return values.eval(args[at], rel, scope) if at < len(args) else ()

    if module == "typing" and short == "TypeVar":
        return (("typevar", ""),)
    if dotted == "typing.cast":
        return values.types.instances(args[0], rel, scope) if args else ()
    if dotted in SAME:
        return arg(0)
    if (module == "builtins" and short in KEEPERS) or dotted in KEEPERS_ELSEWHERE:
        box = arg(1) if short == "filter" else arg(0)
        inside = merged([element_of(values, value) for value in box])
        name = "builtins.list" if short in ("sorted", "reversed", "iter", "filter") else dotted
        return (("xobj", name, (inside,)),)
    if module == "builtins" and short in ("next", "min", "max"):
        return merged([element_of(values, value) for value in arg(0)])
    if module == "builtins" and short == "enumerate":
        inside = merged([element_of(values, value) for value in arg(0)])
        return (("xobj", "builtins.list", ((("tup", (INT, inside)),),)),)
    if module == "builtins" and short == "zip":
        columns = tuple(
            merged([element_of(values, value) for value in arg(i)]) for i in range(len(args))
        )
        return (("xobj", "builtins.list", ((("tup", columns),),)),)
    if module == "builtins" and short == "dict":
        return tuple(v for v in arg(0) if v[0] == "xobj") or (("xobj", dotted, ()),)
    if dotted in CLASSES:
        return (("xobj", dotted, ()),)
    if module == "builtins" and isinstance(getattr(builtins, short, None), type):
        return (("xobj", dotted, ()),) if short not in ("type", "super", "object") else ()
    return ()


INT = (("xobj", "builtins.int", ()),)


def method_call(value: "Value") -> "Many":
    """What a method of a library's instance gives: the items of a dict, the parts of a text."""
    _, dotted, name, args = value
    if is_dict(dotted) and len(args) > 1:
        keys, items = args[0], args[1]
        if name == "items":
            return (("xobj", "builtins.list", ((("tup", (keys, items)),),)),)
        if name == "values":
            return (("xobj", "builtins.list", (items,)),)
        if name == "keys":
            return (("xobj", "builtins.list", (keys,)),)
        if name in ("get", "pop", "setdefault"):
            return items  # type: ignore[no-any-return]
    if name in ("pop", "popleft") and args:
        return args[0]  # type: ignore[no-any-return]
    if name in ("copy", "union", "__enter__"):
        return (("xobj", dotted, args),)
    gives = RETURNS.get(dotted, {}).get(name, "")
    if gives.startswith("list of "):
        return (("xobj", "builtins.list", ((("xobj", gives[8:], ()),),)),)
    return (("xobj", gives, ()),) if gives else ()


def is_dict(dotted: str) -> bool:
    return dotted.rpartition(".")[2] in DICTS


def merged(groups: "list[Many]") -> "Many":
    return tuple(dict.fromkeys(value for group in groups for value in group))[:12]


def element_of(values: "Values", value: "Value") -> "Many":
    """What a loop over `value` takes from it."""
    if value[0] == "tup":
        return merged(list(value[1]))
    if value[0] == "xobj":
        text = ((("xobj", "builtins.str", ()),),) if value[1] == "builtins.str" else ()
        inside = value[2] or text
        return inside[0] if inside else ()
    if value[0] == "obj":
        iterators = returns_of(values, value, "__iter__")
        return merged([element_of(values, it) for it in iterators if it != value])
    return ()


def item_of(values: "Values", value: "Value", index: Form) -> "Many":
    """value[index]; `index` is a number, a slice or anything."""
    kind = value[0]
    if index == [":"]:
        return (value,)
    if kind == "tup":
        at = index[1] if index and index[0] == "#" else None
        if at is not None and -len(value[1]) <= at < len(value[1]):
            return value[1][at]  # type: ignore[no-any-return]
        return merged(list(value[1]))
    if kind == "xobj":
        if is_dict(value[1]):
            return value[2][1] if len(value[2]) > 1 else ()
        return element_of(values, value)
    if kind == "obj":
        return returns_of(values, value, "__getitem__")
    return ()


def enter_of(values: "Values", value: "Value") -> "Many":
    """What `with value as x` binds x to."""
    if value[0] == "obj":
        return returns_of(values, value, "__enter__") or returns_of(values, value, "__aenter__")
    if value[0] == "xobj":  # a @contextmanager function promises an iterator of one thing
        short = value[1].rpartition(".")[2]
        if short in ("Iterator", "Generator", "AsyncIterator", "AsyncGenerator", "Iterable"):
            return value[2][0] if value[2] else ()
    return ()


def returns_of(values: "Values", value: "Value", method: str) -> "Many":
    """What a method of an instance of ours gives."""
    found: list[Any] = []
    for member in values.class_member(value, method):
        if member[0] == "fun":
            found.append(values.types.returned(member))
    return merged(found)
