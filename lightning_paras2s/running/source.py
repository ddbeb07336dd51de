"""What commands and classes can be told, read from the source alone: importing it would take seconds.

An `Option` is one argument of a command or a constructor: its type and default as they are written, its help from the
entry of the docstring, or of one that a class builds on. `test_options.py` compares the names with the real parsers'.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import lightning_paras2s

PACKAGE = Path(lightning_paras2s.__file__).parent
CLASS = re.compile(r"^class (\w+)(?:\(([^)]*)\))?:", re.MULTILINE)
ENTRY = re.compile(r"^(\w+)(?: \(.*?\))?:(?: (.*))?$")
SECTIONS = ("Args:", "Attributes:")
READ = (PACKAGE.name, "lightning")  # packages whose source is read


@dataclass(frozen=True)
class Option:
    """One argument.

    Attributes:
        type: as annotated; None where it is not.
        default: as written; None where a value is required.
        help: the docstring's entry; "" where it has none.
        module: dotted name of the module where it is declared, in which `type` is read.
        group: options below this one (`trainer.max_steps`), where it is no value itself.
    """

    name: str
    type: ast.expr | None = None
    default: str | None = None
    help: str = ""
    module: str = ""
    group: tuple[Option, ...] | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a closed choice; empty where it is open."""
        return self.words if all(is_word(part) for part in self._parts) else ()

    @property
    def words(self) -> tuple[str, ...]:
        """The values that the type spells out, of a closed choice or beside another type."""
        literals = [part.slice for part in self._parts if isinstance(part, ast.Subscript) and is_word(part)]
        values = [v for one in literals for v in (one.elts if isinstance(one, ast.Tuple) else [one])]
        return tuple(str(ast.literal_eval(v)) for v in values)

    @property
    def _parts(self) -> list[ast.expr]:
        return [value_of(self.module, part) for part in alternatives(self.type)]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the package's classes in the type."""
        names = [] if self.type is None else [name_of(node) for node in ast.walk(self.type)]
        return tuple(dict.fromkeys(n for n in names if n in class_index() or n in OUTSIDE))

    def holds(self, name: str) -> bool:
        """Whether the type is made with `name` (list, dict, InputPath ...)."""
        return self.type is not None and name in {name_of(node) for node in ast.walk(self.type)}

    @property
    def takes_null(self) -> bool:
        return any(isinstance(part, ast.Constant) and part.value is None for part in alternatives(self.type))

    @property
    def item(self) -> Option:
        """What a list or dict holds, under the same name."""
        for part in alternatives(self.type):
            if isinstance(part, ast.Subscript) and name_of(part.value) in ("list", "Sequence", "Iterable", "dict"):
                inner = part.slice.elts[-1] if isinstance(part.slice, ast.Tuple) else part.slice
                return Option(self.name, inner, self.default, self.help, self.module)
        return self


# Bases from other packages that a config's classes are asked for by.
OUTSIDE = ("LightningModule", "LightningDataModule", "Callback", "Logger")


def alternatives(type_: ast.expr | None) -> list[ast.expr]:
    """A | B -> [A, B]."""
    if isinstance(type_, ast.BinOp):
        return [*alternatives(type_.left), *alternatives(type_.right)]
    return [] if type_ is None else [type_]


def is_word(part: ast.expr) -> bool:
    """Whether a type is a Literal or None."""
    if isinstance(part, ast.Subscript):
        return name_of(part.value) == "Literal"
    return isinstance(part, ast.Constant) and part.value is None


