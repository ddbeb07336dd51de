"""The screens of the commands that measure systems on queries, and compare what was measured."""

from __future__ import annotations

from rich.console import RenderableType

from lightning_paras2s.bench.pairs.runs import clustered
from lightning_paras2s.shown.screen import OVERALL, Result, Shown, cell, counted, quoted, table, with_ends


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
    measures = result.get("measures", {}).get("systems", {})
    parts += measured(measures)
    valued = any(one["n"] for found in measures.values() for one in found.values())
    missing = f"no response was scored: {', '.join(failed)}" if len(failed) == len(rows) and not valued else ""
    return Shown([*parts, f"records: {output}"], f"report --run {output} --output {output}/report.html", missing)


def measured(systems: dict[str, Result]) -> list[RenderableType]:
    """Related benchmarks' measures of each system, and why answers have no value, or a 0 that was not read."""
    rows, others = [], []
    for name, found in systems.items():
        for measure, one in found.items():
            whole = with_ends(one["pooled"], one["pooled_ci95"]) if "pooled" in one else ""
            rows.append((name, measure, with_ends(one["mean"], one["ci95"]), one["n"], one["n_failed"], whole))
            if told := {status: count for status, count in one["statuses"].items() if status != "ok"}:
                others.append(f"{name}, {measure}: {counted(told)}")
    if not rows:
        return []
    shown = table(("system", "measure", "mean [95 %]", "n", "without", "whole set [95 %]"), rows)
    return [shown, *(f"not ok: {line}" for line in others)]


def bench(result: Result, options: Result) -> Shown:
    page = result.get("report", {}).get("path", f"{options['out']}/report.html")
    steps = table(("step", "seconds"), result["seconds"].items())
    return Shown([steps, f"listen: {page}"], f"leaderboard --runs {quoted([options['out'] + '/evaluate'])}")


def audit(result: Result, options: Result) -> Shown:
    from lightning_paras2s.bench.outside_table import terminal_table

    if result.get("dry_run"):
        rows = [("answers", result["answers"]), ("hours of one core", f"{result['hours']:.2f}")]
        if result["judge"]:
            rows += [("verdicts", result["verdicts"]), (f"judge {result['judge']}, US dollars", f"{result['usd']:.2f}")]
        return Shown([table(("what it would ask", ""), rows)], "audit ..., without --dry_run")
    if "systems" not in result:  # a shard
        return Shown([f"answers: {result['answers']}"], "audit ... --shard 0/1 (merges the shards)")
    heard = sum(system["n"] for system in result["systems"].values())
    missing = "" if heard else "no answer was heard"
    return Shown([terminal_table(result)], f"leaderboard --runs '[{options['run']}]'", missing)


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
        *result["notes"],
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
            f"{row['p_holm']:.2g}" if "p_holm" in row else "-",
        )
        for skill, found in result["skills"].items()
        for name, row in found.items()
    ]
    shown = table(("skill", "policy", "share right [95 %]", "n", "change [95 %]", "p Holm"), rows)
    missing = "" if any(row[3] for row in rows) else "no item of any skill was scored"
    told = [f"split {result['split']}, seed {result['seed']}"]
    if compared := sum(row[5] != "-" for row in rows):
        told.append(f"each interval is of its change alone; p is adjusted over all {compared} changes by Holm")
    return Shown([shown, *told], "evaluate --config evaluate.yaml", missing)


def report(result: Result, options: Result) -> Shown:
    told = f"{result['path']}: {result['pairs']} pairs, {result['clips']} clips, {result['bytes'] / 1e6:.1f} MB"
    missing = "" if result["pairs"] else "no query of this run has an answer"
    return Shown(
        [told, "Open it in a browser; it needs no network."], f"leaderboard --runs {quoted([options['run']])}", missing
    )


