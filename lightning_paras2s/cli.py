"""The command line: stages run through Lightning, the benchmark's commands through jsonargparse alone.

Nothing is imported that is not run. A user's mistake is one line on stderr and exit code 2, wherever it is noticed.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning_paras2s
from lightning_paras2s.errors import OneLineErrors, UserError, user_error

STAGES = {
    "fit": "train a stage: --config sft.yaml, reward.yaml, grpo.yaml, ...",
    "validate": "measure a stage's validation metrics",
    "test": "measure a stage's test metrics",
    "predict": "run a stage's model over its data",
}
COMMANDS = {
    "bench": "lightning_paras2s.bench.chain:bench",
    "mine": "lightning_paras2s.bench.queries.mine:mine",
    "synthesize": "lightning_paras2s.bench.queries.synthesize:synthesize",
    "filter": "lightning_paras2s.bench.queries.filters:filter",
    "evaluate": "lightning_paras2s.bench.evaluate:evaluate",
    "leaderboard": "lightning_paras2s.bench.leaderboard:leaderboard",
    "headline": "lightning_paras2s.bench.headline:headline",
    "skills": "lightning_paras2s.bench.skills:skills",
    "report": "lightning_paras2s.bench.report:report",
    "arena": "lightning_paras2s.bench.pairs.arena:arena",
    "annotate": "lightning_paras2s.bench.people.annotate:annotate",
    "import_speech": "lightning_paras2s.bench.queries.real_speech:import_speech",
    "agreement": "lightning_paras2s.bench.people.agreement:agreement",
    "plan": "lightning_paras2s.running.plan:plan",
    "leakage": "lightning_paras2s.bench.diagnostics.leakage:leakage",
    "judge_table": "lightning_paras2s.bench.diagnostics.judge_table:judge_table",
    "doctor": "lightning_paras2s.running.doctor:doctor",
}
PACKAGED_CONFIGS = Path(lightning_paras2s.__file__).parent / "configs"


def main(argv: list[str] | None = None) -> None:
    """Run one command of `python -m lightning_paras2s`."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        dispatch(argv)
    except Exception as error:  # jsonargparse wraps what a constructor raises
        cause = user_error(error)
        if cause is None:
            raise
        print(f"error: {' '.join(str(cause).split())}", file=sys.stderr)
        sys.exit(2)


def dispatch(argv: list[str]) -> None:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(overview())
    elif name in STAGES:
        from lightning_paras2s.running.fit import StageCLI

        StageCLI(resolve_configs(argv))
    elif name == "doctor":  # its exit code tells, and it starts without a parser of types
        from lightning_paras2s.running.doctor import main

        sys.exit(main(argv[1:]))
    elif name in COMMANDS:
        run_command(name, resolve_configs(argv[1:]))
    else:
        raise UserError(f"the command must be one of {', '.join([*STAGES, *COMMANDS])}; got {name!r}")


def overview() -> str:
    lines = ["usage: python -m lightning_paras2s COMMAND [--config NAME.yaml] [--option value ...]", ""]
    lines += [f"  {name:14} {line}" for name, line in STAGES.items()]
    lines += [f"  {name:14} {about(name)}" for name in COMMANDS]
    return "\n".join([*lines, "", f"configs: {', '.join(config_names())}"])


def about(name: str) -> str:
    """A command's docstring up to its first stop, read from the source: its imports would take seconds."""
    module, function = COMMANDS[name].split(":")
    tree = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
    doc = next(ast.get_docstring(node) for node in tree.body if getattr(node, "name", None) == function)
    return re.split(r"[.:;](?:\s|$)", " ".join(doc.split()))[0]


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
    raise UserError(f"a config must be a file or one of {', '.join(config_names()) or 'none'}; got {name!r}")


def resolve_configs(argv: list[str]) -> list[str]:
    """The arguments with the value of every --config resolved."""
    resolved = []
    for i, argument in enumerate(argv):
        if i and argv[i - 1] in ("-c", "--config"):
            argument = resolve_config(argument)
        elif argument.startswith("--config="):
            argument = "--config=" + resolve_config(argument.removeprefix("--config="))
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


def run_command(name: str, argv: list[str]) -> None:
    """Parse the arguments of a benchmark function from its signature and docstring, and call it.

    With --json, what it returns (a dict or a record) is printed last as one JSON object on one line. With --check, all
    that the options name is built, and nothing is run.
    """
    from jsonargparse import ArgumentParser

    class Parser(OneLineErrors, ArgumentParser):
        pass

    function = load_command(name)
    about = (function.__doc__ or "").strip().split("\n\n")[0]
    parser = Parser(prog=f"python -m lightning_paras2s {name}", description=about)
    # `plan` reads a training config itself
    own_config = "config" in inspect.signature(function).parameters
    if not own_config:
        parser.add_argument("-c", "--config", action="config", help="a YAML file of these options")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--check", action="store_true", help="build what the options name, and run nothing")
    parser.add_function_arguments(function, as_group=False)
    options = parser.instantiate_classes(parser.parse_args(argv)).as_dict()
    if not own_config:
        options.pop("config")
    as_json, check = options.pop("json"), options.pop("check")
    result = None if check else function(**options)
    if as_json:
        from lightning_paras2s.types import finite

        record = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result
        print(json.dumps({} if record is None else finite(record), ensure_ascii=False, allow_nan=False))
