"""Writes docs/reference.md from the docstrings: `python docs/reference.py`.

With --check, it writes nothing, and the exit code is 1 if the page is not current.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout that is not installed
from lightning_paras2s.running.options import COMMANDS, CONFIG, PRINTED, STAGES, SWITCHES, options_of
from lightning_paras2s.running.pages import brief, plain, type_text
from lightning_paras2s.running.source import (
    OUTSIDE,
    Option,
    about,
    class_index,
    class_options,
    is_abstract,
    reachable,
    subclasses,
)

HEAD = """# Reference

`python docs/reference.py` writes this page from the docstrings. The terminal shows the same:
`python -m lightning_paras2s COMMAND --help`, and `python -m lightning_paras2s fit --model.help GRPOModule` for a class.
Values after `=` are the defaults; what has none is required.
"""
SHARED = """## Commands

Every command takes these, too (`plan` the last two, a stage all but `json`):
"""
STAGE = """## Stages

`fit`, `validate`, `test` and `predict` take the options below, those of Lightning's Trainer
(`--trainer.max_steps 100`: see `fit --help`), and those of the classes that `model` and `data` name
(`--model.lr 1e-3`).
"""
CLASSES = """## Classes that a config may name

By their short name (`policy: TinySpeechLM`) with `init_args` below, or by a dotted path for a class of your own.
"""


def cell(text: str) -> str:
    return " ".join(plain(text).split()).replace("|", "\\|")


def row(option: Option, prefix: str = "") -> str:
    default = "" if option.default is None else f" = {option.default or '-'}"
    kind = type_text(option).replace("CLASS", " or ".join(option.classes))
    return f"| `{prefix}{option.name}` | {cell(kind + default)} | {cell(option.help)} |"


def table(options: tuple[Option, ...]) -> list[str]:
    lines = ["| option | type = default | what it is |", "|---|---|---|"]
    for option in options:
        lines += [row(o, f"{option.name}.") for o in option.group] if option.group else [row(option)]
    return lines if options else ["It has no options."]


def own(command: str) -> tuple[Option, ...]:
    """A command's options but for those that every command has."""
    everywhere = {o.help for o in (CONFIG, PRINTED, *SWITCHES)}
    return tuple(o for o in options_of(command) if o.help not in everywhere)


def reference() -> str:
    shared = (CONFIG, PRINTED, *SWITCHES)
    lines = [HEAD, SHARED, *table(shared), ""]
    for command, target in COMMANDS.items():
        lines += [f"### `{command}`", "", about(*target.split(":")), "", *table(own(command)), ""]
    stage = tuple(o for o in own("fit") if o.name != "trainer")
    lines += [STAGE, *[f"- `{name}`: {brief(name)}" for name in STAGES], "", *table(stage), ""]
    lines += [CLASSES]
    every = [o for command in (*COMMANDS, *STAGES) for o in options_of(command)]
    names = reachable([*every, *(Option("", ast.Name(base)) for base in OUTSIDE)])
    for name in names:
        module = class_index()[name][0][0]
        lines += [f"### `{name}`", "", f"`{module}`. {' '.join(plain(about(module, name)).split())}", ""]
        if is_abstract(name):
            lines += [f"Choose one of {', '.join(f'`{n}`' for n in subclasses(name))}.", ""]
        else:
            lines += [*table(class_options(name) or ()), ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    path, text = Path(__file__).with_name("reference.md"), reference()
    if "--check" in sys.argv[1:]:
        current = path.is_file() and path.read_text(encoding="utf-8") == text
        print("docs/reference.md is current" if current else "docs/reference.md is old: run python docs/reference.py")
        sys.exit(0 if current else 1)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
