"""What each command prints for a person: its result, at most 80 columns wide, and the next command to type.

A command returns what `--json` prints; a function of its name here says how that reads. `missing` tells why nothing
came out: the command line then ends with exit code 1.
"""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_paras2s.running.next_stage import command_after

WIDTH = 80
OVERALL = "overall"
Result = dict[str, Any]


class Shown(NamedTuple):
    """Attributes:
    parts: lines and tables, in order.
    next: the command to type next, without the program's name; "" = none.
    missing: why nothing came out; "" where something did.
    """

    parts: list[RenderableType]
    next: str = ""
    missing: str = ""


def show(command: str, result: Any, options: Result, program: str, quiet: bool) -> str:
    """Print a command's result on stdout and the next command on stderr, so that a table can go to a file.

    `quiet` prints neither.

    Returns:
        Why nothing came out; "" where something did.
    """
    if command not in SHOWN or not isinstance(result, dict):
        return ""
    shown = SHOWN[command](result, options)
    if quiet:
        return shown.missing
    console = Console(width=WIDTH, highlight=False)
    for part in shown.parts:
        console.print(Text(part) if isinstance(part, str) else part)
    if shown.next and not shown.missing:
        print(f"next: {program} {shown.next}", file=sys.stderr)
    return shown.missing


def table(headings: Iterable[str], rows: Iterable[Iterable[Any]], title: str = "") -> Table:
    """Names left, numbers right."""
    made = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(value)) for value in row))
    return made


