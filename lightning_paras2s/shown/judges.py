"""The screens of the commands that measure the judge: against people, and by what its ears listen to."""

from __future__ import annotations

from lightning_paras2s.shown.screen import Result, Shown, cell, quoted, table, with_ends


def agreement(result: Result, options: Result) -> Shown:
    rows = []
    for name, row in result.items():
        if isinstance(row, dict) and "alpha" in row:
            judge = with_ends(row.get("pearson"), row.get("pearson_ci95"))
            rest = (row.get(key) for key in ("pearson_ceiling", "spearman", "kappa", "bias", "mae"))
            rows.append((name, row.get("n"), cell(row["alpha"]), judge, *map(cell, rest)))
    heads = ("", "n", "alpha", "Pearson [95 %]", "a person's", "Spearman", "kappa", "bias", "error")
    shown = table(heads, rows, f"{result['judge']} and {result['annotators']} listeners")
    people = [
        (name, row["n"], cell(row["mean"]), cell(row["pearson"]), cell(row["bias"]))
        for name, row in result["raters"].items()
    ]
    listeners = table(("listener", "n", "mean", "Pearson with the others", "bias"), people)
    whole = result["overall"]
    told = f"the listeners' alpha: {whole['listeners']}; {whole['n_unjudged']} rated answers have no score of the judge"
    return Shown([shown, listeners, told], f"leaderboard --runs {quoted(options['runs'])}")


def leakage(result: Result, options: Result) -> Shown:
    words = ("agree", "mislead", "neutral")
    rows = [
        (name, *(with_ends(found[w].get("value"), found[w].get("ci95")) for w in words))
        for part in ("macro_accuracy", "differences")
        for name, found in result[part].items()
    ]
    shown = table(("accuracy where words", "agree", "mislead", "are neutral"), rows)
    told = f"{result['n']} recordings ({result['texts']}), seed {result['seed']}; a deaf analyser's three are alike"
    return Shown([shown, told], "judge_table", "" if result["n"] else "no recording was named")


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