def name_of(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@cache
def path_of(module: str) -> Path | None:
    """A module's file; its parents are not imported."""
    top, *rest = module.split(".")
    spec = find_spec(top) if top in READ else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def tree_of(module: str) -> ast.Module:
    path = path_of(module)
    return ast.parse("" if path is None else path.read_text(encoding="utf-8"))


@cache
def names_in(module: str) -> dict[str, ast.AST]:
    """Top-level name -> its definition, value, or import."""
    found: dict[str, ast.AST] = {}
    for node in tree_of(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
        elif isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
    return found


def find(module: str, name: str) -> tuple[str, ast.AST | None]:
    """Where a name that a module uses is defined, and as what."""
    for _ in range(5):  # through imports
        node = names_in(module).get(name)
        if not isinstance(node, ast.ImportFrom):
            return module, node
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        module, name = node.module or "", original
    return module, None


def value_of(module: str, node: ast.expr) -> ast.expr:
    """What a name stands for, where that is written in a module; else the name."""
    if not isinstance(node, ast.Name):
        return node
    found = find(module, node.id)[1]
    return found if isinstance(found, ast.expr) else node


@cache
def class_index() -> dict[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """Name -> (module, names of its bases) of each of the package's classes of this name."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
        for name, bases in CLASS.findall(path.read_text(encoding="utf-8")):
            parents = tuple(re.sub(r"\[.*", "", b).strip().split(".")[-1] for b in bases.split(","))
            found.setdefault(name, []).append((module.removesuffix(".__init__"), parents))
    return {name: tuple(rows) for name, rows in found.items()}


@cache
def ancestors(name: str) -> frozenset[str]:
    """Names of a class and of all that it builds on."""
    found = {name}
    for _, bases in class_index().get(name, ()):
        for base in bases:
            found |= ancestors(base) if base != name else set()
    return frozenset(found)


def subclasses(base: str) -> list[str]:
    """The package's classes that can be chosen where `base` is asked for."""
    return sorted(n for n in class_index() if base in ancestors(n) and not n.startswith("_") and not is_abstract(n))


def reachable(options: Iterable[Option]) -> list[str]:
    """The package's classes that can be named where these options are given, and below."""
    found: set[str] = set()
    todo = [o for option in options for o in (option.group or (option,))]
    while todo:
        for base in todo.pop().classes:
            for name in {base, *subclasses(base)} & set(class_index()) - found:
                found.add(name)
                todo += class_options(name) or ()
    return sorted(found)


def is_abstract(name: str) -> bool:
    """Whether it, or what it builds on, leaves a method to its subclasses."""
    open_, done = set(), set()
    for one in ancestors(name):
        for module, bases in class_index().get(one, ()):
            if one == name and "ABC" in bases:
                return True
            for method in (m for m in names_in(module)[one].body if isinstance(m, ast.FunctionDef)):
                left = any(name_of(d) == "abstractmethod" for d in method.decorator_list)
                (open_ if left else done).add(method.name)
    return bool(open_ - done)


def class_options(name: str, module: str | None = None) -> tuple[Option, ...] | None:
    """A constructor's options; None for a class whose source is not the package's."""
    if module is None:
        if name not in class_index():
            return None
        module = class_index()[name][0][0]
    module, node = find(module, name)
    if not isinstance(node, ast.ClassDef):
        return None
    helps = helps_of(node, module)
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return arguments(method, helps | entries(ast.get_docstring(method) or ""), module)[1:]
    decorators = {name_of(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list}
    inherited = [class_options(name_of(base), module) for base in node.bases if name_of(base)]
    before = next((found for found in inherited if found is not None), None)
    if "dataclass" in decorators or "NamedTuple" in {name_of(b) for b in node.bases}:
        return (*(before or ()), *fields(node, helps, module))
    return before if inherited else ()


def helps_of(node: ast.ClassDef, module: str) -> dict[str, str]:
    """Name -> help, by a class's docstring, else by those of the package's classes that it builds on."""
    found: dict[str, str] = {}
    for base in reversed([b for b in node.bases if name_of(b) in class_index()]):
        place, definition = find(module, name_of(base))
        found |= helps_of(definition, place) if isinstance(definition, ast.ClassDef) else {}
    return found | entries(ast.get_docstring(node) or "")


def fields(node: ast.ClassDef, helps: dict[str, str], module: str) -> list[Option]:
    """Of a dataclass or a NamedTuple."""
    lines = [(n.target.id, n) for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return [option_of(name, n.annotation, n.value, helps.get(name, ""), module) for name, n in lines]


def function_options(module: str, name: str) -> tuple[Option, ...]:
    node = names_in(module)[name]
    return arguments(node, entries(ast.get_docstring(node) or ""), module)


def about(module: str, name: str) -> str:
    """The docstring of a function or class up to its first section."""
    module, node = find(module, name)
    doc = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
    lines = (doc or "").splitlines()
    end = next((i for i, line in enumerate(lines) if line in (*SECTIONS, "Returns:", "Raises:")), len(lines))
    return "\n".join(lines[:end]).strip()


def arguments(node: ast.FunctionDef, helps: dict[str, str], module: str) -> tuple[Option, ...]:
    """Of a function or method, `self` among them."""
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(positional) - len(node.args.defaults)) + [*node.args.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return tuple(option_of(a.arg, a.annotation, default, helps.get(a.arg, ""), module) for a, default in pairs)


def option_of(name: str, type_: ast.expr | None, default: ast.expr | None, help: str, module: str) -> Option:
    return Option(name, type_, None if default is None else text_of(default, module), help, module)


def text_of(default: ast.expr, module: str) -> str:
    """A default as a user types it; a constant's name gives its value."""
    value = value_of(module, default)
    try:
        found = ast.literal_eval(value)
    except ValueError:
        return ast.unparse(default)
    return "null" if found is None else found if isinstance(found, str) and found else ast.unparse(value)


def entries(doc: str) -> dict[str, str]:
    """Name -> help, of a docstring's sections of arguments (Google's style), each entry with a name of its own."""
    found: dict[str, str] = {}
    indent, name, inside = 0, "", False
    for line in doc.splitlines():
        depth = len(line) - len(line.lstrip())
        if line.strip() in SECTIONS:
            inside, indent, name = True, depth, ""
        elif inside and line.strip() and depth <= indent:
            inside = False
        elif inside and depth == indent + 4:
            match = ENTRY.match(line.strip())
            name = match[1] if match else ""
            if match:
                found[name] = match[2] or ""
        elif inside and name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
