"""The screens of the commands that train, or plan training."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from lightning_paras2s.running.next_stage import command_after
from lightning_paras2s.shown.screen import WIDTH, Result, Shown, table, with_ends

TOLD = ("train/reward", "train/loss", "train/kl", "val/reward", "val/loss", "val/pearson", "val/pearson_within")


def fit(result: Result, options: Result) -> Shown:
    """A stage of training: what comes next depends on it and on the family of its model."""
    rows: list[tuple[str, Any]] = [("optimizer steps", result["steps"]), ("batches", result["batches"])]
    rows += [("steps left out", result["skipped"])] if result["skipped"] else []
    rows += [(name, result["metrics"][name]) for name in TOLD if name in result["metrics"]]
    board = f"python -m tensorboard.main --logdir {Path(result['folder']).parent.parent}, tab Custom Scalars"
    told = [f"weights: {result['weights']}", f"curves: {result['folder']}/metrics.jsonl; {board}"]
    if not result["trained"]:
        told.append("Nothing was trained: it had ended before. To go on, raise trainer.max_steps.")
    again = command_after(result["stage"], result["model"], result["weights"])
    return Shown([table((f"{result['stage']}, last values", ""), rows), *told], again)


def chain(result: Result, options: Result) -> Shown:
    form = "{:13}{:9}{:>8}{:>6}{:>11}"
    lines = [form.format("stage", "state", "hours", "GPUs", "USD")]
    for row in result["stages"]:
        lines.append(form.format(row["stage"], row["state"], f"{row['hours']:g}", row["gpus"], f"{row['usd']:,.0f}"))
        for what in ("reads", "writes", "note"):
            told = row[what] if what == "note" else ", ".join(row[what])
            lines += textwrap.wrap(
                told, WIDTH, initial_indent=f"  {what:8}", subsequent_indent=" " * 10, break_on_hyphens=False
            )
    lines.append(form.format("left", "", f"{result['hours']:g}", "", f"{result['usd']:,.0f}"))
    price = result["usd_per_gpu_hour"]
    cost = (
        f"US dollars hold {result['gpu_hours']:g} GPU-hours at {price:g}" if price else "US dollars are servers' alone"
    )
    lines += ["", f"{cost}; hours are estimates, none was measured"]
    if result["absent"]:
        lines += textwrap.wrap(f"to be put there first: {', '.join(result['absent'])}", WIDTH, break_on_hyphens=False)
    again = "chain ..., without --dry_run"
    return Shown(["\n".join(lines)], again if result.get("dry_run") and result["hours"] else "")


def plan(result: Result, options: Result) -> Shown:
    """It prints its own lines."""
    if "stages" in result:
        first = result["stages"][0]
        command = {"samples": "predict", "evaluate": "evaluate"}.get(first["stage"], "fit")
        return Shown([], f"{command} --config {first['config']}")
    tokens = result.get("micro_batch_tokens", 0)
    return Shown(
        [], f"fit --config paper/grpo.yaml --config trainer/fsdp2_8gpu.yaml --model.micro_batch_tokens {tokens}"
    )


def sweep(result: Result, options: Result) -> Shown:
    if result.get("dry_run"):
        rows = [[one[key] for key in ("run", "point", "seed", "hours", "state")] for one in result["each"]]
        told = [f"{result['todo']} of {result['runs']} runs to do: {result['hours']:.2f} hours one after another, "
                f"{result['usd']:.2f} US dollars", result["how"]]  # fmt: skip
        return Shown([table(("run", "point", "seed", "hours", ""), rows), *told], "sweep ... without --dry_run")
    if "script" in result:
        if not result["tasks"]:
            return Shown([f"all {result['runs']} runs have a row: nothing is left to submit"])
        return Shown([f"script: {result['script']} ({result['tasks']} tasks)", f"submit it: sbatch {result['script']}"])
    rows, ended = [], [r for r in result["table"] if r["status"] == "ok"]
    more = list(dict.fromkeys(name for row in ended for name in row.get("columns", {})))
    for row in ended:
        for name, cells in row["systems"].items():
            score, kl = with_ends(cells["mean"], cells["ci95"], 2), row.get("last_quarter", {}).get("kl")
            own = [row.get("columns", {}).get(column) for column in more]
            rows.append((point_text(row["point"]), row["seed"], name, score, cells["n"], cells["audit_mean"], kl, *own))
    failed = [f"failed: {point_text(one['point'])}, seed {one['seed']}: {one['reason']}" for one in result["failed"]]
    parts = [table(("point", "seed", "system", "score [95 %]", "n", "audit", "KL", *more), rows), *failed]
    told = f"{result['ok']} of {result['runs']} runs done, {len(result['failed'])} failed; rows: {result['rows']}"
    missing = "" if result["ok"] else "no run that was asked for ended well" + "".join(f"; {one}" for one in failed[:1])
    again = f"sweep --config {options['name'].removeprefix('sweep_')}.yaml --retry true" if failed else ""
    return Shown([*parts, told], again, missing)


def point_text(point: Result) -> str:
    return ", ".join(f"{key} {value}" for key, value in point.items())
