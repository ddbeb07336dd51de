"""The runs of a sweep, planned: what each is made from, by which it is known, and its subcommands in order."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.cli import resolve_configs
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.check import check
from lightning_paras2s.running.inputs import paths_in
from lightning_paras2s.running.options import COMMANDS, STAGES, options_of
from lightning_paras2s.running.origins import content_sha, file_sha, inputs_of, queries_sha, sha
from lightning_paras2s.running.source import PACKAGE, class_index, class_options
from lightning_paras2s.shown.training import point_text
from lightning_paras2s.sweeping.rows import ROWS
from lightning_paras2s.sweeping.runs import Work
from lightning_paras2s.sweeping.workload import batch_of, responses_planned
from lightning_paras2s.types import Query

# Options that decide memory, speed and what is kept, and results by rounding alone: a run stays the same run.
INDIFFERENT = ("micro_batch_tokens", "sync_every_micro_batch", "rollout_parts", "overlap")
INDIFFERENT += ("logger", "checkpoint", "progress", "log_every_n_steps")
PLACE = re.compile(r"\{(\w+)\}")
AFTER = ("evaluate", "skills", "audit")  # subcommands that follow the stages
OPEN_SEED = 0  # stands for any in a recipe: a number, as options want one
MADE = "made"  # a stage, which makes the queries of its run


@dataclass(frozen=True)
class Run:
    """One point of the grid with one seed.

    Attributes:
        sha: of all that it is made from.
        stages: name of what is trained (`fit`) -> its merged configs and options.
        work: its subcommands, in order, and where they write.
        columns: name -> stage and metric, of the row.
        parts: of a row -> hash of what that part is made from: the policy and its scores, skills, ears from outside,
            columns. A row of any sweep that has the same parts tells of the same run.
        recipe: these with the seed left open: those of all seeds of one thing.
    """

    point: dict[str, Any]
    seed: int
    sha: str
    stages: dict[str, dict[str, Any]]
    work: Work
    columns: dict[str, str]
    parts: dict[str, str]
    recipe: dict[str, str]

    @property
    def batches(self) -> dict[str, int]:
        """Of what is trained: responses in a batch of one rank."""
        return {stage: batch_of(tree) for stage, tree in self.stages.items()}

    @property
    def responses(self) -> dict[str, int]:
        """Of what is trained: how many responses it samples or learns from, the unit in which its time is estimated."""
        return {stage: responses_planned(stage, tree) for stage, tree in self.stages.items()}


def check_stages(stages: dict[str, str], columns: dict[str, str], manifest: str) -> None:
    if manifest == MADE and MADE not in stages:
        raise UserError(f"manifest: {MADE} needs a stage of this name; got {', '.join(stages) or 'none'}; add it")
    for stage, text in stages.items():
        if (command := command_of(shlex.split(text))[0]) not in {**STAGES, **COMMANDS} or stage in AFTER:
            raise UserError(f"stage {stage} must begin with an option or a subcommand, and not be named as one that "
                            f"follows ({', '.join(AFTER)}); got {command!r}")  # fmt: skip
    for name, place in columns.items():
        if place.partition(":")[0] not in stages or not place.partition(":")[2]:
            raise UserError(f"columns must name a stage and its metric (reward:val/pearson); got {name}: {place!r}")


def plan(
    points: list[dict], seeds: list[int], options: dict[str, Any], folder: Path, queries: Path | None
) -> list[Run]:
    """All runs, the first seed of all points first. Whatever can be known to be wrong is told here.

    Args:
        queries: manifest of those that all runs answer; None = each makes its own.
    """
    about = MADE
    if queries is not None:
        asked: list[Query] = read_queries(str(queries), None)
        about = queries_sha(asked, {q.id: inputs_of(q, queries.parent) for q in asked})
    recipes = [made_from({**point, "seed": OPEN_SEED}, options, about)[2] for point in points]
    made = [
        plan_one(point, seed, options, folder, queries, about, recipe)
        for seed in seeds
        for point, recipe in zip(points, recipes, strict=True)
    ]
    refuse_same(made)
    return made


def refuse_same(made: list[Run]) -> None:
    """
    Raises:
        UserError: two points, or two seeds of one, are one run.
    """
    first: dict[str, Run] = {}
    for run in made:
        if (same := first.setdefault(run.sha, run)) is not run:
            both = " and ".join(f"{point_text(one.point)}, seed {one.seed}" for one in (same, run))
            what = "give one seed (--seeds [1])" if same.point == run.point else "leave one out"
            raise UserError(
                f"runs must differ; got {both}, which differ in nothing that is run or decides a result; {what}, or "
                "name in an option what they differ in ({seed}, {x})"
            )


def plan_one(
    point: dict,
    seed: int,
    options: dict[str, Any],
    folder: Path,
    queries: Path | None,
    about: str,
    recipe: dict[str, str],
) -> Run:
    values = {**point, "seed": seed}
    trees, found, parts = made_from(values, options, about)
    label = "_".join(re.sub(r"[^\w.]+", "-", f"{key}-{value_text(value)}") for key, value in point.items())[:60]
    run = folder / f"{label}_seed-{seed}_{found[:8]}"
    places = values | {stage: str(run / stage) for stage in trees}
    places["queries"] = str(run / MADE / "queries.jsonl" if queries is None else queries)
    commands = {stage: stage_words(text, stage, places, run) for stage, text in options["stages"].items()}
    for command in (c for c in AFTER if options.get(c)):
        commands[command] = [command, *filled(options[command], places)]
    if "evaluate" in commands:
        commands["evaluate"] += ["--manifest", places["queries"], "--output", str(run / "evaluate")]
    if "audit" in commands:
        commands["audit"] += ["--run", str(run / "evaluate")]
    fitted = {stage: tree for stage, tree in trees.items() if commands[stage][0] == "fit"}
    work = Work(run, commands, options["threads"])
    return Run(point, seed, found, fitted, work, options.get("columns", {}), parts, recipe)


def made_from(
    values: dict[str, Any], options: dict[str, Any], about: str
) -> tuple[dict[str, dict], str, dict[str, str]]:
    """Of one point and seed: the merged configs of its stages, the hash of the whole, and those of a row's parts."""
    shown = {stage: f"{{{stage}}}" for stage in options["stages"]}  # a run's folder is no part of what it is
    trees = {stage: stage_tree(text, values | shown) for stage, text in options["stages"].items()}
    asked = {c: filled(options[c], values | shown | {"queries": ""}) for c in AFTER if options.get(c)}
    others = {command: tree_of(command, words) for command, words in asked.items()}
    others.get("evaluate", {}).pop("manifest", None)  # `about` says which queries are answered
    named = {name: (tree.get("command", "fit"), tree) for name, tree in trees.items()}
    named |= {command: (command, tree) for command, tree in others.items()}
    folders = {name: {path: content_sha(path) for path in folders_of(*one)} for name, one in named.items()}
    shas = {path: file_sha(path) for path in files_of([trees, others])}
    shas |= {path: told for of in folders.values() for path, told in of.items()}

    def part(of: Any, *names: str) -> str:
        files = {shas.get(file) or file_sha(file) for file in files_of(of)}
        return sha([of, sorted(files.union(*(folders[name].values() for name in names if name in folders)))])

    columns = options.get("columns", {})
    whole = [decisive(trees), others, sorted(shas.values()), about, options["threads"], ROWS]
    trained = [decisive(trees), others.get("evaluate", {}), about, options["threads"], ROWS]
    parts = {"policy": part(trained, *trees, "evaluate")}
    parts |= {c: part(others[c], c) for c in ("skills", "audit") if c in others}
    parts |= {"columns": part(columns)} if columns else {}
    return trees, sha([*whole, columns] if columns else whole), parts


