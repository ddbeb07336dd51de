"""`sweep`: a grid of stages and `evaluate` (points x seeds), one row a run in results/NAME.jsonl.

A run is known by the hash of all that it is made from: its merged configs and options, the files that they name, the
queries that it answers, and what a row means (`ROWS`). What has a row is not run again; a run that another sweep with
rows in the same folder has done takes that row, since curves often meet in one recipe; a run that was killed goes on
from its last checkpoint, its evaluation from its last answer. Each run is a chain of subcommands in a folder of its
own, so that as many go side by side as the machine holds. A run that fails is a row with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_paras2s.bench.queries.manifest import placed, read_queries, write_manifest
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.machine import free_memory, usable_threads
from lightning_paras2s.running.origins import sha
from lightning_paras2s.sweeping.planning import MADE, Run, check_stages, plan
from lightning_paras2s.sweeping.rows import Rows
from lightning_paras2s.sweeping.runs import run_all
from lightning_paras2s.types import to_json


def sweep(
    name: str,
    stages: dict[str, str],
    points: list[dict[str, Any]],
    evaluate: str,
    skills: str = "",
    audit: str = "",
    columns: dict[str, str] = {},  # noqa: B006  it is read only
    seeds: list[int] = [1, 2, 3],  # noqa: B006
    manifest: Literal["made"] | InputPath = "runs/bench/test/queries.jsonl",
    pairs: int = 10,
    subset_seed: int = 0,
    results: str = "results",
    runs: str = "runs",
    workers: int = 0,
    run_gb: float = 1.5,
    threads: int = 1,
    keep_checkpoints: bool = False,
    retry: bool = False,
    only: str | int = "",
    dry_run: bool = False,
    step_seconds: float = 0.0,
    usd_per_hour: float = 0.0,
    submit: Literal["no", "slurm"] = "no",
    slurm: list[str] = ["--time=24:00:00", "--cpus-per-task=2"],  # noqa: B006
) -> dict[str, Any]:
    """Run a grid of stages and `evaluate`, and append one row a run; started again, it goes on where it was stopped.

    In the options below, {x} stands for the value of x at a point, {seed} for the seed, {queries} for the queries that
    are answered, and the name of a stage for the folder of its run.

    Args:
        name: of the sweep: its rows go to NAME.jsonl, its runs to a folder of this name.
        stages: name -> options of `fit`, or another subcommand and its options, as one types them; they run in this
            order. To those of `fit` and `predict`, --seed_everything and the folder are added. None = nothing is
            trained, and what is there is evaluated.
        points: of the grid, each a value for every {x} (G, 8; ...).
        evaluate: options of `evaluate`, as one types them, but for the manifest and the output.
        skills: options of `skills`, likewise; nothing = forgetting is not measured.
        audit: options of `audit`, likewise, but for the run; nothing = no ears from outside hear the answers.
        columns: more columns of a row: name -> STAGE:METRIC, the last value that a stage logs (reward:val/pearson).
        seeds: of every point; the first seed of all points comes first.
        manifest: JSON lines of query records, of which some pairs are answered; made = each run's stage `made` makes
            its own, queries.jsonl in its folder (`synthesize --out {made} ...`), and all of it is answered.
        pairs: contrast pairs of each factor that are answered, drawn at random; 0 = all.
        subset_seed: of that draw.
        results: folder of the rows.
        runs: folder of the runs.
        workers: runs side by side; 0 = as many as the usable threads and the free memory hold.
        run_gb: memory that a run is expected to take, in GB.
        threads: of each run; 0 leaves it to each run.
        keep_checkpoints: keep a finished run's checkpoints and judged samples, and not only its weights.
        retry: run those again that have failed.
        only: the one run to do, price or submit, by its number (from 0, in the order of --dry_run) or its hash, which
            SLURM's arrays give; nothing = all.
        dry_run: print runs, hours and dollars, and run nothing but a few steps to measure.
        step_seconds: of an optimizer step of the first point, for --dry_run; 0 takes it from the rows that are there,
            or measures three steps.
        usd_per_hour: price of one run's share of a machine, in US dollars an hour.
        submit: slurm = run nothing, and write a script for `sbatch` with a task a run; no = run here.
        slurm: options of `sbatch` in that script.
    """
    check_options(stages, points, seeds, pairs)
    check_stages(stages, columns, manifest)
    folder = Path(runs) / name
    rows = Rows(Path(results) / f"{name}.jsonl", folder / ".rows.lock")
    queries = None if manifest == MADE else subset(manifest, folder, pairs, subset_seed)
    options = {"stages": stages, "evaluate": evaluate, "skills": skills, "audit": audit, "threads": threads}
    options |= {"columns": columns}
    made = plan(points, seeds, options, folder, queries)
    asked = {place: made[place] for place in places(made, str(only))}
    todo = [run for run in asked.values() if run.sha not in rows.done(retry)]
    known = rows.known_elsewhere(todo)
    todo = [run for run in todo if run.sha not in known]
    if dry_run:
        from lightning_paras2s.sweeping.price import price

        return price(name, made, asked, todo, rows, step_seconds, usd_per_hour)
    rows.add_known(list(known.values()))
    if submit == "slurm":
        from lightning_paras2s.sweeping.price import array_script

        again = {"name": name, "points": points, "seeds": seeds, "manifest": manifest, "pairs": pairs}
        again |= {"subset_seed": subset_seed, "results": results, "runs": runs, "run_gb": run_gb}
        again |= {"keep_checkpoints": keep_checkpoints, "retry": retry, **options}
        left = {place: run.sha for place, run in asked.items() if run in todo}
        return array_script(folder, len(asked), left, again, slurm)
    run_all(name, todo, rows, workers or most_workers(run_gb, threads), keep_checkpoints)
    return outcome(name, list(asked.values()), rows)


def places(made: Sequence[Run], only: str) -> list[int]:
    """Places of the runs that are asked for: all, or the one of a number or a hash.

    Raises:
        UserError: there is none such.
    """
    found = [place for place, run in enumerate(made) if only in ("", str(place), run.sha)]
    if not found:
        raise UserError(
            f"only must be the number of a run, 0 to {len(made) - 1}, or its hash; got {only}; a run's hash is another "
            "since the grid, or a file that it names, has changed: submit or number them again (--submit, --dry_run)"
        )
    return found


def outcome(name: str, made: Sequence[Run], rows: Rows) -> dict[str, Any]:
    """What stands in the rows of these runs; of the one alone that was asked for: its failure is the command's."""
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


