"""Which file an import means, as Python itself would find it, without importing anything.

Called by values.py and link.py. Read: Modules -> find -> from_folder.

A name is looked for in the root, in the folder above the importer's outermost package, beside a
script that is in no package, and last in any one folder that holds packages (a `src` layout). What
is found nowhere belongs to somebody else's library.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

Place = tuple[str, str]  # ("file", rel) | ("folder", rel) | ("external", dotted name)


class Modules:
    """The modules of a repository. `inside`: the root's own package name, '' when it is none."""

    def __init__(self, files: Iterable[str], inside: str = "") -> None:
        self.files = {rel for rel in files if rel.endswith(".py")}
        self.inside = inside
        self.folders: set[str] = set()
        for rel in self.files:
            folder = parent(rel)
            while folder and folder not in self.folders:
                self.folders.add(folder)
                folder = parent(folder)
        self.bases = sorted({self.base_of(rel) for rel in self.files} | {""})
        self.found: dict[tuple[str, str], Place] = {}

    def base_of(self, rel: str) -> str:
        """The folder above the outermost package that `rel` is in."""
        folder = parent(rel)
        while folder and f"{folder}/__init__.py" in self.files:
            folder = parent(folder)
        return folder

    def find(self, module: str, level: int, importer: str) -> Place:
        """The place of `module` as imported `level` dots up from the file `importer`."""
        here = parent(importer)
        key = (module, f"{level} {here}")
        if key not in self.found:
            self.found[key] = (
                self.relative(module, level, here) if level else self.absolute(module, importer)
            )
        return self.found[key]

    def relative(self, module: str, level: int, here: str) -> Place:
        """`from ..a import b`: so many folders up, then down again."""
        folder = here
        for _ in range(level - 1):
            folder = parent(folder)
        name = ".".join(part for part in (folder.replace("/", "."), module) if part)
        place = self.from_folder(folder, module) if module else self.at(folder)
        return place or ("external", f"{self.inside}.{name}".strip("."))

    def absolute(self, module: str, importer: str) -> Place:
        """`import a.b`, in the order Python would look."""
        if self.inside:
            first = f"{self.inside}."
            if f"{module}.".startswith(first):
                rest = module[len(first) :]
                place = self.from_folder("", rest) if rest else self.at("")
                return place or ("external", module)
        here = parent(importer)
        tried = ["", self.base_of(importer)]
        if f"{here}/__init__.py" not in self.files:
            tried.append(here)
        for base in dict.fromkeys(tried):
            place = None if self.inside and not base else self.from_folder(base, module)
            if place:
                return place
        elsewhere = {self.from_folder(base, module) for base in self.bases} - {None}
        if len(elsewhere) == 1 and not self.inside:
            return elsewhere.pop() or ("external", module)
        return "external", module

    def from_folder(self, base: str, module: str) -> Place | None:
        """`a.b` below `base`: a file, a package, or a plain folder with Python files in it."""
        if not module:
            return None
        path = f"{base}/" * bool(base) + module.replace(".", "/")
        if f"{path}.py" in self.files and f"{path}/__init__.py" not in self.files:
            return "file", f"{path}.py"
        place = self.at(path)
        if place and place[0] == "folder" and module.split(".")[0] in sys.stdlib_module_names:
            return None  # an installed package goes before a plain folder
        return place

    def at(self, folder: str) -> Place | None:
        """What a folder is: a package, a folder with Python files in it, or nothing."""
        init = f"{folder}/__init__.py" if folder else "__init__.py"
        if init in self.files:
            return "file", init
        return ("folder", folder) if folder in self.folders else None

    def below(self, place: Place, name: str) -> Place | None:
        """The submodule `name` of a package or folder."""
        if place[0] == "external":
            return "external", f"{place[1]}.{name}"
        if place[0] == "file" and not is_package(place[1]):
            return None
        folder = parent(place[1]) if place[0] == "file" else place[1]
        return self.from_folder(folder, name)


def parent(rel: str) -> str:
    return rel.rpartition("/")[0]


def is_package(rel: str) -> bool:
    return rel == "__init__.py" or rel.endswith("/__init__.py")


def package_around(root: Path) -> str:
    """'fastapi.security' when the root is that folder inside an installed package; else ''."""
    names = []
    folder = root.resolve()
    while (folder / "__init__.py").exists() and folder.parent != folder:
        names.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(names))
