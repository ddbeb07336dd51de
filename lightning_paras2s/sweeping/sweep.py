"""`sweep`: a grid of `fit` and `evaluate` (points x seeds), one row a run in results/NAME.jsonl.

A run is known by the hash of all that it is made from: its merged configs and options, the files that they name, the
queries that it answers, and what a row means (`ROWS`). What has a row is not run again; a run that was killed goes on
from its last checkpoint, its evaluation from its last answer. Each run is a chain of subcommands in a folder of its
own, so that as many go side by side as the machine holds. A run that fails is a row with its reason.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_paras2s.bench.queries.manifest import placed, read_queries, write_manifest
from lightning_paras2s.cli import resolve_configs
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.check import check
from lightning_paras2s.running.machine import free_memory, usable_threads
from lightning_paras2s.running.origins import file_sha, inputs_of, queries_sha, sha
from lightning_paras2s.running.source import PACKAGE, class_index, class_options
from lightning_paras2s.sweeping.rows import ROWS, Rows
from lightning_paras2s.sweeping.runs import Work, run_all
from lightning_paras2s.types import Query, to_json

# Options that decide memory, speed and what is kept, and results by rounding alone: a run stays the same run.
INDIFFERENT = ("micro_batch_tokens", "sync_every_micro_batch", "rollout_parts")
INDIFFERENT += ("logger", "checkpoint", "progress", "log_every_n_steps")
PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Run:
    """One point of the grid with one seed.

    Attributes:
        sha: of all that it is made from.
        stages: name -> its merged configs and options.
        work: its subcommands, in order, and where they write.
    """

    point: dict[str, Any]
    seed: int
    sha: str
    stages: dict[str, dict[str, Any]]
    work: Work

    @property
    def responses(self) -> float:
        """How many it samples or learns from in training, the unit in which its time is estimated."""
        return sum(steps_of(tree) * responses_of(tree) for tree in self.stages.values())


def sweep(
    name: str,
    stages: dict[str, str],
    points: list[dict[str, Any]],
    evaluate: str,
    skills: str = "",
    seeds: list[int] = [1, 2, 3],  # noqa: B006  it is read only
    manifest: InputPath = "runs/bench/test/queries.jsonl",
    pairs: int = 10,
    subset_seed: int = 0,
    results: str = "results",
    runs: str = "runs",
    workers: int = 0,
    run_gb: float = 1.5,
    threads: int = 1,
    keep_checkpoints: bool = False,
    retry: bool = False,
    only: int = -1,
    dry_run: bool = False,
    step_seconds: float = 0.0,
    usd_per_hour: float = 0.0,
    submit: Literal["no", "slurm"] = "no",
    slurm: list[str] = ["--time=24:00:00", "--cpus-per-task=2"],  # noqa: B006
) -> dict[str, Any]:
    """Run a grid of `fit` and `evaluate`, and append one row a run; started again, it goes on where it was stopped.

    In the options below, {x} stands for the value of x at a point, {seed} for the seed, {queries} for the queries that
    are answered, and the name of a stage for the folder of its run.

    Args:
        name: of the sweep: its rows go to NAME.jsonl, its runs to a folder of this name.
        stages: name -> options of `fit`, as one types them; they run in this order. --seed_everything and the folder
            are added. None = nothing is trained, and what is there is evaluated.
        points: of the grid, each a value for every {x} (G, 8; ...).
        evaluate: options of `evaluate`, as one types them, but for the manifest and the output.
        skills: options of `skills`, likewise; nothing = forgetting is not measured.
        seeds: of every point; the first seed of all points comes first.
        manifest: JSON lines of query records, of which some pairs are answered.
        pairs: contrast pairs of each factor that are answered, drawn at random; 0 = all.
        subset_seed: of that draw.
        results: folder of the rows.
        runs: folder of the runs.
        workers: runs side by side; 0 = as many as the usable threads and the free memory hold.
        run_gb: memory that a run is expected to take, in GB.
        threads: of each run; 0 leaves it to each run.
        keep_checkpoints: keep a finished run's checkpoints, and not only its weights.
        retry: run those again that have failed.
        only: number of the one run to do (from 0, in the order of --dry_run); -1 = all. For SLURM's arrays.
        dry_run: print runs, hours and dollars, and run nothing but a few steps to measure.
        step_seconds: of an optimizer step of the first point, for --dry_run; 0 takes it from the rows that are there,
            or measures three steps.
        usd_per_hour: price of one run's share of a machine, in US dollars an hour.
        submit: slurm = run nothing, and write a script for `sbatch` with a task a run; no = run here.
        slurm: options of `sbatch` in that script.
    """
    check_options(stages, points, seeds, pairs, only)
    folder = Path(runs) / name
    rows = Rows(Path(results) / f"{name}.jsonl", folder / ".rows.lock")
    queries = subset(manifest, folder, pairs, subset_seed)
    options = {"stages": stages, "evaluate": evaluate, "skills": skills, "threads": threads}
    made = plan(points, seeds, options, folder, queries)
    if only >= len(made):
        raise UserError(f"only must be the number of a run, 0 to {len(made) - 1}; got {only}")
    todo = [run for run in made if run.sha not in rows.done(retry)]
    if dry_run:
        from lightning_paras2s.sweeping.price import price

        return price(name, made, todo, rows, step_seconds, usd_per_hour)
    if submit == "slurm":
        from lightning_paras2s.sweeping.price import array_script

        again = {"name": name, "points": points, "seeds": seeds, "manifest": manifest, "pairs": pairs}
        again |= {"subset_seed": subset_seed, "results": results, "runs": runs, "run_gb": run_gb}
        again |= {"keep_checkpoints": keep_checkpoints, "retry": retry, **options}
        return array_script(folder, len(made), [i for i, run in enumerate(made) if run in todo], again, slurm)
    chosen = [run for i, run in enumerate(made) if run in todo and only in (-1, i)]
    run_all(name, chosen, rows, workers or most_workers(run_gb, threads), keep_checkpoints)
    return outcome(name, made, rows)


def outcome(name: str, made: Sequence[Run], rows: Rows) -> dict[str, Any]:
    """What stands in the rows of these runs."""
    found = rows.read()
    table = [found[run.sha] for run in made if run.sha in found]
    failed = [row for row in table if row["status"] != "ok"]
    return {
        "name": name,
        "rows": str(rows.path),
        "runs": len(made),
        "ok": len(table) - len(failed),
        "failed": [{key: row[key] for key in ("point", "seed", "reason")} for row in failed],
        "table": table,
    }


def check_options(stages: dict[str, str], points: list[dict], seeds: list[int], pairs: int, only: int) -> None:
    if not points or not seeds:
        raise UserError(f"a sweep must have a point and a seed; got {len(points)} and {len(seeds)}")
    if len(set(seeds)) < len(seeds) or len({sha(point) for point in points}) < len(points):
        raise UserError("points and seeds must differ, each from the others; got one twice; leave it out")
    if pairs < 0 or only < -1:
        raise UserError(f"pairs must be at least 0, only at least -1; got {pairs} and {only}")
    names = {key for point in points for key in point}
    if taken := names & {"seed", "queries", *stages}:
        raise UserError(f"a point's value must have a name of its own; got {', '.join(sorted(taken))}; rename it")


def subset(manifest: str, folder: Path, pairs: int, seed: int) -> Path:
    """Whole contrast pairs, as many of each factor, drawn by a seed: a manifest in the sweep's folder."""
    queries, root = read_queries(manifest, None), Path(manifest).parent.resolve()
    ids = {factor: sorted({q.pair_id for q in queries if q.factor == factor}) for factor in {q.factor for q in queries}}
    if short := [f"{factor} {len(found)}" for factor, found in sorted(ids.items()) if len(found) < pairs]:
        raise UserError(f"each factor must have {pairs} contrast pairs; got {', '.join(short)}; set pairs lower, or "
            f"make more queries: synthesize without --limit"
        )
    random = np.random.default_rng(seed)
    kept = {f: set(random.permutation(ids[f])[: pairs or len(ids[f])].tolist()) for f in sorted(ids)}
    chosen = [placed(q, lambda audio: str(root / audio)) for q in queries if q.pair_id in kept[q.factor]]
    lines = [to_json(query) + "\n" for query in chosen]
    path = folder / f"queries-{sha(lines)}.jsonl"
    write_manifest(path, chosen)
    return path


