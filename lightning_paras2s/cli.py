"""The command line: stages run through Lightning, the benchmark's commands through jsonargparse alone.

Nothing is imported that is not run. A user's mistake is one line on stderr and exit code 2, wherever it is noticed.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning_paras2s
from lightning_paras2s.errors import OneLineErrors, UserError, tell_in_one_line
from lightning_paras2s.running.check import check, split, switches_of
from lightning_paras2s.running.named import close
from lightning_paras2s.running.options import COMMANDS, PROGRAM, STAGES, SWITCHES, options_of
from lightning_paras2s.running.pages import brief, class_page, command_page
from lightning_paras2s.running.source import class_index, path_of
from lightning_paras2s.shown.show import show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

CHECKED = "all that the options name is there; nothing was run"
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # variables of launchers
PACKAGED_CONFIGS = Path(lightning_paras2s.__file__).parent / "configs"


def main(argv: list[str] | None = None) -> None:
    """Run one command of `python -m lightning_paras2s`."""
    argv = sys.argv[1:] if argv is None else argv
    tell_in_one_line(lambda: dispatch(argv), also=())


def dispatch(argv: list[str]) -> None:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in STAGES and name not in COMMANDS:
        near = close(name, [*STAGES, *COMMANDS])
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"the command must be one of {', '.join([*STAGES, *COMMANDS])}; got {name!r}{meant}")
    arguments = resolve_configs(argv[1:])
    asked = help_asked(name, arguments)
    if asked is not None:
        print(asked)
        return
    if readable(name):
        with by_rank_0(name):
            arguments = checked(name, arguments)
    if name in STAGES:
        from lightning_paras2s.running.fit import StageCLI

        check_only = "--check" in arguments
        stage = StageCLI([name, *(one for one in arguments if one != "--check")], check_only)
        show(name, stage.result, {}, PROGRAM, quiet=False)
        if check_only:
            print(CHECKED)
    elif name == "doctor":  # its exit code tells, and it starts without a parser of types
        from lightning_paras2s.running.doctor import main

        sys.exit(main(arguments))
    else:
        run_command(name, arguments)


@contextmanager
def by_rank_0(name: str) -> Iterator[None]:
    """What all ranks of a stage refuse alike, rank 0 alone tells; heavy packages are imported by the others alone."""
    try:
        yield
    except UserError:
        if name not in STAGES or all(os.environ.get(rank, "0") == "0" for rank in RANKS):
            raise
        from lightning_paras2s.running.ranks import one_voice

        with one_voice():
            raise


def overview() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [--config NAME.yaml] [--option value]", ""]
    for name in (*STAGES, *COMMANDS):
        lines += textwrap.wrap(f"  {name:14} {brief(name)}", 80, subsequent_indent=" " * 17)
    configs = textwrap.fill(f"configs: {', '.join(config_names())}", 80, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, "", configs, "", f"{PROGRAM} COMMAND --help lists a command's options."])


def readable(name: str) -> bool:
    """Whether a command's source is there to be read."""
    return name in STAGES or path_of(COMMANDS[name].split(":")[0]) is not None


def help_asked(name: str, arguments: list[str]) -> str | None:
    """The page that --help, or --model.help CLASS, asks for; None if neither is there."""
    if {"-h", "--help"} & set(arguments):
        return command_page(name)
    for i, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key.startswith("--") and key.endswith(".help"):
            value = value or next(iter(arguments[i + 1 : i + 2]), "")
            if not value or value.startswith("-"):
                raise UserError(f"{key} needs a class's name; got none; `{PROGRAM} {name} --help` lists them")
            return class_page(value, key.removeprefix("--").removesuffix(".help"))
    return None


def checked(name: str, arguments: list[str]) -> list[str]:
    """The arguments, once nothing in them is unknown, each switch with its value; what they name is imported.

    Raises:
        UserError: one is unknown.
    """
    tree = check(name, arguments)
    # A class that a config names is parsed even where the command line puts another in its place.
    switches, found = switches_of(options_of(name)), []
    typed = [one for one in split(arguments, switches) if one.value]
    said = [one.value for one in typed]
    said += [Path(one.value).read_text(encoding="utf-8") for one in typed if one.key == "config"]
    words = set(re.findall(r"\w+", json.dumps(tree, default=str) + " ".join(said)))
    for module in sorted({row[0] for word in words for row in class_index().get(word, ())}):
        import_module(module)  # so that jsonargparse knows the class by its short name
    if name == "doctor":  # its own parser takes switches alone
        return arguments
    for i, argument in enumerate(arguments):
        alone = argument.startswith("--") and (arguments[i + 1 : i + 2] or ["--"])[0].startswith("--")
        found += [argument, "true"] if alone and argument[2:] in switches else [argument]
    return found


