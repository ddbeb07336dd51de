"""The classes that options name: the package's by their short names, one's own by their paths; what a name that is none
may have meant."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_paras2s.running.source import (
    PACKAGE,
    READ,
    Option,
    ancestors,
    class_index,
    class_options,
    is_abstract,
    names_in,
    subclasses,
)

STAGE_BASES = ("LightningModule", "LightningDataModule")  # of other packages; none of their own classes is a stage
SHOWN = 8  # names at most that an error lists of a module


def named_wrongly(option: Option, name: str) -> str:
    """What must hold of a class's name, and came; "" where the source tells nothing against it."""
    told = moved(name)
    if told is not None:
        return f"must name a class where it is; got {name}; write {told}"
    if name.startswith(f"{PACKAGE.name}."):
        return lacks_class(name)
    bases = [c for c in option.classes if c in class_index() or c in STAGE_BASES]
    if not bases or not re.fullmatch(r"\w+", name) or option.holds("str"):
        return ""
    fitting = sorted({s for base in bases for s in subclasses(base)})
    if name in class_index() and ancestors(name) & set(bases) and not is_abstract(name):
        return ""
    near = close(name, fitting)
    if bases == ["PerStream"]:
        return f"must be a number for both streams, or one for each: {{text: 1.0, audio: 1.0}}; got {name!r}"
    return (
        f"must be a {' or '.join(bases)}: {', '.join(fitting)}, or a class of your own by its path (package.Class); "
        f"got {name!r}{f'; did you mean {near[0]}?' if near else ''}"
    )


def moved(name: str) -> str | None:
    """Where a class is, of a path in the package that does not hold it: configs of old runs name such. Else None."""
    module, _, cls = name.rpartition(".")
    if module.split(".")[0] != PACKAGE.name or cls in names_in(module):
        return None
    return ".".join((class_index()[cls][0][0], cls)) if cls in class_index() else None


def lacks_class(name: str) -> str:
    """Of a path in the package: what is wrong; "" if it holds the class."""
    module, _, cls = name.rpartition(".")
    if cls in names_in(module):
        return ""
    near = [f"{class_index()[one][0][0]}.{one}" for one in close(cls, list(class_index()))[:1]]
    return f"must name a class that is there; got {name}" + "".join(f"; did you mean {one}?" for one in near)


def is_own(name: str) -> bool:
    """Whether it is the path of a class outside the package and Lightning."""
    return "." in name and all(part.isidentifier() for part in name.split(".")) and name.split(".")[0] not in READ


def own_wrongly(option: Option, path: str) -> str:
    """As `named_wrongly`, of the path of one's own class, which is imported."""
    found, there = None, ""
    for part in path.split("."):
        name = f"{there}.{part}".lstrip(".")
        inside = getattr(found, part, None)
        if inside is None:
            try:
                inside = import_module(name)
            except Exception as error:  # whatever one's own file raises
                if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                    return absent(path, there, part, found)
                told = " ".join(f"{type(error).__name__}: {error}".split())
                return f"must name a class that can be imported; got {path}, but {name} ends with {told}; mend it"
        found, there = inside, name
    kinds = {kind.__name__ for kind in getattr(found, "__mro__", ())}
    if kinds and option.classes and not kinds & set(option.classes):
        bases = " or ".join(option.classes)
        return f"must name a {bases}; got {path}, which is none; derive it (class {path.split('.')[-1]}({bases}))"
    return ""


def own_lacks(path: str, given: Iterable[str]) -> str:
    """Of options of one's own class, which can be imported: the first that its `__init__` does not take; "" if it takes
    all, or any."""
    module, _, name = path.rpartition(".")
    made = getattr(sys.modules.get(module), name, None)
    if not inspect.isclass(made) or not inspect.isfunction(made.__init__):
        return ""
    _, *taken = inspect.signature(made.__init__).parameters.values()
    names = [one.name for one in taken]
    key = next((key for key in given if key.split(".")[0].rstrip("+") not in names), None)
    if key is None or any(one.kind is one.VAR_KEYWORD for one in taken):
        return ""
    near = close(key, names)
    meant = f"; did you mean {near[0]}?" if near else ";"
    return (
        f"must have options that its class takes; {path} has no option {key}{meant} it has {', '.join(names) or 'none'}"
    )


def absent(path: str, there: str, part: str, found: Any) -> str:
    """Of a path whose beginning `there` could be imported as `found`, which has no such `part`."""
    names = contents(found)
    near = close(part, names)
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    where = f"{there} has no {part}; in it: {listed or 'nothing'}" if there else f"there is no module {part} here"
    meant = path.replace(f"{there}.{part}".lstrip("."), f"{there}.{near[0]}".lstrip("."), 1) if near else ""
    remedy = f"; did you mean {meant}?" if meant else "" if there else f" ({Path.cwd()}); start where its file lies"
    return f"must name a class that can be imported; got {path}: {where}{remedy}"


def contents(found: Any) -> list[str]:
    """Names of a module's own classes and of the modules in it; of the modules in this folder, where there is none."""
    folders = ["."] if found is None else getattr(found, "__path__", [])
    modules = [one.name for one in pkgutil.iter_modules(folders)]
    modules += [file.parent.name for folder in folders for file in Path(folder).glob("*/*.py")]  # without __init__.py
    if not isinstance(found, ModuleType):
        return sorted(set(modules))
    classes = [n for n, v in vars(found).items() if getattr(v, "__mro__", None) and v.__module__ == found.__name__]
    return sorted({n for n in (*classes, *modules) if not n.startswith("_")})


def only_class(option: Option) -> str | None:
    """The one class that a value can be of, where no name chooses."""
    found = [c for c in option.classes if c in class_index()]
    return found[0] if len(found) == 1 and len(subclasses(found[0])) == 1 else None


def options_of_class(name: str) -> tuple[Option, ...] | None:
    """Of a short or dotted name; None for a class whose source is not the package's."""
    return class_options(short(name), module_of(name))


def short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def module_of(name: str) -> str | None:
    """The module of a dotted name; None for a short one."""
    return name.rsplit(".", 1)[0] if "." in name else None


def close(name: str, names: list[str]) -> list[str]:
    """Up to three of the names that are written alike, the most alike first."""
    folded = {n.lower(): n for n in names}
    return [folded[n] for n in difflib.get_close_matches(name.lower(), folded, 3, 0.6)]
