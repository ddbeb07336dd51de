"""The screens of the commands that make queries: scripts, speech, recordings, demonstrations."""

from __future__ import annotations

from pathlib import Path

from lightning_paras2s.shown.screen import Result, Shown, cell, counted, table

BATCH = 8  # of grpo.yaml
UNLABELLED = "no style of ours"  # how an import counts queries that `evaluate` must hear the style of


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
    if result["providers"]["transcriber"] and result["words_unchecked"]:
        told += f"; {result['words_unchecked']} of those kept have no text, their words were not checked"
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


def import_speech(result: Result, options: Result) -> Shown:
    kept, left = result["counts"].get("kept", 0), {k: n for k, n in result["counts"].items() if k != "kept"}
    told = [f"kept {kept}; left out: {counted(left)}", f"queries: {result['manifest']}"]
    if "log" in result:  # without labels
        of = f"of {result['recordings']} recordings, {result['hours']:.3f} h; why others were left out: {result['log']}"
        if options.get("split", "test") == "test":  # which is not trained on
            again = f"evaluate --config evaluate.yaml --manifest {result['manifest']} --label_source predicted"
            return Shown([*told, of], again)
        again = f"--data.source ManifestDialogues --data.source.manifest {result['manifest']}"
        small = f" --data.batch_size {kept}" if 0 < kept < BATCH else ""  # a batch must not be larger than the set
        return Shown([*told, of], f"fit --config grpo.yaml {again}{small}")
    shown = table(("style", "queries"), list(result["by_style"].items()))
    missing = "" if kept else f"no recording was kept: {counted(left)}"
    heard = " --label_source predicted" if UNLABELLED in result["by_style"] else ""
    again = f"evaluate --config evaluate.yaml --manifest {result['manifest']}{heard}"
    return Shown([shown, *told], again, missing)
