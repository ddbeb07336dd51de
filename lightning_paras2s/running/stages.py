"""One stage of a chain, and the record of what it was made from: commands, configs, inputs and outputs, by content."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.check import check
from lightning_paras2s.running.logs import read_summary, write_summary

GOES_ON = ("fit", "predict")  # resume what was begun, whatever it was begun from
RECORD = ("commands", "configs", "reads", "writes")
REMEDY = "remove it, and its stage runs again"


@dataclass(frozen=True)
class Stage:
    """One stage of a chain.

    Args:
        commands: as one types them after the program's name, one after the other.
        reads: files and folders that it needs.
        writes: files and folders that it leaves.
        hours: that it takes, an estimate.
        usd: that it pays to servers, an estimate.
        gpus: that it holds for these hours.
        note: what the estimate rests on, and what is cheaper.
    """

    commands: list[str]
    reads: list[str]
    writes: list[str]
    hours: float = 0.0
    usd: float = 0.0
    gpus: int = 0
    note: str = ""

    @property
    def words(self) -> list[list[str]]:
        return [split_words(command) for command in self.commands]

    @property
    def trains(self) -> bool:
        return any(words[0] in GOES_ON for words in self.words)


def split_words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"a command must be as one types it; got {command!r}: {error}; mend it") from None


@dataclass(frozen=True)
class Record:
    """What is known of a stage's last run, in a file, beside what it is today."""

    path: Path
    stage: Stage
    before: dict[str, Any]

    @classmethod
    def of(cls, path: Path, stage: Stage) -> Record:
        return cls(path, stage, read_summary(path, RECORD, REMEDY) if path.is_file() else {})

    def state(self) -> str:
        """done, to do, begun (and not ended), or changed."""
        if not self.before:
            return "to do"
        if self.changed():
            return "changed"
        if self.before["writes"] is None:
            return "begun"
        return "done" if contents(self.stage.writes) == self.before["writes"] else "changed"

    def changed(self) -> list[str]:
        """What is another than when the stage last began: its commands, a config, or something that it reads."""
        today, names = self.today(), []
        if today["commands"] != self.before["commands"]:
            names.append("its options")
        for kind in ("configs", "reads"):
            old, new = self.before[kind], today[kind]
            names += [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
        return names

    def today(self) -> dict[str, Any]:
        return {
            "commands": self.stage.words,
            "configs": contents(configs_of(self.stage)),
            "reads": contents(self.stage.reads),
        }

    def write(self, today: dict[str, Any], writes: dict[str, str] | None, seconds: float) -> None:
        write_summary(self.path, {**today, "writes": writes, "seconds": round(seconds, 1)})


def configs_of(stage: Stage) -> list[str]:
    """Paths of all configs that a stage's commands name, and those that `bench` and `sweep` hand on to their steps."""
    from lightning_paras2s.cli import resolve_config, resolve_configs

    trees = [check(words[0], resolve_configs(words[1:]), files=False) for words in stage.words]
    names = [name for words in (*stage.words, *words_in(trees)) for name in named_configs(words)]
    return sorted({resolve_config(name) for name in names if "{" not in name})  # {x} is a sweep's, and no file


def named_configs(words: Sequence[str]) -> Iterator[str]:
    """As the command line takes them: `--config NAME`, `--config=NAME`, and -c likewise."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        key, given, value = word.partition("=")
        if key in ("-c", "--config"):
            yield value if given else following


def words_in(tree: Any) -> Iterator[list[str]]:
    """Lists and texts among options that may be the options of another command."""
    if isinstance(tree, str) and tree.lstrip().startswith(("--", "-c")):
        yield split_words(tree)
    elif isinstance(tree, list) and all(isinstance(value, str) for value in tree):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from words_in(value)


def contents(paths: Sequence[str]) -> dict[str, str]:
    """Path -> hash of the file or folder; "" where there is none."""
    if not any(Path(path).exists() for path in paths):
        return dict.fromkeys(paths, "")
    from lightning_paras2s.running.origins import weights_sha
    from lightning_paras2s.running.shipped import shipped

    return {path: weights_sha(shipped(path)) if Path(path).exists() else "" for path in paths}