def stage_tree(text: str, values: dict[str, Any]) -> dict[str, Any]:
    command, words = command_of(filled(text, values))
    tree = tree_of(command, [*words, "--seed_everything", str(values["seed"])] if command in STAGES else words)
    return tree if command == "fit" else {"command": command, **tree}


def stage_words(text: str, stage: str, places: dict[str, Any], run: Path) -> list[str]:
    """A stage's subcommand and its options, with seed and folder of the run."""
    command, words = command_of(filled(text, places))
    if command in STAGES:
        logger = ["--trainer.logger.save_dir", str(run.parent), "--trainer.logger.name", run.name]
        words += ["--seed_everything", str(places["seed"]), *logger, "--trainer.logger.version", stage]
    return [command, *words]


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """A stage's subcommand (`fit`, where its words begin with an option) and its options."""
    return ("fit", words) if not words or words[0].startswith("-") else (words[0], words[1:])


def filled(text: str, values: dict[str, Any]) -> list[str]:
    """Options as typed, with the value of every {x}."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(f"{{{match[1]}}} must be one of {', '.join(values)}; got {text!r}; name it in every point")
        return value_text(values[match[1]])

    return [PLACE.sub(value, word) for word in shlex.split(text)]


def value_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) or value is None else str(value)


def tree_of(command: str, words: list[str]) -> dict[str, Any]:
    """Its configs and options as one tree; files need not be there: earlier stages make some."""
    return check(command, resolve_configs(words), files=False)


def decisive(tree: Any) -> Any:
    """A tree without what decides no result."""
    if not isinstance(tree, dict):
        return tree
    return {key: decisive(value) for key, value in tree.items() if key not in INDIFFERENT}


def files_of(tree: Any) -> list[Path]:
    """The files that a tree names, or that its classes take where it names none, and the manifests of folders of data
    (`train.jsonl` is there): what is in them is part of what it says."""
    words, found = list(dict.fromkeys([*texts_in(tree), *words_of(json.dumps(tree))])), []
    seen = set(words)
    for word in words:  # grows: a class's defaults may name files and classes
        for option in (class_options(word) or ()) if word in class_index() else ():
            more = [name for name in words_of(json.dumps(option.default)) if name not in seen]
            seen.update(more)
            words += more
        found += [path for path in (Path(word), PACKAGE / word) if os.path.isfile(path)][:1]  # False of what is no path
        found += sorted(Path(word).glob("*.jsonl")) if os.path.isfile(Path(word) / "train.jsonl") else []
    return found


def folders_of(command: str, tree: dict[str, Any]) -> list[Path]:
    """The folders that a command's options take as they lie there: of weights, of recorded answers. Those of data are
    known by their manifests."""
    found = [path if os.path.isdir(path) else PACKAGE / path for _, path in paths_in(tree, known=options_of(command))]
    kept = [path for path in map(Path, found) if os.path.isdir(path) and not os.path.isfile(path / "train.jsonl")]
    return list(dict.fromkeys(kept))


def texts_in(tree: Any) -> list[str]:
    """All texts of a tree, whole: a path may hold blanks, and letters of any script."""
    inner = [*tree, *tree.values()] if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else []
    return [tree] if isinstance(tree, str) else [text for one in inner for text in texts_in(one)]


def words_of(text: str) -> list[str]:
    """What may be a path or a class's name."""
    return list(dict.fromkeys(re.findall(r"[\w./@+-]{2,500}", text)))
