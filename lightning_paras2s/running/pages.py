"""Help pages, 80 columns wide: of a command, and of a class that an option may name (`--model.help GRPOModule`)."""

from __future__ import annotations

import ast
import re
import textwrap

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.named import close, module_of, options_of_class, short
from lightning_paras2s.running.options import COMMANDS, PROGRAM, STAGES, options_of
from lightning_paras2s.running.source import (
    OUTSIDE,
    Option,
    about,
    alternatives,
    class_index,
    find,
    name_of,
    subclasses,
)

WIDTH = 80


def brief(command: str) -> str:
    """What a command does, in a line: its docstring up to the first stop."""
    if command in STAGES:
        return STAGES[command]
    return re.split(r"[.:;](?:\s|$)", " ".join(about(*COMMANDS[command].split(":")).split()))[0]


def command_page(command: str) -> str:
    """What `COMMAND --help` prints."""
    told = STAGES[command] if command in STAGES else about(*COMMANDS[command].split(":"))
    options = options_of(command)
    required = [o for o in options if o.default is None and o.group is None]
    usage = f"usage: {PROGRAM} {command} [--config NAME.yaml]"
    usage += "".join(f" --{o.name} {'CLASS' if is_class(o) else o.name.upper()}" for o in required)
    usage += " [--option value ...]"
    wrapped = textwrap.fill(usage, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    lines = [wrapped, "", paragraphs(told[0].upper() + told[1:]), ""]
    for option in options:
        lines += option_lines(option, "")
    return "\n".join([*lines, *class_hint(options)])


def class_page(name: str, where: str = "") -> str:
    """What `--model.help NAME` prints.

    Raises:
        UserError: no such class in the package.
    """
    options = options_of_class(name)
    if options is None:
        near = close(short(name), list(class_index()))
        raise UserError(
            f"help is there for the package's classes; got {name!r}"
            + (f"; did you mean {' or '.join(near)}?" if near else "; `--help` lists what an option may name")
        )
    module, _ = find(module_of(name) or class_index()[name][0][0], short(name))
    lines = [f"{short(name)}  ({module})", "", paragraphs(about(module, short(name))), ""]
    for option in options:
        lines += option_lines(option, f"{where}." if where else "")
    return "\n".join([*lines, *class_hint(options)])


def class_hint(options: tuple[Option, ...]) -> list[str]:
    option = next((o for o in options if is_class(o)), Option(""))
    chosen = [c for base in option.classes for c in subclasses(base)]
    told = f"--{option.name}.help {chosen[0]} shows that class's options; likewise for every class." if chosen else ""
    return textwrap.wrap(told, WIDTH, break_on_hyphens=False)


def option_lines(option: Option, prefix: str) -> list[str]:
    """One option: its name, type and default in a line, its help below."""
    if option.group is not None:
        lines = [f"--{prefix}{option.name}.OPTION: {option.help}", ""]
        return [*lines, *(line for one in option.group for line in option_lines(one, f"{prefix}{option.name}."))]
    value = "" if not option.default else f" = {short_default(option.default)}"
    needed = "  (required)" if option.default is None else ""
    head = f"--{prefix}{option.name} {type_text(option)}{value}{needed}".strip()
    lines = textwrap.wrap(head, WIDTH, subsequent_indent="        ", break_long_words=False, break_on_hyphens=False)
    told = plain(option.help)
    bases = [c for c in option.classes if subclasses(c) and subclasses(c) != [c]]
    if bases:
        told = f"{told.rstrip('.')}. One of {', '.join(c for base in bases for c in subclasses(base))}.".lstrip(". ")
    body = textwrap.wrap(told.strip(), WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return [*lines, *body, ""]


def plain(text: str) -> str:
    """Help without the marks of a docstring: one backtick for two, no roles."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text.replace("``", "`"))


def short_default(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def is_class(option: Option) -> bool:
    return any(subclasses(c) for c in option.classes)


def type_text(option: Option) -> str:
    """A type as a reader says it: CLASS for what is named by class, a|b for a closed choice."""
    if option.choices:
        return "|".join(option.choices)
    text = spoken(option.type, option.module)
    text = text if "[" in text or "{" in text else "|".join(dict.fromkeys(text.split("|")))
    return text if len(text) < WIDTH - 20 else text.replace("|", " | ")


def spoken(node: ast.expr | None, module: str) -> str:
    if node is None:
        return ""
    if isinstance(node, ast.BinOp):
        return "|".join(dict.fromkeys(spoken(part, module) for part in alternatives(node)))
    if isinstance(node, ast.Subscript):
        outer, inner = name_of(node.value), node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer in ("Callable", "type"):
            return spoken(inner[-1], module)
        if outer in ("Union", "Optional"):
            return "|".join(dict.fromkeys([spoken(p, module) for p in inner] + ["null"] * (outer == "Optional")))
        if outer == "Literal":
            return "|".join(dict.fromkeys(str(ast.literal_eval(v)) for v in inner))
        if outer in ("list", "Sequence", "Iterable"):
            return f"[{spoken(inner[0], module)}, ...]"
        if outer == "tuple":
            return f"[{', '.join(spoken(p, module) for p in inner)}]"
        return f"{{name: {spoken(inner[-1], module)}}}" if outer == "dict" else ast.unparse(node)
    if isinstance(node, ast.Constant):
        return "null" if node.value is None else "..." if node.value is ... else str(node.value)
    name = name_of(node)
    found = find(module, name)[1] if module else None
    if isinstance(found, ast.Subscript | ast.BinOp):
        return spoken(found, find(module, name)[0])
    words = {"InputPath": "path", "str": "text", "float": "number", "bool": "true|false", "None": "null"}
    named = name in OUTSIDE or (name in class_index() and subclasses(name) != [name])
    return "CLASS" if named else words.get(name, name)


def paragraphs(text: str) -> str:
    """A docstring's paragraphs and lists, wrapped."""
    found = []
    for part in re.split(r"\n\s*\n", textwrap.dedent(text)):
        items = re.split(r"\n(?=\s*- )", part)
        found += [textwrap.fill(" ".join(plain(i).split()), WIDTH, subsequent_indent="  " * i.lstrip().startswith("- "))
                  for i in items]  # fmt: skip
        found.append("")
    return "\n".join(found[:-1])