def check_options(stages: dict[str, str], points: list[dict], seeds: list[int], pairs: int) -> None:
    if not points or not seeds:
        raise UserError(f"a sweep must have a point and a seed; got {len(points)} and {len(seeds)}")
    if len(set(seeds)) < len(seeds) or len({sha(point) for point in points}) < len(points):
        raise UserError("points and seeds must differ, each from the others; got one twice; leave it out")
    if pairs < 0:
        raise UserError(f"pairs must be at least 0; got {pairs}")
    names = {key for point in points for key in point}
    if taken := names & {"seed", "queries", *stages}:
        raise UserError(f"a point's value must have a name of its own; got {', '.join(sorted(taken))}; rename it")


def subset(manifest: str, folder: Path, pairs: int, seed: int) -> Path:
    """Whole contrast pairs, as many of each factor, drawn by a seed: a manifest in the sweep's folder."""
    queries, root = read_queries(manifest, None), Path(manifest).parent.resolve()
    ids = {factor: sorted({q.pair_id for q in queries if q.factor == factor}) for factor in {q.factor for q in queries}}
    if short := [f"{factor} {len(found)}" for factor, found in sorted(ids.items()) if len(found) < pairs]:
        raise UserError(
            f"each factor must have {pairs} contrast pairs; got {', '.join(short)}; set pairs lower, or make more "
            "queries: synthesize without --limit"
        )
    random = np.random.default_rng(seed)
    kept = {f: set(random.permutation(ids[f])[: pairs or len(ids[f])].tolist()) for f in sorted(ids)}
    chosen = [placed(q, lambda audio: str(root / audio)) for q in queries if q.pair_id in kept[q.factor]]
    lines = [to_json(query) + "\n" for query in chosen]
    path = folder / f"queries-{sha(lines)}.jsonl"
    write_manifest(path, chosen)
    return path


def most_workers(run_gb: float, threads: int) -> int:
    """How many runs fit into the threads and the memory that this process may use."""
    cores, free = usable_threads()[0], free_memory()[0]
    return max(1, min(cores // max(threads, 1), int(free / (run_gb * 1e9)) if free else cores))