def arena(result: Result, options: Result) -> Shown:
    if result.get("dry_run"):
        rows = [("pairs of answers", result["pairs"]), ("judgements, in both orders", result["judgements"])]
        rows.append((f"judge {result['judge']}, US dollars", f"{result['usd']:.2f}"))
        return Shown([table(("what it would ask", ""), rows)], "arena ..., without --dry_run")
    counts = ("wins", "losses", "both_good", "both_bad")
    rows = [
        (r["system"], with_ends(r["strength"], r["ci95"], 0), with_ends(r["elo"], None, 0), *(r[c] for c in counts))
        for r in result["systems"]
    ]
    shown = table(("system", "strength [95 %]", "Elo", "won", "lost", "both good", "both bad"), rows)
    told = [f"{result['games']} games over {result['queries']} queries; verdicts: {counted(result['verdicts'])}"]
    told.append(clustered(result["clusters"]))
    chances = result["equal_p"] if isinstance(result["equal_p"], list) else [result["equal_p"]]
    told += [f"strengths would differ so much with p = {p:.2g} if all were equal" for p in chances if p is not None]
    if bias := result["position_bias"]:
        both = f"first {bias['first']}, second {bias['second']}"
        said = f"won both times, of {bias['pairs']} pairs heard in both orders: {both}"
        told.append(said if bias["p"] is None else f"{said} (p = {bias['p']:.2g} by chance)")
    told += alphas(result)
    for key in ("by_level", "by_topic"):
        for name, part in result.get(key, {}).items():
            order = ", ".join(f"{r['system']} {r['elo']:.0f}" for r in part["systems"])
            told.append(f"{name} ({part['games']} games), Elo: {order}")
    if page := result.get("page"):
        told.append(f"to listen to: {page['path']} ({page['games']} games, {page['bytes'] / 1e6:.1f} MB)")
    if (listeners := result.get("listeners")) and listeners["n"]:
        kappa = with_ends(listeners["kappa"], listeners["kappa_ci95"])
        told.append(
            f"agreement with the other battles: {listeners['agreement']:.3f}, kappa {kappa}, n {listeners['n']} "
            f"meetings, {listeners['n_votes']} votes"
        )
        told += alphas(listeners)
    told.append(f"records: {options['out']}")
    again = (
        f"annotate --manifest QUERIES --runs {quoted(options.get('runs') or ['RUN'])} --out choices.jsonl --pairwise"
    )
    return Shown([shown, *told], again, "" if result["games"] else "no battle was played")


def alphas(found: Result) -> list[str]:
    """What is told of judges, or listeners, who decided the same meetings; nothing where no two did."""
    if not (told := found.get("between_judges")):
        return []
    alpha = with_ends(told["alpha"], told["alpha_ci95"])
    return [f"Krippendorff's alpha of {told['judges']} judges: {alpha}, n {told['n']}, {told['n_votes']} votes"]


def voicebench(result: Result, options: Result) -> Shown:
    rows = [(name, f"{row['value']:.2f}", row["n"], row["n_unread"]) for name, row in result["sets"].items()]
    whole = f"{result['overall']:.2f}" if result["overall"] is not None else "not known: it needs nine sets"
    shown = table((f"{result['model']}, {result['modality']}", "figure", "n", "not read"), rows)
    missing = "" if any(row["n"] for row in result["sets"].values()) else "no answer counts"
    return Shown([shown, f"overall: {whole}"], "", missing)


def serve(result: Result, options: Result) -> Shown:
    counts = [(f"responses with {status}", count) for status, count in result["statuses"].items()]
    counts += [(f"connections ended: {why.replace('_', ' ')}", count) for why, count in result["dropped"].items()]
    names = ("accepted", "votes", "rows_a_batch", "latency_p50_seconds", "latency_p95_seconds")
    names += ("heard_seconds", "spoken_seconds", "compute_seconds", "real_time_factor")
    rows = counts + [(name.replace("_", " "), result[name]) for name in names]
    arena = f"arena --battles {options.get('battles')} --out runs/serve/arena"
    after = arena if result["votes"] else "evaluate --config evaluate.yaml"
    return Shown([table((", ".join(result["models"]), ""), rows)], after)