def plan(points: list[dict], seeds: list[int], options: dict[str, Any], folder: Path, queries: Path) -> list[Run]:
    """All runs, the first seed of all points first. Whatever can be known to be wrong is told here."""
    asked: list[Query] = read_queries(str(queries), None)
    about = queries_sha(asked, {q.id: inputs_of(q, queries.parent) for q in asked})
    return [plan_one(point, seed, options, folder, queries, about) for seed in seeds for point in points]


def plan_one(point: dict, seed: int, options: dict[str, Any], folder: Path, queries: Path, about: str) -> Run:
    values = {**point, "seed": seed}
    shown = {stage: f"{{{stage}}}" for stage in options["stages"]}  # a run's folder is no part of what it is
    typed = {stage: filled(text, values | shown) for stage, text in options["stages"].items()}
    trees = {stage: tree_of("fit", [*words, "--seed_everything", str(seed)]) for stage, words in typed.items()}
    asked = {c: filled(options[c], values | shown | {"queries": ""}) for c in ("evaluate", "skills") if options[c]}
    others = {command: tree_of(command, words) for command, words in asked.items()}
    others.get("evaluate", {}).pop("manifest", None)  # `about` says which queries are answered
    files = {path: file_sha(path) for path in files_of([trees, others])}
    made_from = [decisive(trees), others, sorted(files.values()), about, options["threads"], ROWS]
    found = sha(made_from)
    label = "_".join(re.sub(r"[^\w.]+", "-", f"{key}-{value_text(value)}") for key, value in point.items())[:60]
    run = folder / f"{label}_seed-{seed}_{found[:8]}"
    places = values | {stage: str(run / stage) for stage in typed} | {"queries": str(queries)}
    commands = {}
    for stage, text in options["stages"].items():
        logger = ["--trainer.logger.save_dir", str(folder), "--trainer.logger.name", run.name]
        words = filled(text, places) + ["--seed_everything", str(seed), *logger, "--trainer.logger.version", stage]
        commands[stage] = ["fit", *words]
    for command in asked:
        commands[command] = [command, *filled(options[command], places)]
    if "evaluate" in commands:
        commands["evaluate"] += ["--manifest", str(queries), "--output", str(run / "evaluate")]
    return Run(point, seed, found, trees, Work(run, commands, options["threads"]))


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


def texts_in(tree: Any) -> list[str]:
    """All texts of a tree, whole: a path may hold blanks, and letters of any script."""
    inner = [*tree, *tree.values()] if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else []
    return [tree] if isinstance(tree, str) else [text for one in inner for text in texts_in(one)]


def words_of(text: str) -> list[str]:
    """What may be a path or a class's name."""
    return list(dict.fromkeys(re.findall(r"[\w./@+-]{2,500}", text)))


def steps_of(tree: dict[str, Any]) -> int:
    return tree.get("trainer", {}).get("max_steps", 1)


def responses_of(tree: dict[str, Any]) -> int:
    """Responses in a batch."""
    data, model = (tree.get(key, {}).get("init_args", {}) for key in ("data", "model"))
    group = model.get("group_size", 8) if str(tree.get("model", {}).get("class_path")).endswith("GRPOModule") else 1
    return data.get("batch_size", 1) * group


def most_workers(run_gb: float, threads: int) -> int:
    """How many runs fit into the threads and the memory that this process may use."""
    cores, free = usable_threads()[0], free_memory()[0]
    return max(1, min(cores // max(threads, 1), int(free / (run_gb * 1e9)) if free else cores))
