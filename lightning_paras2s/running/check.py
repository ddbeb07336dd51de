"""What was typed, and what configs say, checked against the source before anything heavy is imported: unknown options,
unknown classes, values that are no choice and no number (nan), files that are not there.

What cannot be judged from the source (classes of other packages, types of numbers) is left to the real parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.named import (
    close,
    is_own,
    named_wrongly,
    only_class,
    options_of_class,
    own_lacks,
    own_wrongly,
    short,
)
from lightning_paras2s.running.options import PROGRAM, options_of
from lightning_paras2s.running.shipped import remedy
from lightning_paras2s.running.source import PACKAGE, Option, class_index
from lightning_paras2s.running.yaml_files import Loader, read_yaml

HELP = ("help", "h")
FLAGS = (*HELP, "json", "check", "print_config")  # options that stand alone
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


@dataclass(frozen=True)
class Typed:
    """One argument: `model.lr` and its value; None where none was given."""

    key: str
    value: str | None


def split(argv: list[str], switches: frozenset[str]) -> list[Typed]:
    """Arguments in pairs. `switches` are options of true or false, which may stand alone.

    Raises:
        UserError: a value without an option.
    """
    found, i = [], 0
    while i < len(argv):
        argument, i = argv[i], i + 1
        if not argument.startswith("-"):
            raise UserError(f"an argument must be an option (--name value); got {argument!r} after no option")
        key, given, value = argument.lstrip("-").partition("=")
        key = "config" if key == "c" else key
        if not given and key not in FLAGS and i < len(argv):
            if not (key in switches and argv[i].startswith("--")):
                value, given, i = argv[i], "=", i + 1
        found.append(Typed(key, value if given else None))
    return found


def switches_of(options: tuple[Option, ...]) -> frozenset[str]:
    """Options of true or false."""
    return frozenset(o.name for o in options if o.holds("bool"))


def check(command: str, argv: list[str], files: bool = True) -> dict[str, Any]:
    """All that configs and options say together, as one tree.

    Args:
        files: whether the files that they name must be there: not where an earlier command makes some of them.

    Raises:
        UserError: the first that can't be.
    """
    options = options_of(command)
    typed = split(argv, switches_of(options))
    printed = any(one.key == "print_config" for one in typed)
    checker, tree = Checker(command, options, files and not printed), {}
    for one in typed:
        if one.key in FLAGS and one.value is not None and one.key != "print_config":
            raise UserError(f"--{one.key} takes no value; got {one.value!r}; leave it out")
        if one.key == "config" and one.value is not None and not any(o.name == "config" and o.type for o in options):
            checker.origin = one.value
            tree = checker.merge(tree, read_yaml(one.value))
        elif one.key not in (*HELP, "print_config") and not one.key.endswith(".help"):
            checker.origin = ""
            tree = checker.merge(tree, nested(one.key.rstrip("+"), parsed(one.value)))
    checker.origin = ""
    named = [o for o in options if o.holds("InputPath") and o.item is o]  # the default of a list is an empty one
    paths = {o.name: o for o in named if o.default not in (None, "null")}
    for name, option in paths.items():
        if name not in tree:
            checker.look(option, option.default, name)
    checker.require({name: option.default for name, option in paths.items()} | tree)
    return tree


def parsed(value: str | None) -> Any:
    """A value from the command line; what is no YAML is text."""
    try:
        return None if value is None else yaml.load(value, Loader)  # noqa: S506
    except yaml.YAMLError:
        return value


class Within(dict):
    """What a dotted name says of a dict's entries: the others stay. A dict that is given whole replaces all, as with
    the real parser."""


def nested(key: str, value: Any) -> dict[str, Any]:
    """a.b.c -> {a: {b: {c: value}}}."""
    for part in reversed(key.split(".")):
        value = Within({part: value})
    return value


def texts_at(tree: Any, keys: list[str]) -> list[Any]:
    """What stands at an option's name; a class's options lie under `init_args`, and a list's items share its name."""
    if isinstance(tree, list):
        return [text for item in tree for text in texts_at(item, keys)]
    if not keys:
        return [tree]
    if not isinstance(tree, dict):
        return []
    for inside in (tree, tree.get("init_args")):
        for count in range(1, len(keys) + 1):  # a system's name may hold dots (gpt-4.1)
            if isinstance(inside, dict) and (name := ".".join(keys[:count])) in inside:
                return texts_at(inside[name], keys[count:])
    return []


