"""What the documents name is there: configs, commands and their options, make's targets, paths, classes."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from test_overlays import NOW

from lightning_paras2s.cli import COMMANDS, STAGES, overview
from lightning_paras2s.running.pages import brief

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_paras2s"
DOCUMENTS = [ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "checkpoints/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
COMMAND = re.compile(r"python -m lightning_paras2s (\w+)(.*)")
# Folders of the repository; what stands under others (runs/, data/, models of the release) is the reader's.
FOLDERS = ("lightning_paras2s", "configs", "checkpoints", "speed", "figures", "notebooks", "docs", "results", "tests")
# A run's and a release's config; what `make speed` writes; weights' prefix.
ELSEWHERE = {"config.yaml", "results/speed.jsonl", "checkpoints/embedded/polytone"}
LIBRARIES = {"ModelParallelStrategy", "FSDPStrategy", "LightningCLI", "GRPOTrainer"}


@cache
def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def code(document: Path) -> list[str]:
    """Code spans and the lines of code blocks; lines that end in a backslash are joined."""
    text = read(document).replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return spans + [line for block in blocks for line in block.splitlines()]


def expand(path: str) -> list[str]:
    """Braces, as a shell expands them."""
    choice = re.search(r"\{([^{}]*)\}", path)
    if not choice:
        return [path]
    before, after = path[: choice.start()], path[choice.end() :]
    return [p for option in choice[1].split(",") for p in expand(before + option + after)]


def exists(path: str) -> bool:
    """A file or glob, from the root, the package, or where files of the kind lie."""
    folders = ("configs", "docs", "tests", "speed", "figures", "notebooks")
    places = (ROOT, PACKAGE, *(ROOT / name for name in folders))
    return all(any(any(place.glob(one)) for place in places) for one in expand(path))


@cache
def signature(command: str) -> ast.arguments:
    """That of a command's function."""
    module, function = COMMANDS[command].split(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    return node.args


def parameters(command: str) -> list[ast.arg]:
    return signature(command).args + signature(command).kwonlyargs


def options(command: str) -> set[str]:
    """A command's options: its function's parameters, and those that every command has."""
    return {a.arg for a in parameters(command)} | {"config", "json", "help"}


@cache
def classes() -> set[str]:
    sources = [p.read_text(encoding="utf-8") for folder in (PACKAGE, ROOT / "tests") for p in folder.rglob("*.py")]
    return set(re.findall(r"^(?:class|def) (\w+)", "\n".join(sources), re.M))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_names_are_there(document):
    lines = code(document)
    found = "\n".join(lines)
    configs = set(re.findall(r"(?<![\w/.-])((?:configs/|paper/|trainer/|ladder/|controls/)?\w+\.yaml)", found))
    past = NOW.keys() if document.name in ("CHANGELOG.md", "log.md") else set()  # what was run then had these names
    assert {name for name in configs - ELSEWHERE - past if not exists(name)} == set()
    targets = set(re.findall(r"^([\w-]+):", read(ROOT / "Makefile"), re.M))
    assert {t for line in lines for t in re.findall(r"^make ([a-z]+)", line)} <= targets
    sources = set(re.findall(r"(?<![\w/.*-])([\w/*-]+\.(?:py|ipynb))\b", found))
    sources -= {name for name in sources if name.startswith("my_")}  # a reader's own
    assert {name for name in sources if not exists(name)} == set()
    paths = set(re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./*{{}},-]*)(?![\w<])", found))
    assert {p for p in {p.rstrip("/.,") for p in paths} - ELSEWHERE if not exists(p)} == set()
    camel = set(re.findall(r"\b([A-Z]\w*[a-z]\w*[A-Z]\w*)\b", "\n".join(line for line in lines if " " not in line)))
    assert camel - classes() - LIBRARIES == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)", read(document))
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_are_there_with_their_options(document):
    named = [match for line in code(document) for match in COMMAND.findall(line)]
    named += re.findall(r"`(\w+) (--config [^`]*)`", read(document))
    for command, rest in named:
        if command == "COMMAND":
            continue
        assert command in {**STAGES, **COMMANDS}, f"{document.name}: {command}"
        if command in COMMANDS:
            unknown = {o for o in re.findall(r"--(\w+)", rest)} - options(command)
            assert not unknown, f"{document.name}: {command} has no --{', --'.join(unknown)}"
    modules = re.findall(r"python -m lightning_paras2s\.([\w.]+\w)", read(document))
    assert all((PACKAGE / (m.replace(".", "/") + ".py")).is_file() for m in modules)


def lists(command: str) -> set[str]:
    """A command's options that take a list alone."""
    typed = {a.arg: ast.unparse(a.annotation) for a in parameters(command) if a.annotation}
    return {name for name, kind in typed.items() if re.match(r"(list|Sequence)\[[^|]*$", kind)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_options_that_take_a_list_are_given_one(document):
    """`leaderboard --runs runs/a` is refused; `--runs '[runs/a]'` is not."""
    wrong = []
    for line in code(document):
        if found := re.match(r"(?:python -m lightning_paras2s )?(\w+) (--.*)", line):
            taken = lists(found[1]) if found[1] in COMMANDS else set()
            given = re.findall(r"--(\w+)[ =]+(\S+)", found[2])
            wrong += [
                f"{found[1]} --{o} {value}"
                for o, value in given
                if o in taken and not value.lstrip("'\"").startswith("[")
            ]
    assert wrong == []


def required(command: str) -> set[str]:
    """A command's parameters without a default."""
    named = signature(command)
    first = named.args[: len(named.args) - len(named.defaults)]
    after = [a for a, default in zip(named.kwonlyargs, named.kw_defaults, strict=True) if default is None]
    return {a.arg for a in (*first, *after)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_command_in_a_block_has_all_that_it_needs(document):
    """`import_speech --corpus arena --root FOLDER` was told without `--out`, and is refused so."""
    blocks = re.findall(r"```\w*\n(.*?)```", read(document).replace("\\\n", " "), re.S)
    for command, rest in COMMAND.findall("\n".join(blocks)):
        if command in COMMANDS and not re.search(r"--(?:config|help)\b", rest):
            missing = required(command) - set(re.findall(r"--(\w+)", rest))
            assert not missing, f"{document.name}: {command}{rest} lacks --{', --'.join(missing)}"


def test_readme_lists_every_command_and_page():
    readme = read(ROOT / "README.md")
    section = readme[readme.index("## Commands") : readme.index("## Files")]
    assert set(re.findall(r"`(\w+)`", section)) >= {*STAGES, *COMMANDS}
    pages = {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\(([^)]+)\)", readme))


def test_every_config_is_named_by_a_document():
    named = "\n".join(read(document) for document in DOCUMENTS)
    configs = {p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.yaml")}
    assert {name for name in configs if not re.search(rf"(?<![\w/])(?:configs/)?{name}", named)} == {
        "demo.yaml", "mine.yaml", "synthesize.yaml"  # of `make demo` and of `bench.yaml`
    }  # fmt: skip


def test_help_tells_what_each_command_does():
    assert brief("arena") == "Rank systems by pairwise battles"  # up to the docstring's colon
    shown = " ".join(overview().split())
    assert all(f" {name} {brief(name)}" in shown for name in (*STAGES, *COMMANDS))
    assert max(map(len, overview().splitlines())) <= 80