def config_folders() -> list[Path]:
    """Where a config's name is looked up: the packaged configs, then `configs/` here."""
    return [PACKAGED_CONFIGS, Path("configs")]


def config_names() -> list[str]:
    found = {p.relative_to(folder).as_posix() for folder in config_folders() for p in folder.rglob("*.yaml")}
    return sorted(found)


def resolve_config(name: str) -> str:
    """A config's path: the path as given, else the name among the packaged configs or in `configs/` here.

    Raises:
        UserError: no such config; lists those there are.
    """
    candidates = [Path(name), *(folder / name for folder in config_folders())]
    for path in candidates:
        if path.is_file():
            return str(path)
    if near := close(name, config_names()):
        raise UserError(f"a config must be a file or the name of one; got {name!r}; did you mean {' or '.join(near)}?")
    raise UserError(f"a config must be a file or one of {', '.join(config_names()) or 'none'}; got {name!r}")


def resolve_configs(argv: list[str]) -> list[str]:
    """The arguments with the value of every --config resolved."""
    resolved = []
    for i, argument in enumerate(argv):
        if i and argv[i - 1] in ("-c", "--config"):
            argument = resolve_config(argument)
        elif argument.startswith(("-c=", "--config=")):
            key, _, value = argument.partition("=")
            argument = f"{key}={resolve_config(value)}"
        resolved.append(argument)
    return resolved


def load_command(name: str) -> Callable[..., Any]:
    """The function behind a benchmark command."""
    module, function = COMMANDS[name].split(":")
    if find_spec(module) is None:
        raise UserError(
            f"the command {name!r} needs {module}, which this installation lacks; install a version that has it"
        )
    return getattr(import_module(module), function)


def parser_of(name: str, function: Callable[..., Any]) -> ArgumentParser:
    """The parser of a benchmark function's signature and docstring."""
    from jsonargparse import ArgumentParser

    class Parser(OneLineErrors, ArgumentParser):
        pass

    parser = Parser(prog=f"{PROGRAM} {name}")
    if not takes_config(function):
        parser.add_argument("-c", "--config", action="config", help="a YAML file of these options")
    for switch in SWITCHES:
        parser.add_argument(f"--{switch.name}", action="store_true", help=switch.help)
    parser.add_function_arguments(function, as_group=False)
    return parser


def takes_config(function: Callable[..., Any]) -> bool:
    """`plan` reads a training config itself."""
    return "config" in inspect.signature(function).parameters


def gathered(argv: list[str]) -> list[str]:
    """The values of every --config as one list, for a command that reads the configs itself."""
    found, rest, values = [], [], iter(argv)
    for argument in values:
        key, given, value = argument.partition("=")
        if key in ("-c", "--config"):
            found.append(value if given else next(values, ""))
        else:
            rest.append(argument)
    return [*rest, f"--config={json.dumps(found)}"] if found else rest


def run_command(name: str, argv: list[str]) -> None:
    """Parse the arguments of a benchmark function, and call it.

    What it returns (a dict or a record) is shown as a table, or with --json printed last as one JSON object in a line.
    With --check, all that the options name is built, and nothing is run. Exit code 1: it ran, and nothing came out.
    """
    function = load_command(name)
    parser = parser_of(name, function)
    argv = gathered(argv) if takes_config(function) else argv
    options = parser.instantiate_classes(parser.parse_args(argv)).as_dict()
    if not takes_config(function):
        options.pop("config")
    as_json, check_only = options.pop("json"), options.pop("check")
    result = None if check_only else function(**options)
    record = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result
    if check_only and not as_json:
        print(CHECKED)
    missing = show(name, record, options, PROGRAM, as_json)
    if as_json:
        from lightning_paras2s.types import finite

        print(json.dumps({} if record is None else finite(record), ensure_ascii=False, allow_nan=False))
    if missing:
        print(f"error: nothing came out: {missing}", file=sys.stderr)
        sys.exit(1)