class Checker:
    """Merges one source of options after another, and checks each.

    Args:
        files: whether files must be there: not where nothing is run.
    """

    def __init__(self, command: str, options: tuple[Option, ...], files: bool) -> None:
        self.command, self.options, self.files = command, options, files
        self.origin = ""  # the config that is read; "" = the command line
        self.absent: dict[tuple[str, str], str] = {}  # option and a file that is not there -> where it was named
        self.nulls: dict[str, str] = {}  # a path that is null -> where that was said
        self.own: dict[tuple[str, str], tuple[Option, str]] = {}  # likewise, of one's own classes; the option itself

    def merge(self, tree: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        return self._group(self.options, tree, more, "", f"{self.command}")

    def _group(self, options: tuple[Option, ...], tree: Any, more: dict[str, Any], where: str, owner: str) -> Any:
        known = {o.name: o for o in options}
        merged = dict(tree) if isinstance(tree, dict) else {}
        for key, value in more.items():
            if key not in known:
                raise self._unknown(str(key), options, where, owner)
            merged[key] = self._value(known[key], merged.get(key), value, f"{where}{key}")
        return merged

    def _value(self, option: Option, before: Any, value: Any, where: str) -> Any:
        if option.group is not None:
            return self._group(option.group, before, value, f"{where}.", where) if isinstance(value, dict) else value
        if value is None:
            if option.holds("InputPath") and not option.takes_null and option.default != "":
                self.nulls[where] = self._at(where)
            return None
        if option.holds("dict") and isinstance(value, dict) and option.item is not option:
            before = before if isinstance(before, dict) else {}
            found = {k: self._value(option.item, before.get(k), v, f"{where}.{k}") for k, v in value.items()}
            return {**before, **found} if isinstance(value, Within) else found
        if isinstance(value, list):
            return [self._value(option.item, None, v, where) for v in value]
        if isinstance(value, dict) and (option.classes or "class_path" in value):
            return self._instance(option, before, value, where)
        if isinstance(value, str) and option.classes:
            return self._named(option, value, where)
        self._scalar(option, value, where)
        return value

    def _instance(self, option: Option, before: Any, value: dict[str, Any], where: str) -> Any:
        """A class with its options: {class_path, init_args}, or options alone, of the class that was named before."""
        before = {"class_path": before} if isinstance(before, str) else before if isinstance(before, dict) else {}
        name = value.get("class_path") or before.get("class_path") or only_class(option)
        arguments = value.get("init_args")
        more = dict(arguments) if isinstance(arguments, dict) else {}
        more |= {k: v for k, v in value.items() if k not in CLASS_KEYS}
        if "class_path" in value:
            self._named(option, str(value["class_path"]), where)
        options = None if name is None else options_of_class(str(name))
        kept = before.get("init_args", {})
        if name != before.get("class_path", name):  # as the parser does: what the new class knows, too, stays
            kept = {o.name: kept[o.name] for o in options or () if o.name in kept}
        if options is None:
            return {"class_path": name, "init_args": {**kept, **more}}
        found = self._group(options, kept, more, f"{where}.", short(str(name)))
        return {"class_path": name, "init_args": found}

    def _named(self, option: Option, name: str, where: str) -> str:
        """A class's name: one of the package's, or the path of one's own."""
        wrong = named_wrongly(option, name)
        if wrong:
            raise UserError(f"{self._at(where)} {wrong}")
        if is_own(name) and not option.holds("str") and not option.holds("InputPath"):
            self.own[where, name] = option, self._at(where)
        return name

    def _scalar(self, option: Option, value: Any, where: str) -> None:
        choices = option.choices
        if choices and str(value) not in choices:
            near = close(str(value), list(choices))
            raise UserError(
                f"{self._at(where)} must be one of {', '.join(choices)}; got {value!r}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
        if option.holds("float") and str(value).lower().strip("+-.") == "nan":  # every comparison with it is false
            raise UserError(f"{self._at(where)} must be a number; got {value}")
        self.look(option, value, where)

    def look(self, option: Option, value: Any, where: str) -> None:
        """Note a path that is not there."""
        if self.files and option.holds("InputPath") and is_absent(value, option):
            self.absent[where, value] = self._at(where)

    def require(self, tree: dict[str, Any]) -> None:
        """What the tree still names must be there; what another option has replaced need not.

        Raises:
            UserError: the first file or class that is not.
        """
        for where, told in self.nulls.items():
            if None in texts_at(tree, where.split(".")):
                raise UserError(f"{told} must be a file or folder that is there; got null; name one, or leave it out")
        for (where, value), told in self.absent.items():
            if value in texts_at(tree, where.split(".")):
                raise UserError(f"{told} must be a file or folder that is there; got {value}; {remedy(Path(value))}")
        for (where, name), (option, told) in self.own.items():
            ends = texts_at(tree, where.split("."))
            named = [end.get("class_path") if isinstance(end, dict) else end for end in ends]
            wrong = own_wrongly(option, name) if name in named else ""
            for end in ends if not wrong else ():
                if isinstance(end, dict) and end.get("class_path") == name:
                    wrong = wrong or own_lacks(name, end.get("init_args") or {})
            if wrong:
                raise UserError(f"{told} {wrong}")

    def _at(self, where: str) -> str:
        return f"--{where}" if not self.origin else f"{where} in {self.origin}"

    def _unknown(self, key: str, options: tuple[Option, ...], where: str, owner: str) -> UserError:
        found = [f"{'' if self.origin else '--'}{where}{name}" for name in similar(key, options)]
        place = f" in {self.origin}" if self.origin else ""
        shown = f"{PROGRAM} {self.command} --help"
        if owner in class_index():
            shown = f"{PROGRAM} {self.command} --{where.rstrip('.')}.help {owner}"
        meant = f"; did you mean {' or '.join(found)}?" if found else ""
        name = f"{'' if self.origin else '--'}{where}{key}"
        return UserError(f"{owner} has no option {name}{place}{meant or ';'} `{shown}` lists all")


def is_absent(value: Any, option: Option) -> bool:
    """Whether it is the path of a file or folder that is neither here nor among the package's; what the option takes
    besides a path ("embedded") is none."""
    if not isinstance(value, str) or not value or value in option.words:
        return False
    return not Path(value).exists() and not (PACKAGE / value).exists()


def similar(key: str, options: tuple[Option, ...]) -> list[str]:
    """Names that may have been meant: alike, beginning alike, or told by their help to be what was typed (G)."""
    names = [o.name for o in options]
    lower = key.lower()
    symbol = [o.name for o in options if re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", o.help)] if key else []
    begin = [n for n in names if n.startswith(lower) or lower.startswith(n + "_")]
    within = [n for n in names if len(lower) > 2 and lower in n]
    squeezed = [n for n in names if n.replace("_", "") == lower.replace("_", "")]
    found = [*squeezed, *close(lower, names), *(symbol if len(key) < 3 else []), *begin, *within]
    return list(dict.fromkeys(found))[:3]