def cell(value: Any) -> str:
    """A number as it is read; "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def with_ends(value: float | None, ends: Iterable[float | None] | None, digits: int = 3) -> str:
    """ "3.210 [3.050, 3.370]"; "-" where there is no number."""
    if value is None:
        return "-"
    low, high = ends or (None, None)
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"


def counted(counts: Result) -> str:
    """ "kept 3, few_words 2"."""
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def quoted(paths: Iterable[str]) -> str:
    """A list of folders as one types it."""
    return shlex.quote("[" + ", ".join(paths) + "]")


def mine(result: Result, options: Result) -> Shown:
    if result.get("dry_run"):
        rows = [(name, result[name]) for name in ("requests", "candidates", "tokens")]
        rows.append(("price in US dollars, at most", f"{result['usd']:.2f}"))
        again = f"mine ... --max_usd {max(result['usd'], 0.01):.2f}, without --dry_run"
        return Shown([table(("what it would ask", ""), rows)], again)
    rows = [(name, counted(result[name])) for name in ("prompts", "candidates", "why", "accepted")]
    rows.append(("US dollars", f"{result['usd']:.4f}"))
    missing = "" if result["accepted"] else "no script was accepted: " + counted(result["why"] or result["prompts"])
    out = Path(result["scripts"]).parent / "queries"
    return Shown([table((result["llm"], ""), rows), f"scripts: {result['scripts']}"],
                 f"synthesize --source {result['scripts']} --out {out}", missing)  # fmt: skip


def synthesize(result: Result, options: Result) -> Shown:
    columns = ("prompts", "utterances", "mean_seconds", "hours")
    rows = {**result["factors"], "total": result["total"]}
    shown = table(("factor", "prompts", "utterances", "seconds each", "hours"),
                  ([name, *(row[c] for c in columns)] for name, row in rows.items()))  # fmt: skip
    statuses = {s: n for s, n in result["statuses"].items() if s != "ok"}
    parts = [shown, f"queries: {result['manifest']}"] + ([f"not spoken: {counted(statuses)}"] if statuses else [])
    missing = "" if result["total"]["utterances"] else f"no utterance was made: {counted(statuses)}"
    return Shown(parts, f"evaluate --config evaluate.yaml --manifest {result['manifest']}", missing)


def filter(result: Result, options: Result) -> Shown:
    kept, read = result["kept_by_factor"], result["read_by_factor"]
    shown = table(("factor", "read", "kept"), [(f, n, kept.get(f, 0)) for f, n in read.items()])
    told = f"kept {result['kept']} of {result['read']} queries; left out: {counted(result['rejected'])}"
    missing = "" if result["kept"] else f"no query was kept of {result['read']}: {counted(result['rejected'])}"
    return Shown([shown, told, f"queries: {result['manifest']}"],
                 f"evaluate --config evaluate.yaml --manifest {result['manifest']}", missing)  # fmt: skip


def deal(result: Result, options: Result) -> Shown:
    rows = [(name, row["queries"], row["pairs"], row["manifest"]) for name, row in result["parts"].items()]
    dealt = sum(row["queries"] for row in result["parts"].values())
    shown = table(("part", "queries", "pairs", "manifest"), rows)
    missing = "" if dealt else f"no query was dealt of {result['read']}"
    return Shown(
        [shown, f"dealt {dealt} of {result['read']} queries"], "demonstrate --config demonstrate.yaml", missing
    )


def demonstrate(result: Result, options: Result) -> Shown:
    if result.get("dry_run"):
        rows = [(name, result[name]) for name in ("queries", "requests", "tokens", "speech_hours")]
        rows.append(("price in US dollars, at most", f"{result['usd']:.2f}"))
        again = f"demonstrate ... --max_usd {max(result['usd'], 0.01):.2f}, without --dry_run"
        return Shown([table(("what it would ask", ""), rows)], again)
    found = result["answered_by_factor"]
    shown = table(
        ("factor", "queries", "answered"), [(f, n, found.get(f, 0)) for f, n in result["read_by_factor"].items()]
    )
    left = {status: n for status, n in result["statuses"].items() if status != "ok"}
    told = [
        f"answered {result['answered']} of {result['queries']} queries; without an answer: {counted(left)}",
        f"word error rate {cell(result['wer'])} (of all {result['candidates']} candidates "
        f"{cell(result['wer_of_candidates'])}, {cell(result['tone_share_of_candidates'])} of them in the wanted tone)",
        f"US dollars {result['usd']:.4f}; answers: {result['answers']}",
    ]
    missing = "" if result["answered"] else f"no query has an answer: {counted(left)}"
    return Shown([shown, *told], "fit --config paper/sft.yaml --config trainer/fsdp2_8gpu.yaml", missing)


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


def evaluate(result: Result, options: Result) -> Shown:
    output = options.get("output", "runs/evaluate")
    if result.get("dry_run"):
        rows = [("answers", result["answers"]), ("verdicts", result["verdicts"])]
        rows.append((f"judge {result['judge']}, US dollars", f"{result['usd']:.2f}"))
        rows += [(f"{name}, US dollars at most", f"{usd:.2f}") for name, usd in result["systems_usd"].items()]
        return Shown([table(("what it would ask", ""), rows)], "evaluate ..., without --dry_run")
    if "systems" not in result:  # a shard
        return Shown([f"responses: {result['responses']}"], "evaluate ... --shard 0/1 (merges the shards)")
    rows, failed = [], []
    for name, cells in result["systems"].items():
        whole = cells[OVERALL]
        accuracy = with_ends(whole["pair_accuracy"], whole.get("pair_accuracy_ci95"))
        rows.append((name, with_ends(whole["mean"], whole["ci95"]), whole["n"], whole["n_failed"], accuracy))
        if not whole["n"]:
            failed.append(f"{name} ({counted(result['response_statuses'].get(name, {}))})")
    parts: list[RenderableType] = [table(("system", "score [95 %]", "n", "failed", "pairs >= 4 [95 %]"), rows)]
    if failed:
        parts.append(f"without any score: {', '.join(failed)}")
    missing = f"no response was scored: {', '.join(failed)}" if len(failed) == len(rows) else ""
    return Shown([*parts, f"records: {output}"], f"report --run {output} --output {output}/report.html", missing)


def bench(result: Result, options: Result) -> Shown:
    seconds = [(name, value) for name, value in result["seconds"].items()]
    page = result.get("report", {}).get("path", f"{options['out']}/report.html")
    return Shown(
        [table(("step", "seconds"), seconds), f"listen: {page}"], f"leaderboard --runs [{options['out']}/evaluate]"
    )


def leaderboard(result: Result, options: Result) -> Shown:
    """It prints its own table, in the format that was asked for."""
    run = options["runs"][0]
    scored = sum(row[OVERALL]["n"] for row in result["rows"])
    missing = "" if scored else "no system of these runs has a score"
    parts = [f"table: {options['output']}"] if options.get("output") else []
    if page := result.get("html"):
        parts.append(
            f"page: {page['path']} ({page['pairs']} pairs, {page['clips']} clips, {page['bytes'] / 1e6:.1f} MB)"
        )
    return Shown(parts, f"report --run {run} --output report.html", missing)


def headline(result: Result, options: Result) -> Shown:
    rows = [
        (name, with_ends(s["score"]["value"], s["score"]["ci95"]), s["n"], s["n_failed"], cell(s["wer"]["value"]))
        for name, s in result["systems"].items()
    ]
    gain, wer = result["gain"], result["wer"]
    told = [
        f"gain (score over score): {with_ends(gain['ratio'], gain['ci95'])}, p = {cell(gain['p'])}",
        f"at least 1.1 and p < .05: {'yes' if gain['holds'] else 'no'}; word error rate "
        f"{with_ends(wer['value'], wer['ci95'])}, not more than .03 worse: {'yes' if wer['holds'] else 'no'}",
        f"{result['seeds']} seeds, {result['n']} queries in {result['pairs']} pairs",
    ]
    missing = "" if any(row[2] for row in rows) else "no response of these runs has a score"
    title = "mean over seeds, 95 % interval over pairs and seeds"
    return Shown([table(("system", "score [95 %]", "n", "failed", "WER"), rows, title), *told],
                 f"report --run {result['runs'][0]} --output report.html", missing)  # fmt: skip


def skills(result: Result, options: Result) -> Shown:
    rows = [
        (
            skill,
            name,
            with_ends(row["mean"], row["ci95"]),
            row["n"],
            with_ends(row.get("change"), row.get("change_ci95")),
        )
        for skill, found in result["skills"].items()
        for name, row in found.items()
    ]
    shown = table(("skill", "policy", "share right [95 %]", "n", "change [95 %]"), rows)
    missing = "" if any(row[3] for row in rows) else "no item of any skill was scored"
    return Shown([shown, f"split {result['split']}, seed {result['seed']}"], "evaluate --config evaluate.yaml", missing)


def report(result: Result, options: Result) -> Shown:
    told = f"{result['path']}: {result['pairs']} pairs, {result['clips']} clips, {result['bytes'] / 1e6:.1f} MB"
    missing = "" if result["pairs"] else "no query of this run has an answer"
    return Shown(
        [told, "Open it in a browser; it needs no network."], f"leaderboard --runs [{options['run']}]", missing
    )


def arena(result: Result, options: Result) -> Shown:
    counts = ("wins", "losses", "both_good", "both_bad")
    rows = [
        (r["system"], with_ends(r["strength"], r["ci95"], 0), with_ends(r["elo"], None, 0), *(r[c] for c in counts))
        for r in result["systems"]
    ]
    shown = table(("system", "strength [95 %]", "Elo", "won", "lost", "both good", "both bad"), rows)
    told = [f"{result['games']} games over {result['queries']} queries; verdicts: {counted(result['verdicts'])}"]
    chances = result["equal_p"] if isinstance(result["equal_p"], list) else [result["equal_p"]]
    told += [f"strengths would differ so much with p = {p:.2g} if all were equal" for p in chances if p is not None]
    if bias := result["position_bias"]:
        both = f"first {bias['first']}, second {bias['second']}"
        said = f"won both times, of {bias['pairs']} pairs heard in both orders: {both}"
        told.append(said if bias["p"] is None else f"{said} (p = {bias['p']:.2g} by chance)")
    for key in ("by_level", "by_topic"):
        for name, part in result.get(key, {}).items():
            order = ", ".join(f"{r['system']} {r['elo']:.0f}" for r in part["systems"])
            told.append(f"{name} ({part['games']} games), Elo: {order}")
    if page := result.get("page"):
        told.append(f"to listen to: {page['path']} ({page['games']} games, {page['bytes'] / 1e6:.1f} MB)")
    if (listeners := result.get("listeners")) and listeners["n"]:
        kappa = with_ends(listeners["kappa"], listeners["kappa_ci95"])
        told.append(
            f"agreement with the other battles: {listeners['agreement']:.3f}, kappa {kappa}, n {listeners['n']}"
        )
    told.append(f"records: {options['out']}")
    again = (
        f"annotate --manifest QUERIES --runs {quoted(options.get('runs') or ['RUN'])} --out choices.jsonl --pairwise"
    )
    return Shown([shown, *told], again, "" if result["games"] else "no battle was played")


def import_speech(result: Result, options: Result) -> Shown:
    kept, left = result["counts"].get("kept", 0), {k: n for k, n in result["counts"].items() if k != "kept"}
    told = [f"kept {kept}; left out: {counted(left)}", f"queries: {result['manifest']}"]
    if "log" in result:  # without labels
        of = f"of {result['recordings']} recordings, {result['hours']:.3f} h; why others were left out: {result['log']}"
        again = f"--data.source ManifestDialogues --data.source.manifest {result['manifest']}"
        return Shown([*told, of], f"fit --config grpo.yaml {again}")
    shown = table(("style", "queries"), list(result["by_style"].items()))
    missing = "" if kept else f"no recording was kept: {counted(left)}"
    return Shown([shown, *told], f"evaluate --config evaluate.yaml --manifest {result['manifest']}", missing)


def voicebench(result: Result, options: Result) -> Shown:
    rows = [(name, f"{row['value']:.2f}", row["n"], row["n_unread"]) for name, row in result["sets"].items()]
    whole = f"{result['overall']:.2f}" if result["overall"] is not None else "not known: it needs nine sets"
    shown = table((result["model"], "figure", "n", "not read"), rows)
    missing = "" if any(row["n"] for row in result["sets"].values()) else "no answer counts"
    return Shown([shown, f"overall: {whole}"], "", missing)


def agreement(result: Result, options: Result) -> Shown:
    rows = []
    for name, row in result.items():
        if isinstance(row, dict) and "alpha" in row:
            judge = with_ends(row.get("pearson"), row.get("pearson_ci95"))
            rows.append(
                (name, row.get("n"), cell(row["alpha"]), judge, cell(row.get("spearman")), cell(row.get("mae")))
            )
    shown = table(("", "n", "alpha", "Pearson [95 %]", "Spearman", "error"), rows,
                  f"{result['judge']} and {result['annotators']} listeners")  # fmt: skip
    return Shown([shown], f"leaderboard --runs {quoted(options['runs'])}")


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
        rows = [(i, *(one[key] for key in ("point", "seed", "hours", "state"))) for i, one in enumerate(result["each"])]
        told = [f"{result['todo']} of {result['runs']} runs to do: {result['hours']:.2f} hours one after another, "
                f"{result['usd']:.2f} US dollars", result["how"]]  # fmt: skip
        return Shown([table(("run", "point", "seed", "hours", ""), rows), *told], "sweep ... without --dry_run")
    if "script" in result:
        if not result["tasks"]:
            return Shown([f"all {result['runs']} runs have a row: nothing is left to submit"])
        return Shown([f"script: {result['script']} ({result['tasks']} tasks)", f"submit it: sbatch {result['script']}"])
    rows = []
    for row in (r for r in result["table"] if r["status"] == "ok"):
        for name, cells in row["systems"].items():
            score, kl = with_ends(cells["mean"], cells["ci95"], 2), row.get("last_quarter", {}).get("kl")
            rows.append((point_text(row["point"]), row["seed"], name, score, cells["n"], cells["audit_mean"], kl))
    failed = [f"failed: {point_text(one['point'])}, seed {one['seed']}: {one['reason']}" for one in result["failed"]]
    parts = [table(("point", "seed", "system", "score [95 %]", "n", "audit", "KL"), rows), *failed]
    told = f"{result['ok']} of {result['runs']} runs done, {len(result['failed'])} failed; rows: {result['rows']}"
    missing = "" if result["ok"] else "no run of this sweep ended well" + "".join(f"; {one}" for one in failed[:1])
    again = f"sweep --config {options['name'].removeprefix('sweep_')}.yaml --retry true" if failed else ""
    return Shown([*parts, told], again, missing)


def point_text(point: Result) -> str:
    return ", ".join(f"{key} {value}" for key, value in point.items())


def leakage(result: Result, options: Result) -> Shown:
    words = ("agree", "mislead", "neutral")
    rows = [
        (name, *(mean_of(found[w]) for w in words)) for name, found in result["macro_accuracy"].items()
    ] + [(name, *(with_ends(found[w]["value"], found[w]["ci95"]) for w in words))
         for name, found in result["differences"].items()]  # fmt: skip
    shown = table(("accuracy where words", "agree", "mislead", "are neutral"), rows)
    told = f"{result['n']} recordings ({result['texts']}), seed {result['seed']}; a deaf analyser's three are alike"
    return Shown([shown, told], "judge_table", "" if result["n"] else "no recording was named")


def mean_of(found: Result) -> str:
    return with_ends(found.get("value"), found.get("ci95"))


def judge_table(result: Result, options: Result) -> Shown:
    rows = [
        (name, with_ends(row["pearson"], row["pearson_ci95"]), cell(row["spearman"]), cell(row["mae"]), row["n_failed"])
        for name, row in ((name, result["judges"][name]) for name in result["order"])
    ]
    shown = table(("judge", "Pearson [95 %]", "Spearman", "error", "failed"), rows)
    order = "the paper's order" if result["papers_order"] else "not the paper's order"
    told = [
        f"{result['n_common']} replies of {result['n']} scored by all; {order}",
        f"reference: {result['reference']}",
    ]
    missing = "" if result["n_common"] else "no reply was scored by every judge"
    return Shown([shown, *told], "evaluate --config evaluate.yaml", missing)


def audit(result: Result, options: Result) -> Shown:
    from lightning_paras2s.bench.outside_table import terminal_table

    if "systems" not in result:  # a shard
        return Shown([f"answers: {result['answers']}"], "audit ... --shard 0/1 (merges the shards)")
    heard = sum(system["n"] for system in result["systems"].values())
    missing = "" if heard else "no answer was heard"
    return Shown([terminal_table(result)], f"leaderboard --runs '[{options['run']}]'", missing)


def serve(result: Result, options: Result) -> Shown:
    counts = [(f"responses with {status}", count) for status, count in result["statuses"].items()]
    counts += [(f"connections ended: {why.replace('_', ' ')}", count) for why, count in result["dropped"].items()]
    names = ("accepted", "votes", "rows_a_batch", "latency_p50_seconds", "latency_p95_seconds")
    names += ("heard_seconds", "spoken_seconds", "compute_seconds", "real_time_factor")
    rows = counts + [(name.replace("_", " "), result[name]) for name in names]
    arena = f"arena --battles {options.get('battles')} --out runs/serve/arena"
    after = arena if result["votes"] else "evaluate --config evaluate.yaml"
    return Shown([table((", ".join(result["models"]), ""), rows)], after)


TOLD = ("train/reward", "train/loss", "train/kl", "val/reward", "val/loss", "val/pearson")


def fit(result: Result, options: Result) -> Shown:
    """A stage of training: what comes next depends on it and on the family of its model."""
    rows: list[tuple[str, Any]] = [("optimizer steps", result["steps"]), ("batches", result["batches"])]
    rows += [("steps left out", result["skipped"])] if result["skipped"] else []
    rows += [(name, result["metrics"][name]) for name in TOLD if name in result["metrics"]]
    told = [f"weights: {result['weights']}", f"curves: {result['folder']}/metrics.jsonl, and in TensorBoard"]
    if not result["trained"]:
        told.append("Nothing was trained: it had ended before. To go on, raise trainer.max_steps.")
    again = command_after(result["stage"], result["model"], result["weights"])
    return Shown([table((f"{result['stage']}, last values", ""), rows), *told], again)


SHOWN: dict[str, Callable[[Result, Result], Shown]] = {
    made.__name__: made
    for made in (
        *(fit, bench, mine, synthesize, filter, deal, demonstrate, chain, evaluate, audit, leaderboard),
        *(headline, skills, report, arena),
        *(serve, import_speech, voicebench, agreement, plan, sweep, leakage, judge_table),
    )
}
